# Strict deterministic CBOR (RFC 8949 section 4.2.1), the one encoding of the wire and of flash.
# `loads` accepts exactly the bytes that `dumps` writes and nothing else: no second spelling of a
# value exists, so comparing bytes compares values. Recursion is at most 8 deep, and nothing is
# allocated for a length that the input does not hold.

import struct

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_UNSIGNED = const(0)  # major types, RFC 8949 section 3.1
_NEGATIVE = const(1)
_BYTES = const(2)
_TEXT = const(3)
_ARRAY = const(4)
_MAP = const(5)
_FALSE = const(0xF4)
_TRUE = const(0xF5)
_NULL = const(0xF6)
_DEPTH = const(8)

_FORMATS = (">B", ">H", ">I", ">Q")  # of an argument of 1, 2, 4, 8 bytes
_SHORTEST = (24, 0x100, 0x10000, 0x100000000)  # least argument that needs 1, 2, 4, 8 bytes


def loads(data):
    """The value that `data` (any bytes-like) encodes: int, bytes, str, list, dict, bool or None.

    Raises `ChargekeepError` with a CBOR_ code for anything but one deterministic item. Tags
    (18 of COSE included) are the caller's.
    """
    reader = _Reader(data)
    value = reader.item(_DEPTH)
    if reader.at != len(data):
        raise ChargekeepError(errors.CBOR_TRAILING, "at %d" % reader.at)
    return value


def dumps(value):
    """`value` as bytes; maps need integer keys. Raises CBOR_UNSUPPORTED or CBOR_LIMIT."""
    out = bytearray()
    _write(out, value, _DEPTH)
    return bytes(out)


def dump_joined(out, head, rest):
    """Append the array of the items of two lists to the bytearray `out`; see `dumps`."""
    _head(out, _ARRAY, len(head) + len(rest))
    for item in head:
        _write(out, item, _DEPTH - 1)
    for item in rest:
        _write(out, item, _DEPTH - 1)


class _Reader:
    def __init__(self, data):
        self.data = memoryview(data)
        self.at = 0

    def fail(self, code):
        raise ChargekeepError(code, "at %d" % self.at)

    def take(self, length):
        start = self.at
        if length > len(self.data) - start:
            self.fail(errors.CBOR_TRUNCATED)
        self.at = start + length
        return self.data[start : self.at]

    def item(self, depth):
        first = self.take(1)[0]
        major = first >> 5
        if major >= 6:
            if first == _NULL:
                return None
            if first == _TRUE or first == _FALSE:
                return first == _TRUE
            self.fail(errors.CBOR_UNSUPPORTED)
        argument = first & 31
        if argument >= 24:
            if argument > 27:
                # 31 opens an indefinite length (not deterministic), 28 to 30 are reserved
                self.fail(errors.CBOR_NOT_CANONICAL if argument == 31 else errors.CBOR_UNSUPPORTED)
            size = argument - 24
            argument = int.from_bytes(self.take(1 << size), "big")
            if argument < _SHORTEST[size]:
                self.fail(errors.CBOR_NOT_CANONICAL)
        if major == _UNSIGNED or major == _NEGATIVE:
            if argument >> 63:
                self.fail(errors.CBOR_LIMIT)
            return argument if major == _UNSIGNED else -1 - argument
        if major == _BYTES:
            return bytes(self.take(argument))
        if major == _TEXT:
            return self.text(self.take(argument))
        if not depth:
            self.fail(errors.CBOR_LIMIT)
        if argument > len(self.data) - self.at:  # an item has at least one byte
            self.fail(errors.CBOR_TRUNCATED)
        if major == _ARRAY:
            return [self.item(depth - 1) for _ in range(argument)]
        return self.map(argument, depth - 1)

    def map(self, length, depth):
        value = {}
        last = None
        for _ in range(length):
            key = self.item(0)
            if type(key) is not int:
                self.fail(errors.CBOR_UNSUPPORTED)
            if last is not None and not _follows(key, last):
                same = key == last
                self.fail(errors.CBOR_DUPLICATE_KEY if same else errors.CBOR_NOT_CANONICAL)
            last = key
            value[key] = self.item(depth)
        return value

    def text(self, data):
        try:
            value = str(data, "utf-8")
        except UnicodeError:
            self.fail(errors.CBOR_UNSUPPORTED)
        # MicroPython's decoder lets overlong forms and surrogates pass (RFC 3629 section 3)
        length = 0
        for character in value:
            point = ord(character)
            if 0xD800 <= point < 0xE000 or point > 0x10FFFF:
                self.fail(errors.CBOR_UNSUPPORTED)
            length += 1 if point < 0x80 else 2 if point < 0x800 else 3 if point < 0x10000 else 4
        if length != len(data):
            self.fail(errors.CBOR_NOT_CANONICAL)
        return value


def _follows(key, last):
    """Is `key` after `last` in bytewise order of encodings: 0, 1, 2, ... and then -1, -2, ..."""
    if key >= 0:
        return 0 <= last < key
    return last >= 0 or key < last


def _head(out, major, argument):
    if argument < 24:
        out.append(major << 5 | argument)
        return
    size = 0
    while size < 3 and argument >= _SHORTEST[size + 1]:
        size += 1
    out.append(major << 5 | 24 + size)
    for _ in range(1 << size):
        out.append(0)
    struct.pack_into(_FORMATS[size], out, len(out) - (1 << size), argument)


def _write(out, value, depth):
    kind = type(value)
    if value is None:
        out.append(_NULL)
    elif value is True or value is False:
        out.append(_TRUE if value else _FALSE)
    elif kind is int:
        if value >> 63 not in (0, -1):
            raise ChargekeepError(errors.CBOR_LIMIT)
        if value < 0:
            _head(out, _NEGATIVE, -1 - value)
        else:
            _head(out, _UNSIGNED, value)
    elif kind is str:
        data = value.encode()
        _head(out, _TEXT, len(data))
        out.extend(data)
    elif kind is bytes or kind is bytearray or kind is memoryview:
        _head(out, _BYTES, len(value))
        out.extend(value)
    elif not depth:
        raise ChargekeepError(errors.CBOR_LIMIT)
    elif kind is list or kind is tuple:
        _head(out, _ARRAY, len(value))
        for item in value:
            _write(out, item, depth - 1)
    elif kind is dict:
        for key in value:
            if type(key) is not int:
                raise ChargekeepError(errors.CBOR_UNSUPPORTED, "map key")
        _head(out, _MAP, len(value))
        for key in sorted(value, key=_order):
            _write(out, key, 0)
            _write(out, value[key], depth - 1)
    else:
        raise ChargekeepError(errors.CBOR_UNSUPPORTED, kind.__name__)


def _order(key):
    return (key < 0, abs(key))
