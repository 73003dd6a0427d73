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

_NUMBER, _CODE, _QUALITY = 1 << 40, 1 << 31, 4  # above each; a price of any number fits
_ELEMENTS: dict[str, tuple[tuple[type, ...], int]] = {
    "n": ((int,), _NUMBER),
    "N": ((int, type(None)), _NUMBER),
    "c": ((int,), _CODE),
    "q": ((int,), _QUALITY),
    "b": ((bytes,), 0),
    "B": ((bytes, type(None)), 0),
}
"""A letter for an element: its types, and what a number of it is below."""


def _shape(letters: str) -> list[tuple[tuple[type, ...], int]]:
    return [_ELEMENTS[letter] for letter in letters]


_STAMP_SHAPE = _shape("Nqnn")
_SHAPES = {
    TX_STARTED: _shape("nccBBBNnnnnnc"),
    TX_UPDATED: _shape("nccNc"),
    TX_ENDED: _shape("ncccN"),
    CLOCK_SET: [],
    METER_SEGMENT: _shape("nn"),
    HEAD: _shape("nbb"),
    EVIDENCE: _shape("nb"),
}
INTERPRETED = frozenset(_SHAPES)


def read(kind: int, data: bytes) -> tuple[list[Any], list[Any]]:
    """Stamp and body of a record. Raises ValueError for what is not as the formats have it."""
    payload = _decode(data)
    if type(payload) is not list:
        raise ValueError("no list")
    stamp, body = payload[:STAMP], payload[STAMP:]
    if not _fits(stamp, _STAMP_SHAPE):
        raise ValueError("no time stamp")
    if not _fits(body, _SHAPES.get(kind, [])):
        raise ValueError(f"no record of type {kind}")
    return stamp, body


def readable(kind: int, data: bytes) -> tuple[list[Any], list[Any]] | None:
    """What `read` gives; None for a record that is kept, but that nobody goes by."""
    try:
        return read(kind, data)
    except ValueError:
        return None


def _fits(values: list[Any], shape: list[tuple[tuple[type, ...], int]]) -> bool:
    if len(values) < len(shape):
        return False
    for value, (types, below) in zip(values, shape, strict=False):
        if type(value) not in types or (below and value is not None and not 0 <= value < below):
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
        except wire.UNDECODABLE:
            pass
    return wire.loads(data)
