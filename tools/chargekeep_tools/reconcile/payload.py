"""What is in a record (firmware/FORMATS.md section 4): its payload, read and checked.

What passes can be stored and reckoned with; anything else is refused whoever signed it.
"""

import re
from typing import Any

import cbor2

from chargekeep_tools import wire

TX_STARTED, TX_UPDATED, TX_ENDED, CLOCK_SET, METER_SEGMENT = 2, 3, 4, 7, 11
HEAD, THINNED, EVIDENCE = 12, 13, 15
NEWEST_TYPE = 15
STAMP = 4  # elements of a payload before its body: time, quality, boot id, uptime

_PLAIN = frozenset((int, bytes, str, bool, type(None)))
_WIDE = re.compile(rb"[\x1b\x3b\xc2\xc3]")  # where integers of 64 bits and more begin

# Of each element, in order: n number, N number or null, c smaller number (a code, say), q quality
# of a time, b bytes, B bytes or null.
_STAMP_SHAPE = "Nqnn"
_SHAPES = {
    TX_STARTED: "nccBBBNnnnnnc",
    TX_UPDATED: "nccNc",
    TX_ENDED: "ncccN",
    CLOCK_SET: "",
    METER_SEGMENT: "nn",
    HEAD: "nbb",
    EVIDENCE: "nb",
}
INTERPRETED = frozenset(_SHAPES)
_TYPES = {"n": int, "N": int, "c": int, "q": int, "b": bytes, "B": bytes}
_BELOW = {"n": 1 << 40, "N": 1 << 40, "c": 1 << 31, "q": 4}  # a price of any of these fits


def read(kind: int, data: bytes) -> tuple[list[Any], list[Any]]:
    """Stamp and body of a record. Raises ValueError for what is not as the formats have it."""
    payload = _decode(data)
    if type(payload) is not list:
        raise ValueError("no list")
    stamp, body = payload[:STAMP], payload[STAMP:]
    if not _fits(stamp, _STAMP_SHAPE):
        raise ValueError("no time stamp")
    if not _fits(body, _SHAPES.get(kind, "")):
        raise ValueError(f"no record of type {kind}")
    return stamp, body


def _fits(values: list[Any], shape: str) -> bool:
    if len(values) < len(shape):
        return False
    for value, what in zip(values, shape, strict=False):
        if value is None:
            if what not in "NB":
                return False
        elif type(value) is not _TYPES[what]:
            return False
        elif type(value) is int:
            if not 0 <= value < _BELOW[what]:
                return False
    return True


def _decode(data: bytes) -> Any:
    """`wire.loads` of a record, which is a flat list: several times as fast."""
    if _WIDE.search(data) is None:
        try:
            value = cbor2.loads(data)
            if type(value) is list and _PLAIN.issuperset(map(type, value)):
                if cbor2.dumps(value) == data:
                    return value
        except (cbor2.CBORDecodeError, ValueError):
            pass
    return wire.loads(data)
