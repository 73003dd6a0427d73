# A sector's first page: what the ring needs to go on from this sector alone. Its first 32 bytes
# find it in a scan and keep their layout in every version. FORMATS.md section 4 has the table.

import struct
from binascii import crc32

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.hmac256 import hmac_sha256
from chargekeep.ledger.record import correct

SIZE = const(256)
PREFIX = const(32)  # bytes with their own checksum
COUNTERS = const(16)
VERSION = const(0x10)  # major and minor nibble; a reader takes any minor of its major

_MAGIC = b"CKL"
_PREFIX = "<3sBII16sI"  # magic, version, sector seq, first seq, log id, CRC-32
_BODY_AT = const(32)
_BODY = "<HHIIII4s8s"  # sectors, 0, erases, acknowledged, tail, key epoch, 0, link
_COUNTERS_AT = const(64)
_BAD_AT = const(128)  # one bit a sector
_CLOSE_AT = const(160)
_RESERVED_AT = const(192)
_MAC_AT = const(220)
_CRC_AT = const(252)


def prefix(data):
    """`(version, sector seq, first record seq, log id)` of a 32-byte bytearray, or None.

    One wrong bit is put right.
    """
    view = memoryview(data)
    crc = crc32(view[: PREFIX - 4])
    if crc != struct.unpack_from("<I", data, PREFIX - 4)[0]:
        # only what still looks like a header is worth the search
        if _likeness(data) < 2 or not correct(data, PREFIX - 4, crc):
            return None
    magic, version, seq, first, log_id, _ = struct.unpack_from(_PREFIX, data)
    return (version, seq, first, log_id) if magic == _MAGIC and seq else None


def _likeness(data):
    return sum([data[i] == _MAGIC[i] for i in range(3)])


class Header:
    """A sector header as values. Integers are u32; `bad` is a 32-byte bitmap of worn sectors."""

    def __init__(self, log_id, sectors):
        self.version = VERSION
        self.log_id = log_id
        self.sectors = sectors
        self.seq = 0
        self.first = 1
        self.erases = 0
        self.acknowledged = 0
        self.tail = 1
        self.epoch = 0
        self.link = bytes(8)
        self.counters = [0] * COUNTERS
        self.bad = bytearray(32)
        self.close = bytes(32)

    def pack_into(self, page, key):
        """Write the 256 bytes, authenticated by the epoch's key."""
        for i in range(SIZE):
            page[i] = 0
        struct.pack_into(
            _PREFIX, page, 0, _MAGIC, self.version, self.seq, self.first, self.log_id, 0
        )
        view = memoryview(page)
        struct.pack_into("<I", page, PREFIX - 4, crc32(view[: PREFIX - 4]))
        struct.pack_into(
            _BODY,
            page,
            _BODY_AT,
            self.sectors,
            0,
            self.erases,
            self.acknowledged,
            self.tail,
            self.epoch,
            b"",
            self.link,
        )
        for i in range(COUNTERS):
            struct.pack_into("<I", page, _COUNTERS_AT + 4 * i, self.counters[i])
        page[_BAD_AT:_CLOSE_AT] = self.bad
        page[_CLOSE_AT:_RESERVED_AT] = self.close
        page[_MAC_AT:_CRC_AT] = hmac_sha256(key, bytes(view[:_MAC_AT]))
        struct.pack_into("<I", page, _CRC_AT, crc32(view[:_CRC_AT]))

    @staticmethod
    def unpack(page):
        """The header in a 256-byte bytearray, or None. One wrong bit is put right."""
        view = memoryview(page)
        crc = crc32(view[:_CRC_AT])
        if crc != struct.unpack_from("<I", page, _CRC_AT)[0]:
            if _likeness(page) < 2 or not correct(page, _CRC_AT, crc):
                return None
        magic, version, seq, first, log_id, _ = struct.unpack_from(_PREFIX, page)
        if magic != _MAGIC or not seq:
            return None
        body = struct.unpack_from(_BODY, page, _BODY_AT)
        header = Header(log_id, body[0])
        header.version, header.seq, header.first = version, seq, first
        header.erases, header.acknowledged, header.tail, header.epoch = body[2:6]
        header.link = body[7]
        header.counters = list(struct.unpack_from("<16I", page, _COUNTERS_AT))
        header.bad = bytearray(view[_BAD_AT:_CLOSE_AT])
        header.close = bytes(view[_CLOSE_AT:_RESERVED_AT])
        return header


def authentic(page, key):
    """Does the MAC of the 256 bytes hold under the epoch's key? Raises LEDGER_TAMPERED if not."""
    view = memoryview(page)
    if hmac_sha256(key, bytes(view[:_MAC_AT])) != bytes(view[_MAC_AT:_CRC_AT]):
        raise ChargekeepError(errors.LEDGER_TAMPERED, "sector header")
