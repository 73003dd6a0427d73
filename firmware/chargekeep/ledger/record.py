# The slot: 64 bytes of flash that hold one record of up to 48 bytes or a part of a longer one, its
# place in the chain and a checksum that no other sector, position or log can satisfy. FORMATS.md
# section 4 shows the layout. A single flipped bit is put right, anything more is found.

import struct
from binascii import crc32

from micropython import const

from chargekeep import cbor

SLOT = const(64)
PAYLOAD = const(48)  # bytes of a record in one slot
MAX_SLOTS = const(12)  # of a record
BODY = const(52)  # the bytes that the link covers: seq, type, length, payload
LINK_AT = const(52)
LINK = const(8)
CRC_AT = const(60)

TYPE = const(0x1F)  # of the type byte
REPEATED = const(0x20)  # in the type byte: a copy of a slot that a power cut may have weakened
JOINED = const(0x40)  # in the type byte: programmed in one operation with the slot before
MOVED = const(0x80)  # in the type byte: a record that thinning took over, see thin.py
FIRST = const(0x40)  # in the length byte
LAST = const(0x80)
LENGTH = const(0x3F)

# Record types, FORMATS.md section 4
BOOT = const(1)
TX_STARTED = const(2)
TX_UPDATED = const(3)
TX_ENDED = const(4)
METER_VALUE = const(5)
REFUSED = const(6)
CLOCK_SET = const(7)
OBJECT_ACCEPTED = const(8)
FAULT = const(9)
UNATTRIBUTED = const(10)
METER_SEGMENT = const(11)
HEAD = const(12)
THINNED = const(13)
COUNTER = const(14)

_POLYNOMIAL = const(0xEDB88320)  # CRC-32 of IEEE 802.3, reflected
ERASED = b"\xff" * SLOT
RESIDUE = const(0x2144DF1C)  # CRC-32 of whatever is followed by its CRC-32

BAD = const(0)
GOOD = const(1)
FIXED = const(2)
BLANK = const(3)


def slot_seed(log_id, sector_seq):
    """What the checksums of a sector start from; slot i continues from `seed ^ i`."""
    return crc32(struct.pack("<I", sector_seq), crc32(log_id))


def check(slot, seed):
    """GOOD, BLANK, FIXED (one bit of the 64-byte bytearray `slot` was wrong) or BAD."""
    if slot == ERASED:
        return BLANK
    if crc32(slot, seed) == RESIDUE:
        return GOOD if _plausible(slot) else BAD
    crc = crc32(memoryview(slot)[:CRC_AT], seed)
    return FIXED if correct(slot, CRC_AT, crc) and _plausible(slot) else BAD


def body(slot):
    """The decoded payload of a record in one slot."""
    return cbor.loads(slot[4 : 4 + (slot[3] & LENGTH)])


def _plausible(slot):
    length = slot[3] & LENGTH
    return 0 < length <= PAYLOAD and (slot[3] & LAST or length == PAYLOAD)


def correct(data, length, crc):
    """Put one wrong bit of `data[:length]` or of the checksum after it right; False if not one.

    `crc`: what `data[:length]` gives now. A CRC is linear: the difference tells which bit.
    """
    difference = crc ^ struct.unpack_from("<I", data, length)[0]
    if difference & (difference - 1) == 0:
        struct.pack_into("<I", data, length, crc)
        return True
    # The difference that the last bit makes, then the one before, ... in halves: 32 bits are an
    # object in the heap where integers have 31.
    top, bottom = difference >> 16, difference & 0xFFFF
    high, low = _POLYNOMIAL >> 16, _POLYNOMIAL & 0xFFFF
    for at in range(length - 1, -1, -1):
        bit = 0x80
        while bit:
            if low == bottom and high == top:
                data[at] ^= bit
                return True
            out = low & 1
            low = low >> 1 | (high & 1) << 15
            high >>= 1
            if out:
                low ^= _POLYNOMIAL & 0xFFFF
                high ^= _POLYNOMIAL >> 16
            bit >>= 1
    return False
