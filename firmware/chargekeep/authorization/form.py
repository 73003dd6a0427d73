# Shape and range of decoded values. Every signed object says here what it may hold, so that what
# comes after works on checked values only.

from micropython import const

from chargekeep import cbor, errors
from chargekeep.errors import ChargekeepError

U16 = const(0xFFFF)
U32 = const(0xFFFFFFFF)
NAME = const(32)  # bytes of a site or station name


def fail(detail, code=errors.OBJECT_FORM):
    raise ChargekeepError(code, detail)


def fields(value, required, optional=(), code=errors.OBJECT_FORM):
    """`value` must be a map with all `required` keys and no others but `optional` ones."""
    if type(value) is not dict:
        raise ChargekeepError(code, "no map")
    for key in required:
        if key not in value:
            fail("no %d" % key, code)
    for key in value:
        if key not in required and key not in optional:
            fail("unknown %d" % key, code)
    return value


def uint(value, high=U32, low=0, code=errors.OBJECT_FORM):
    """`value` must be an integer of `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        fail("integer", code)
    return value


def text(value, high, low=1, code=errors.OBJECT_FORM):
    """`value` must be a text of `low` to `high` bytes in UTF-8."""
    if type(value) is not str or not low <= len(value.encode()) <= high:
        fail("text", code)
    return value


def octets(value, length, code=errors.OBJECT_FORM):
    """`value` must be `length` bytes."""
    if type(value) is not bytes or len(value) != length:
        fail("bytes", code)
    return value


def array(value, high, low=0, code=errors.OBJECT_FORM):
    """`value` must be an array of `low` to `high` items."""
    if type(value) is not list or not low <= len(value) <= high:
        raise ChargekeepError(code, "array")
    return value


class Object:
    """Common head of what reaches a station (FORMATS.md section 2); `body` is the whole map."""

    def __init__(self, payload, keys, optional=()):
        body = fields(cbor.loads(payload), (1, 2, 4) + keys, (3,) + optional)
        self.version = uint(body[1], low=1)
        self.site = text(body[2], NAME)
        self.station = text(body[3], NAME) if 3 in body else None
        self.issued_at = uint(body[4])
        self.body = body
