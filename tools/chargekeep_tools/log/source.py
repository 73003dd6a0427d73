"""Where a log comes from: a flash image, a file of uploaded batches, or a station on USB."""

import base64
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cbor2

from chargekeep_tools import rp2_image, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.log.image import Report, verify_image
from chargekeep_tools.log.records import Batch, LogError, verify_batch
from chargekeep_tools.log.slots import SECTOR, Keys, parse_header

_SIGN1_TAG = 0xD2  # how every uploaded batch begins: CBOR tag 18
_READ = """
import binascii
from chargekeep import board
device = board.open_board().ledger_device()
page = bytearray(1024)
for block in range(%d, %d):
    for offset in range(0, 4096, 1024):
        device.readblocks(block, page, offset)
        print(str(binascii.b2a_base64(page), "ascii"), end="")
"""
_BLOCKS_A_CALL = 4


@dataclass(frozen=True)
class Proof:
    """What a log is checked against; all of it may be unknown."""

    keys: Keys | None = None
    anchor: tuple[int, bytes] | None = None
    log_id: bytes | None = None
    public_key: bytes | None = None


def from_port(port: str) -> bytes:
    """The ledger's flash of the station on `port`, as an image."""
    from chargekeep_tools.device import opened

    with opened(port) as device:
        count = device.call(
            "import json\nfrom chargekeep import board\n"
            "print(json.dumps({'blocks': board.open_board().ledger_device().ioctl(4, 0)}))"
        )["blocks"]
        parts = []
        for start in range(0, count, _BLOCKS_A_CALL):
            text = device.run(_READ % (start, min(count, start + _BLOCKS_A_CALL)))
            parts += [base64.b64decode(line) for line in text.split()]
    image = b"".join(parts)
    if len(image) != count * SECTOR:
        raise ToolError(f"{port}: {len(image)} bytes of {count} sectors", Exit.TRANSFER)
    return image


def verify(data: bytes, proof: Proof) -> Report:
    """Whatever `data` is. Batches give a report without sectors."""
    if data[:1] == bytes([_SIGN1_TAG]):
        return verify_batches(data, proof)
    return verify_image(
        data,
        keys=proof.keys,
        anchor=proof.anchor,
        log_id=proof.log_id,
        public_key=proof.public_key,
    )


def split_batches(data: bytes) -> list[bytes]:
    """The messages of a CBOR sequence (RFC 8742) of batches, as they were uploaded."""
    import io

    stream = io.BytesIO(data)
    messages = []
    while stream.tell() < len(data):
        start = stream.tell()
        try:
            cbor2.load(stream)  # the signed hash
            cbor2.load(stream)
        except Exception as e:
            raise LogError("form", f"byte {start}: {e}") from e
        messages.append(data[start : stream.tell()])
    return messages


def verify_batches(data: bytes, proof: Proof) -> Report:
    """Batches in any order and as often as they came: signatures, links, overlaps, gaps."""
    report = Report(sealed=proof.keys is not None)
    batches: list[Batch] = []
    try:
        messages = split_batches(data)
    except LogError as e:
        report.problem("foreign", str(e))
        return report
    for number, message in enumerate(messages):
        try:
            body = _open(message, proof.public_key)
            batches.append(verify_batch(body, log_id=proof.log_id, keys=proof.keys))
        except wire.WireError as e:
            report.problem("signature", f"batch {number}: {e}")
        except LogError as e:
            report.problem(e.reason, f"batch {number}: {e.detail}", seq=e.seq)
    if not batches:
        return report
    if proof.public_key is None:
        report.notes.append("signatures were not checked: no public key was given")
    if len({batch.log_id for batch in batches}) > 1:
        report.problem("foreign", "batches of more than one log")
        return report
    _join(report, batches, proof)
    return report


def _open(message: bytes, public_key: bytes | None) -> dict[int, Any]:
    if public_key is not None:
        return wire.open_batch(message, lambda kid, content_type: public_key)
    content_type = wire.peek_sign1(message[: wire.BATCH_AT])[0]
    if content_type != wire.BATCH:
        raise LogError("form", f"content type {content_type}")
    return wire.peek_batch(message)


def _join(report: Report, batches: list[Batch], proof: Proof) -> None:
    batches.sort(key=lambda batch: (batch.first_seq, batch.last_seq))
    seen: dict[int, bytes] = {}
    for batch in batches:
        for record in batch.records:
            before = seen.setdefault(record.seq, record.link)
            if before != record.link:
                report.problem("link", f"two histories at seq {record.seq}", seq=record.seq)
            elif len(report.records) == 0 or record.seq > report.records[-1].seq:
                report.records.append(record)
    for a, b in pairwise(report.records):
        if b.seq != a.last_seq + 1:
            report.notes.append(f"slots {a.last_seq + 1} to {b.seq - 1} are not in these batches")
    links = {r.last_seq: r.link for r in report.records}
    for batch in batches:
        before = links.get(batch.first_seq - 1)
        if before is not None and before != batch.link_before:
            report.problem("link", f"does not continue seq {batch.first_seq - 1}")
    report.log_id = batches[0].log_id
    last = report.records[-1]
    report.head_seq, report.head_link = last.last_seq, last.link
    if proof.anchor and links.get(proof.anchor[0], proof.anchor[1]) != proof.anchor[1]:
        report.problem("anchor", f"seq {proof.anchor[0]} is not what the host has")
    if proof.anchor and proof.anchor[0] > report.head_seq:
        report.problem("anchor", f"ends at {report.head_seq}, the host has {proof.anchor[0]}")


def read(source: str, offset: int | None = None) -> bytes:
    """The bytes of a file, or of the station on a serial port (`/dev/...`, `COM3`, a link).

    Of a dump of a whole flash: the ledger in it, at `offset` or where an RP2040's image says.
    """
    path = Path(source)
    if path.is_char_device() or source.upper().startswith("COM"):
        return from_port(source)
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ToolError(
            f"{source}: {e.strerror}", Exit.USAGE, "a file, or a port such as /dev/ttyACM0"
        )
    return from_dump(data, offset)


def from_dump(flash: bytes, offset: int | None = None) -> bytes:
    """The ledger in `flash`, a file that may be more than a ledger (UF2 as well as raw).

    Without `offset` what is no dump comes back as it is. Raises USAGE for an `offset` where no
    ledger begins, VERIFY for an RP2040's flash that holds none.
    """
    if flash[:4] == b"UF2\n":
        flash = rp2_image.flash_of(flash)
    if offset is not None:
        sectors = _sectors(flash[offset:][:SECTOR]) if offset >= 0 else 0
        if not sectors or offset + sectors * SECTOR > len(flash):
            raise ToolError(f"no ledger at {offset:#x}", Exit.USAGE, "where does its flash begin?")
        return flash[offset : offset + sectors * SECTOR]
    try:
        end, storage = rp2_image.layout(flash)
    except ToolError:
        return flash
    for at in range(storage - SECTOR, end - 1, -SECTOR):
        start = storage - _sectors(flash[at:][:SECTOR]) * SECTOR
        if end <= start <= at:
            return flash[start:storage]
    raise ToolError(
        f"no ledger between the firmware's end ({end:#x}) and the file system ({storage:#x})",
        Exit.VERIFY,
        "dump the flash of a station to its end; --offset says where a ledger elsewhere begins",
    )


def _sectors(sector: bytes) -> int:
    header = parse_header(sector)
    return header.sectors if header else 0
