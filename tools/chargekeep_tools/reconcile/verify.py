"""What a station sent, taken apart and checked: signature, form, chain.

One signature for the batches that a station sent in a row and one SHA-256 a slot
(firmware/FORMATS.md sections 4 and 5). Written from that page alone, on other libraries than the
firmware.
"""

import logging
import os
import re
import struct
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from operator import itemgetter
from typing import Any, NamedTuple
from zlib import crc32

import cbor2
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from chargekeep_tools import wire
from chargekeep_tools.codes import ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.log import slots
from chargekeep_tools.wire import WireError

_PAYLOAD = 48
_REPEATED = 12  # slots of the longest record
_KEYED = struct.Struct(f"<16s8sH{2 + _PAYLOAD}s").pack  # what a slot's link is the hash of
_JOINED, _MOVED, _TYPE = 0x60, 0x80, 0x1F  # "joined": repeated as well
_FIRST, _LAST, _LENGTH = 0x40, 0x80, 0x3F
_KIND, _FLAGS = itemgetter(0), itemgetter(1)  # of a slot in short form
_ENDS = bytes(flags & (_FIRST | _LAST) for flags in range(256))
_RECORDS = re.compile(rb"(\xc0|\x40\x00*\x80)*").fullmatch
_PLAIN = bytes(kind for kind in range(256) if not kind & _JOINED)
_MAX_SEQ = 0xFFFFFF00
_MAX_SECTOR = 1 << 20  # 120 years of a record a minute; each costs a key
_LINK = 8
_UNKNOWN_LINK = bytes(_LINK)
_BEFORE, _NO_NAME = 15, bytes(wire.BATCH_NAME)

OBJECT_FORM = 106
REVOKED = 118
LEDGER_CORRUPT = 503
LEDGER_TAMPERED = 510

log_ = logging.getLogger(__name__)


class Record(NamedTuple):
    """`at`: seq of its first slot; `seq`: the same, or what it was before thinning moved it."""

    at: int
    seq: int
    type: int
    payload: bytes

    @property
    def moved(self) -> bool:
        return self.at != self.seq


class Batch(NamedTuple):
    """A verified batch. Slots `first` to `last` follow on without a gap.

    follows: the slot before `first` in the station's ledger; less than `first - 1` where slots
    between are gone there. link_before is None where the station does not know it. links: of each
    slot, 8 bytes.
    """

    site: str
    station: str
    log_id: bytes
    first: int
    last: int
    follows: int
    link_before: bytes | None
    links: bytes
    data: bytes

    def link(self, seq: int) -> bytes:
        """The link of slot `seq`, which is in the batch."""
        at = _LINK * (seq - self.first)
        return self.links[at : at + _LINK]


class SealKeys(slots.Keys):
    """The chain's keys of one log, remembered: a batch's slots share a sector or two."""

    def __init__(self, first: bytes) -> None:
        super().__init__(first)
        self._links: dict[int, bytes] = {}

    def link_key(self, epoch: int) -> bytes:
        found = self._links.get(epoch)
        if found is None:
            found = self._links[epoch] = super().link_key(epoch)
        return found


@dataclass
class Station:
    """Who may speak as this station, and on which logs; from the home's record."""

    site: str
    station: str
    keys: dict[bytes, bytes]  # kid to public key
    logs: dict[bytes, SealKeys | None] = field(default_factory=dict)
    frames: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)  # `wire.frame`, key
    revoked: set[bytes] = field(default_factory=set)  # logs from which nothing more is taken

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Station":
        found = cls(record["site"], record["station"], {})
        for era in (record, *record.get("former", ())):
            found.keys[bytes.fromhex(era["kid"])] = bytes.fromhex(era["public_key"])
            seal = era.get("seal_key")
            log_id = bytes.fromhex(era["log_id"])
            found.logs[log_id] = SealKeys(bytes.fromhex(seal)) if seal else None
            if era.get("revoked"):
                found.revoked.add(log_id)
        for kid, public_key in found.keys.items():
            found.frames.append((*wire.frame(wire.BATCH, kid), public_key))
        return found

    def key_for(self, kid: bytes, content_type: int) -> bytes | None:
        return self.keys.get(kid)


class Stations:
    """The stations of a home directory; looks now and then whether one is new or was revoked."""

    _LOOK_AGAIN_S = 5.0
    _SETTLED_NS = 10**9  # two changes within a tick of the file system's clock look like one

    def __init__(self, home: Home) -> None:
        self.home = home
        self.known: dict[tuple[str, str], Station] = {}
        self._files: dict[str, tuple[list[int], Station | None]] = {}  # and what tells a change
        self._looked = -self._LOOK_AGAIN_S
        self._stamp = -1

    def get(self, site: str, station: str) -> Station | None:
        now = time.monotonic()
        if now - self._looked >= self._LOOK_AGAIN_S:
            self._looked = now
            if self._stamp != self._changed():
                self.refresh()
        return self.known.get((site, station))

    def _changed(self) -> int:
        try:
            return self.home.stations_folder.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def refresh(self) -> None:
        """Read the records that are new or have changed; forget those that are gone."""
        stamp = self._changed()
        self._stamp = stamp if time.time_ns() - stamp > self._SETTLED_NS else -1
        if not stamp:
            return
        with os.scandir(self.home.stations_folder) as entries:
            found = {entry.name: entry.stat() for entry in entries if entry.name[-5:] == ".json"}
        for name, status in found.items():
            self._read(name, status)
        for name in self._files.keys() - found:
            self._forget(name)

    def look_again(self, site: str, station: str) -> Station | None:
        """As `get`, but sure to know what is on the disk; costs a look at one file."""
        name = f"{station}.json"
        if name in self._files:  # no other name gets near a path
            try:
                self._read(name, (self.home.stations_folder / name).stat())
            except FileNotFoundError:
                self._forget(name)
        return self.known.get((site, station))

    def _read(self, name: str, status: os.stat_result) -> None:
        stamp = [status.st_mtime_ns, status.st_size, status.st_ino]
        before = self._files.get(name)
        if before is not None and before[0] == stamp:
            return
        station = None
        try:
            station = Station.of(self.home.read_json(self.home.stations_folder / name))
        except (ToolError, LookupError, TypeError, ValueError) as error:
            log_.error("%s: %r; what was known before holds", name, error)
            if before is not None:
                station = before[1]
        else:
            self._forget(name)
            self.known[station.site, station.station] = station
        self._files[name] = stamp, station

    def _forget(self, name: str) -> None:
        _, station = self._files.pop(name, (None, None))
        if station is not None:
            self.known.pop((station.site, station.station), None)


def station_of(stations: Stations, topic: str) -> Station:
    """The station whose topic it is. Raises `WireError` where none is."""
    try:
        _, _, site, name, *_ = topic.split("/")
    except ValueError:
        raise WireError(wire.COSE_UNKNOWN_KID, f"no station's topic: {topic}") from None
    station = stations.get(site, name)
    if station is None:
        raise WireError(wire.COSE_UNKNOWN_KID, f"no station {site}/{name}")
    return station


def genesis(log_id: bytes) -> bytes:
    """The link before the first slot of a log."""
    return sha256(log_id).digest()[:8]


def open_batch(data: bytes, station: Station) -> Batch:
    """Verify everything about a batch that can be said without the history before it.

    Raises `WireError`: COSE_* for the signature, OBJECT_FORM for the shape or another station's
    name, LEDGER_CORRUPT for half a record, LEDGER_TAMPERED for a slot that is not in the chain.
    """
    return read_batch(_signed(data, station, set()), data, station)


def open_batches(messages: Sequence[tuple[str, bytes]], stations: Stations) -> list[Batch | None]:
    """Verify `messages`, each a topic and a payload, in the order in which they came.

    None for what `open_batch` refuses, and where the chain cannot be checked yet.
    """
    signed: list[tuple[Station, Any] | None] = []
    named: defaultdict[tuple[str, str], set[bytes]] = defaultdict(set)
    for topic, payload in reversed(messages):  # a batch names the one before it
        try:
            station = station_of(stations, topic)
            body = _signed(payload, station, named[station.site, station.station])
            signed.append((station, body))
        except ValueError:
            signed.append(None)
    found: list[Batch | None] = []
    for (_, payload), one in zip(messages, reversed(signed), strict=True):
        batch = None
        if one is not None:
            station, body = one
            with suppress(WireError):
                batch = read_batch(body, payload, station)
                # Without its seal key the chain was not checked; it may be there by now.
                batch = batch if station.logs.get(batch.log_id) else None
        found.append(batch)
    return found


def _signed(data: bytes, station: Station, named: set[bytes]) -> Any:
    """The payload of a batch that is the station's own. Raises `WireError`.

    named: what batches of this station that were found to be its own call the ones before them.
    Such a one needs no look at its signature, for theirs covers its hash. What this batch names
    is added.
    """
    body = _signed_fast(data, station, named)
    if body is None:  # not as our firmware writes it, or false: say why
        body = wire.open_batch(data, station.key_for)
    with suppress(AttributeError, TypeError):  # in a form that `read_batch` refuses
        named.add(body.get(_BEFORE))
    return body


def _signed_fast(data: bytes, station: Station, named: set[bytes]) -> Any:
    """What `wire.open_batch` gives, for a message whose frame is byte for byte the expected one.

    Which proves its encoding without decoding it; five times faster. None if anything differs.
    """
    for prefix, signed, public_key in station.frames:
        if not data.startswith(prefix):
            continue
        payload = data[wire.BATCH_AT :]
        digest = sha256(payload).digest()
        hashed = b"\x58\x22\x58\x20" + digest
        frame = prefix + hashed + b"\x58\x40"
        signature = data[len(frame) : wire.BATCH_AT]
        if not data.startswith(frame) or len(frame) + 64 != wire.BATCH_AT:
            return None
        try:
            if digest[: wire.BATCH_NAME] not in named:
                crypto_sign_open(signature + signed + hashed, public_key)
            body = cbor2.loads(payload)
        except (BadSignatureError, *wire.UNDECODABLE):
            return None
        # What cbor2 read in order and would write the same is deterministic (RFC 8949 section
        # 4.2.1), but for the order of keys; there is one map.
        if type(body) is not dict or set(map(type, body)) != {int}:
            return None
        if list(body) != sorted(body) or min(body) < 0:
            return None
        return body if cbor2.dumps(body) == payload else None
    return None


def read_batch(body: Any, data: bytes, station: Station) -> Batch:
    """`open_batch` for the payload of a message whose signature was verified before."""
    try:
        site, name, log_id = body[2], body[3], body[10]
        first, before, runs = body[11], body[12], body[13]
        follows = body.get(14, first - 1)
        named = body.get(_BEFORE, _NO_NAME)
        sound = (
            type(first) is int
            and type(follows) is int
            and 0 <= follows < first <= _MAX_SEQ
            and type(before) is bytes
            and len(before) == _LINK
            and type(log_id) is bytes
            and len(log_id) == 16
            and type(named) is bytes
            and len(named) == wire.BATCH_NAME
        )
    except (TypeError, LookupError, AttributeError):
        raise WireError(OBJECT_FORM, "batch") from None
    if not sound:
        raise WireError(OBJECT_FORM, "batch")
    if (site, name) != (station.site, station.station):
        raise WireError(OBJECT_FORM, f"signed as {site}/{name}")
    links = _links(runs, first, before, station.logs.get(log_id))
    last = first + len(links) // _LINK - 1
    known = None if before == _UNKNOWN_LINK else before
    return Batch(site, name, log_id, first, last, follows, known, links, data)


def _links(runs: Any, first: int, before: bytes, seal: SealKeys | None) -> bytes:
    """The link of each slot, the chain checked; and that the slots are whole records."""
    links = flags = b""
    link = before
    if type(runs) is not list or not runs:
        raise WireError(OBJECT_FORM, "runs")
    for run in runs:
        sector, found, end = _run(run)
        if link == _UNKNOWN_LINK and len(found) > 1:
            raise WireError(OBJECT_FORM, "a first slot without a link")
        flags += bytes(map(_FLAGS, found))
        if seal is None or link == _UNKNOWN_LINK:
            links += link * (len(found) - 1) + end
        else:
            links += _chain(seal, sector, first + len(links) // _LINK, found, link, end)
        link = end
    if not _RECORDS(flags.translate(_ENDS)):
        raise WireError(LEDGER_CORRUPT, "half a record")
    return links


def _run(run: Any) -> tuple[int, list[bytes], bytes]:
    """(sector, slots in short form, link of the last) of a run."""
    if type(run) is not list or len(run) != 4:
        raise WireError(OBJECT_FORM, "run")
    sector, index, data, link = run
    if (
        type(sector) is not int
        or type(index) is not int
        or type(data) is not bytes
        or type(link) is not bytes
        or len(link) != _LINK
        or not 0 < sector <= _MAX_SECTOR
        or index < 0
    ):
        raise WireError(OBJECT_FORM, "run")
    found = []
    at, size = 0, len(data)
    while at < size - 2:
        length = data[at + 1] & _LENGTH
        if not 0 < length <= _PAYLOAD:
            break
        end = at + 2 + length
        found.append(data[at:end])
        at = end
    if at != size or not found or index + len(found) > slots.SLOTS:
        raise WireError(OBJECT_FORM, "slots")
    return sector, found, link


def _chain(
    seal: SealKeys, sector: int, seq: int, found: list[bytes], before: bytes, end: bytes
) -> bytes:
    """The links of the slots of a run; the last must be `end`."""
    if bytes(map(_KIND, found)).translate(None, _PLAIN):
        # How a slot was programmed is not part of the chain.
        found = [bytes((slot[0] & ~_JOINED,)) + slot[1:] for slot in found]
    own = seal.link_key(sector)
    links = _linked(own, before, seq, found)
    if links[-_LINK:] == end:
        return links
    # What a power cut made the ledger repeat in a new sector keeps the links of the one before.
    key = seal.link_key(sector - 1)
    for repeated in range(1, min(len(found), _REPEATED) + 1):
        links = _linked(key, before, seq, found[:repeated])
        links += _linked(own, links[-_LINK:], seq + repeated, found[repeated:])
        if links[-_LINK:] == end:
            return links
    raise WireError(LEDGER_TAMPERED, f"the chain does not lead from slot {seq} to its end")


def _linked(key: bytes, link: bytes, seq: int, found: list[bytes]) -> bytes:
    """The links of slots that follow the one with `link`. Most of a batch's time is spent here."""
    links = b""
    for number, slot in enumerate(found, seq):
        link = sha256(_KEYED(key, link, number & 0xFFFF, slot)).digest()[:_LINK]
        links += link
    return links


def _records(runs: list[Any], seq: int) -> list[Record]:
    found: list[Record] = []
    start = seq
    parts: list[bytes] = []
    for run in runs:
        for slot in _run(run)[1]:
            if slot[1] & _FIRST:
                start, parts = seq, []
            parts.append(slot[2:])
            if slot[1] & _LAST:
                found.append(_record(start, slot[0], b"".join(parts)))
            seq += 1
    return found


def records_of(data: bytes) -> list[Record]:
    """The records of a batch that `open_batch` accepted."""
    body = cbor2.loads(data[wire.BATCH_AT :])
    return _records(body[13], body[11])


def head_message(log_id: bytes, seq: int, link: bytes) -> bytes:
    """What a station signs in a head record (FORMATS.md section 4)."""
    return b"chargekeep head 1" + log_id + struct.pack("<I", seq) + link


def expand(body: dict[int, Any], station: Station) -> dict[int, Any]:
    """A batch's payload with its runs `[sector, first index, slots as stored in flash]`.

    Everything that the short form leaves out follows from the rest: sequence numbers, padding,
    links and checksums. Raises what `read_batch` does.
    """
    batch = read_batch(body, b"", station)
    log_crc = crc32(body[10])
    seq = body[11]
    full = []
    for run in body[13]:
        sector, found, _ = _run(run)
        seed = crc32(struct.pack("<I", sector), log_crc)
        data = b""
        for i, short in enumerate(found):
            slot = struct.pack("<H50s8s", seq & 0xFFFF, short, batch.link(seq))
            data += slot + struct.pack("<I", crc32(slot, seed ^ (run[1] + i)))
            seq += 1
        full.append([sector, run[1], data])
    return body | {13: full}


def _record(start: int, kind: int, payload: bytes) -> Record:
    if kind & _MOVED:
        before, payload = int.from_bytes(payload[:4], "little"), payload[4:]
        return Record(start, before, kind & _TYPE, payload)
    return Record(start, start, kind & _TYPE, payload)
