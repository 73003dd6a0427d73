"""Records of a ledger batch: checks what needs no key and decodes.

>>> batch = verify_batch(payload_map, link=link_of_the_last_stored_slot)
>>> for record in batch.records: ...

The batch's signature is the caller's to check first (wire.open_sign1).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chargekeep_tools import wire
from chargekeep_tools.log import slots
from chargekeep_tools.log.slots import Keys, Slot

NAMES = {
    1: "boot",
    2: "transaction started",
    3: "transaction updated",
    4: "transaction ended",
    5: "meter value",
    6: "authorization refused",
    7: "clock set",
    8: "object accepted",
    9: "fault",
    10: "unattributed energy",
    11: "meter segment",
    12: "head",
    13: "thinned",
    14: "counter",
    15: "transaction evidence",
}
"""Record type to name (FORMATS.md section 4)."""

_TX = ("tx", "seq_no", "trigger")
FIELDS = {
    1: ("reset_cause", "firmware"),
    2: (
        *("tx", "evse", "connector", "id_hash", "cti", "kid", "register_wh"),
        *("tariff", "tariff_version", "max_wh", "max_s", "max_w", "trigger"),
        # on what evidence; not in records of older firmware
        *("exp", "clock_quality", "trust", "allowlist", "revocation", "config", "hearsay"),
    ),
    3: (*_TX, "register_wh", "charging_state"),
    4: (*_TX, "reason", "register_wh"),
    5: ("register_wh", "power_w"),
    6: ("error", "id_hash", "cti", "kid"),
    7: ("old_time", "new_time", "source"),
    8: ("content_type", "version"),
    9: ("error", "count", "detail", "reply"),
    10: ("from_wh", "to_wh"),
    11: ("old_wh", "new_wh", "reason"),
    12: ("head_seq", "head_link", "signature"),
    13: ("first_seq", "last_seq", "dropped"),
    14: ("counter", "value"),
    15: ("tx", "evidence"),
}
"""What the items of each body are called, FORMATS.md section 4."""
_SEQ_MAX = 0xFFFFFFFF


def named(kind: int, body: Sequence[Any]) -> dict[str, Any]:
    """The body of a record by the names of its items, as many as there are."""
    return dict(zip(FIELDS.get(kind, ()), body, strict=False))


def spoken(fields: dict[str, Any]) -> str:
    """What `named` gives, for people."""
    return " ".join(f"{name}={'-' if item is None else item}" for name, item in fields.items())


class LogError(Exception):
    """A batch or image that does not hold.

    reason: `form`, `log_id`, `checksum`, `sequence`, `record`, `link` or `seal`; seq: where.
    """

    def __init__(self, reason: str, detail: str = "", seq: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}" + ("" if seq is None else f" (seq {seq})"))
        self.reason = reason
        self.detail = detail
        self.seq = seq


@dataclass(frozen=True)
class Record:
    """One record. `seq` is that of its first slot, `last_seq` and `link` of its last."""

    seq: int
    last_seq: int
    type: int
    time: int | None
    quality: int
    boot_id: int
    uptime_s: int
    body: list[Any]
    payload: bytes = field(repr=False)
    link: bytes
    moved_from: int | None = None

    @property
    def identity(self) -> int:
        """The seq that tells whether this record is known: the one before it was moved, if so."""
        return self.seq if self.moved_from is None else self.moved_from

    @property
    def name(self) -> str:
        return NAMES.get(self.type, f"type {self.type}")

    @property
    def fields(self) -> dict[str, Any]:
        """The body by the names of its items, as many as there are."""
        return named(self.type, self.body)

    @property
    def digest(self) -> bytes:
        """SHA-256 of type and payload: one seq has one of them."""
        return hashlib.sha256(bytes([self.type]) + self.payload).digest()


@dataclass(frozen=True)
class Batch:
    """A whole batch: slots `first_seq` to `last_seq` without a gap; `link` is the last one's."""

    log_id: bytes
    first_seq: int
    last_seq: int
    link_before: bytes
    link: bytes
    records: list[Record]


def decode(parts: Sequence[Slot]) -> Record:
    """The record in its slots. Raises LogError `record`."""
    head = parts[0]
    payload = b"".join(part.payload for part in parts)
    moved_from = None
    if head.moved:
        moved_from, payload = int.from_bytes(payload[:4], "little"), payload[4:]
    try:
        value = wire.loads(payload)
    except wire.WireError as e:
        raise LogError("record", str(e), head.seq) from e
    if not isinstance(value, list) or len(value) < 4 or not _stamp(value[:4]):
        raise LogError("record", "no time stamp", head.seq)
    time, quality, boot_id, uptime_s = value[:4]
    return Record(
        seq=head.seq,
        last_seq=parts[-1].seq,
        type=head.type,
        time=time,
        quality=quality,
        boot_id=boot_id,
        uptime_s=uptime_s,
        body=value[4:],
        payload=payload,
        link=parts[-1].link,
        moved_from=moved_from,
    )


def _stamp(stamp: list[Any]) -> bool:
    time, *rest = stamp
    return (time is None or type(time) is int) and all(type(v) is int and v >= 0 for v in rest)


def whole_records(parts: Iterable[Slot]) -> Iterable[list[Slot] | Slot]:
    """Group slots of one seq order into records; a slot of an incomplete record comes alone."""
    pending: list[Slot] = []
    for slot in parts:
        follows = pending and slot.seq == pending[-1].seq + 1
        if slot.first or not follows or slot.data[2] & 0x9F != pending[0].data[2] & 0x9F:
            yield from pending
            pending = []
            if not slot.first:
                yield slot
                continue
        pending.append(slot)
        if slot.last:
            yield pending
            pending = []
    yield from pending


def verify_batch(
    batch: dict[int, Any],
    *,
    link: bytes | None = None,
    log_id: bytes | None = None,
    keys: Keys | None = None,
) -> Batch:
    """Check the payload map of a ledger batch (FORMATS.md section 5) and decode its records.

    link: of the slot before the batch, where the host has that slot; the batch must continue it.
    log_id: what it must be. keys: check each link as well. Raises LogError; nothing of a batch
    that does not hold is to be used.
    """
    found, first, before, runs = (batch.get(key) for key in (10, 11, 12, 13))
    if not isinstance(found, bytes) or len(found) != 16 or type(first) is not int:
        raise LogError("form", "log id or seq")
    if not isinstance(before, bytes) or len(before) != slots.LINK or not isinstance(runs, list):
        raise LogError("form", "link or runs")
    if not 0 < first <= _SEQ_MAX or not runs:
        raise LogError("form", "seq or no runs")
    if log_id is not None and found != log_id:
        raise LogError("log_id", found.hex())
    if link is not None and before != link:
        raise LogError("link", "does not continue what the host has", first)
    stored = list(_slots_of(found, first, runs))
    if keys is not None:
        check_links(stored, before, keys)
    records = []
    for parts in whole_records(stored):
        if isinstance(parts, Slot):
            raise LogError("record", "incomplete", parts.seq)
        records.append(decode(parts))
    return Batch(found, first, stored[-1].seq, before, stored[-1].link, records)


def _slots_of(log_id: bytes, seq: int, runs: list[Any]) -> Iterable[Slot]:
    place = (0, -1)
    for run in runs:
        if not isinstance(run, list) or len(run) != 3:
            raise LogError("form", "run")
        sector, index, data = run
        if type(sector) is not int or type(index) is not int or not isinstance(data, bytes):
            raise LogError("form", "run")
        count, rest = divmod(len(data), slots.SLOT)
        if rest or not count or not 0 <= index <= slots.SLOTS - count or not 0 < sector < 1 << 32:
            raise LogError("form", "run")
        if (sector, index) <= place:
            raise LogError("sequence", "runs out of order", seq)
        seed = slots.slot_seed(log_id, sector)
        for i in range(count):
            part = data[i * slots.SLOT : (i + 1) * slots.SLOT]
            slot = slots.parse_slot(part, seed, sector, index + i, seq, repair=False)
            if slot is None:
                raise LogError("checksum", f"sector {sector} slot {index + i}", seq)
            if slot.seq != seq:
                raise LogError("sequence", f"slot says {slot.seq}", seq)
            yield slot
            seq += 1
        place = (sector, index + count - 1)


def check_links(stored: Iterable[Slot], before: bytes, keys: Keys) -> None:
    """Every link of slots that follow on from `before`. Raises LogError `link`."""
    for slot in stored:
        # A slot that a power cut made the ledger repeat in a new sector keeps its old link.
        epochs = (slot.sector, slot.sector - 1)
        if all(slot.link != slot.expected_link(keys.link_key(e), before) for e in epochs):
            raise LogError("link", "not what the chain gives", slot.seq)
        before = slot.link
