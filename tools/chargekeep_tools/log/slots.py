"""Slots and sector headers of firmware/FORMATS.md section 4, written from that page alone."""

import hashlib
import hmac
import struct
import zlib
from dataclasses import dataclass, field
from functools import cached_property

SECTOR = 4096
HEADER = 256
PREFIX = 32
SLOT = 64
SLOTS = 60
PAYLOAD = 48
LINK = 8
MAJOR = 1

COUNTER = 14
ACKNOWLEDGED = 11
_POLYNOMIAL = 0xEDB88320


def correct(data: bytes, crc: int) -> bytes | None:
    """`data` (which ends with its CRC-32) with the one bit put right that is wrong, or None.

    `crc` is what the data gives now. CRCs are linear: the difference tells which bit it is.
    """
    difference = crc ^ int.from_bytes(data[-4:], "little")
    if difference.bit_count() == 1:
        return data[:-4] + crc.to_bytes(4, "little")
    step = _POLYNOMIAL
    for bit in range(8 * (len(data) - 4) - 1, -1, -1):
        if step == difference:
            fixed = bytearray(data)
            fixed[bit // 8] ^= 1 << bit % 8
            return bytes(fixed)
        step = step >> 1 ^ (_POLYNOMIAL if step & 1 else 0)
    return None


def slot_seed(log_id: bytes, sector_seq: int) -> int:
    return zlib.crc32(struct.pack("<I", sector_seq), zlib.crc32(log_id))


@dataclass(frozen=True)
class Slot:
    """One valid slot: `data` 64 bytes with any flipped bit put right."""

    sector: int
    index: int
    seq: int
    data: bytes
    corrected: bool = False

    @property
    def type(self) -> int:
        return self.data[2] & 0x1F

    @property
    def repeated(self) -> bool:
        return bool(self.data[2] & 0x20)

    @property
    def joined(self) -> bool:
        return bool(self.data[2] & 0x40)

    @property
    def moved(self) -> bool:
        return bool(self.data[2] & 0x80)

    @property
    def first(self) -> bool:
        return bool(self.data[3] & 0x40)

    @property
    def last(self) -> bool:
        return bool(self.data[3] & 0x80)

    @property
    def payload(self) -> bytes:
        return self.data[4 : 4 + (self.data[3] & 0x3F)]

    @property
    def link(self) -> bytes:
        return self.data[52:60]

    def expected_link(self, link_key: bytes, before: bytes) -> bytes:
        body = bytearray(self.data[:52])
        body[2] &= 0x9F
        return hashlib.sha256(link_key + before + body).digest()[:LINK]


def parse_slot(
    data: bytes, seed: int, sector: int, index: int, near_seq: int, repair: bool = True
) -> Slot | None:
    """The slot in 64 bytes, or None. `near_seq`: a seq within 2^15 of the slot's."""
    corrected = False
    crc = zlib.crc32(data[:60], seed ^ index)
    if crc != int.from_bytes(data[60:], "little"):
        fixed = correct(data, crc) if repair else None
        if fixed is None:
            return None
        data, corrected = fixed, True
    length = data[3] & 0x3F
    if not 0 < length <= PAYLOAD or not (data[3] & 0x80 or length == PAYLOAD):
        return None
    seq = near_seq + ((int.from_bytes(data[:2], "little") - near_seq + 0x8000) & 0xFFFF) - 0x8000
    return Slot(sector, index, seq, data, corrected) if seq > 0 else None


@dataclass(frozen=True)
class Header:
    """A sector header; `data` 256 bytes with any flipped bit put right."""

    data: bytes
    corrected: bool = False
    version: int = field(init=False)
    seq: int = field(init=False)
    first: int = field(init=False)
    log_id: bytes = field(init=False)
    sectors: int = field(init=False)
    erases: int = field(init=False)
    acknowledged: int = field(init=False)
    tail: int = field(init=False)
    epoch: int = field(init=False)
    link: bytes = field(init=False)
    counters: tuple[int, ...] = field(init=False)
    close: bytes = field(init=False)

    def __post_init__(self) -> None:
        d = self.data
        values: dict[str, object] = {"version": d[3], "log_id": d[12:28], "link": d[56:64]}
        values["seq"], values["first"] = struct.unpack_from("<II", d, 4)
        names = ("sectors", "erases", "acknowledged", "tail", "epoch")
        values.update(zip(names, struct.unpack_from("<HxxIIII", d, 32)))
        values["counters"] = struct.unpack_from("<16I", d, 64)
        values["close"] = d[160:192]
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def authentic(self, key: bytes) -> bool:
        mac = hmac.digest(key, self.data[:220], "sha256")
        return hmac.compare_digest(mac, self.data[220:252])


def parse_header(data: bytes) -> Header | None:
    """The header in the first 256 bytes of a sector, or None."""
    data = data[:HEADER]
    corrected = False
    crc = zlib.crc32(data[:252])
    if crc != int.from_bytes(data[252:], "little"):
        fixed = correct(data, crc)
        if fixed is None:
            return None
        data, corrected = fixed, True
    if data[:3] != b"CKL" or data[3] >> 4 != MAJOR:
        return None
    if zlib.crc32(data[:28]) != int.from_bytes(data[28:32], "little"):
        return None
    return Header(data, corrected)


MAX_EPOCH = 1 << 22  # 64 sectors worn out at 65,536 erases each; more is a forgery
_KEPT = 256  # epochs from one key that is remembered to the next


class Keys:
    """The seal keys of all epochs from the key of epoch 0 (32 bytes) on."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("a seal key has 32 bytes")
        self._kept = [key]
        self._last = (0, key)

    def at(self, epoch: int) -> bytes:
        """The key of `epoch`; raises ValueError beyond MAX_EPOCH."""
        if not 0 <= epoch <= MAX_EPOCH:
            raise ValueError(f"epoch {epoch}")
        at, key = self._last
        if at > epoch or epoch - at > _KEPT:
            start = min(epoch // _KEPT, len(self._kept) - 1)
            at, key = start * _KEPT, self._kept[start]
        while at < epoch:
            key = hmac.digest(key, b"evolve", "sha256")
            at += 1
            if at == len(self._kept) * _KEPT:
                self._kept.append(key)
        self._last = (epoch, key)
        return key

    def link_key(self, epoch: int) -> bytes:
        return hmac.digest(self.at(epoch), b"link", "sha256")[:16]

    def close(self, epoch: int, last_seq: int, link: bytes) -> bytes:
        message = b"close" + struct.pack("<I", last_seq) + link
        return hmac.digest(self.at(epoch), message, "sha256")


@dataclass(frozen=True)
class LogId:
    """What the chain of a log begins from."""

    value: bytes

    @cached_property
    def genesis(self) -> bytes:
        return hashlib.sha256(self.value).digest()[:LINK]
