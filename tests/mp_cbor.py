# also: cpython
from mptest import raises

from chargekeep import cbor, errors
from chargekeep.errors import ChargekeepError

# RFC 8949 appendix A, of the types that the formats use
EXAMPLES = (
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (255, "18ff"),
    (256, "190100"),
    (1000, "1903e8"),
    (65535, "19ffff"),
    (65536, "1a00010000"),
    (1000000, "1a000f4240"),
    (4294967295, "1affffffff"),
    (4294967296, "1b0000000100000000"),
    (1000000000000, "1b000000e8d4a51000"),
    (9223372036854775807, "1b7fffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-24, "37"),
    (-25, "3818"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (-65537, "3a00010000"),
    (-9223372036854775808, "3b7fffffffffffffff"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("", "60"),
    ("IETF", "6449455446"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({-65537: 1, -1: 2, 24: 3, 5: 4}, "a405041818032002" + "3a0001000001"),
    (b"x" * 24, "5818" + "78" * 24),
)

REFUSED = (
    ("", errors.CBOR_TRUNCATED),
    ("18", errors.CBOR_TRUNCATED),
    ("1900", errors.CBOR_TRUNCATED),
    ("4401", errors.CBOR_TRUNCATED),
    ("8201", errors.CBOR_TRUNCATED),
    ("a101", errors.CBOR_TRUNCATED),
    ("5b7fffffffffffffff00", errors.CBOR_TRUNCATED),
    ("9bffffffffffffffff", errors.CBOR_TRUNCATED),
    ("bb00ffffffffffffff", errors.CBOR_TRUNCATED),
    ("0000", errors.CBOR_TRAILING),
    ("1817", errors.CBOR_NOT_CANONICAL),
    ("190017", errors.CBOR_NOT_CANONICAL),
    ("1900ff", errors.CBOR_NOT_CANONICAL),
    ("1a0000ffff", errors.CBOR_NOT_CANONICAL),
    ("1b00000000ffffffff", errors.CBOR_NOT_CANONICAL),
    ("580161", errors.CBOR_NOT_CANONICAL),
    ("5f4100ff", errors.CBOR_NOT_CANONICAL),
    ("9f00ff", errors.CBOR_NOT_CANONICAL),
    ("a203040102", errors.CBOR_NOT_CANONICAL),
    ("a220000001", errors.CBOR_NOT_CANONICAL),
    ("a221002000", errors.CBOR_NOT_CANONICAL),
    ("a201020103", errors.CBOR_DUPLICATE_KEY),
    ("a220012002", errors.CBOR_DUPLICATE_KEY),
    ("a1616101", errors.CBOR_UNSUPPORTED),
    ("a1f501", errors.CBOR_UNSUPPORTED),
    ("c11a514b67b0", errors.CBOR_UNSUPPORTED),
    ("d28440a04040", errors.CBOR_UNSUPPORTED),
    ("f7", errors.CBOR_UNSUPPORTED),
    ("f90000", errors.CBOR_UNSUPPORTED),
    ("fb3ff199999999999a", errors.CBOR_UNSUPPORTED),
    ("f818", errors.CBOR_UNSUPPORTED),
    ("ff", errors.CBOR_UNSUPPORTED),
    ("1c", errors.CBOR_UNSUPPORTED),
    ("1b8000000000000000", errors.CBOR_LIMIT),
    ("3b8000000000000000", errors.CBOR_LIMIT),
    ("62c3", errors.CBOR_TRUNCATED),
    ("61c3", errors.CBOR_UNSUPPORTED),
    ("61ff", errors.CBOR_UNSUPPORTED),
    ("62c080", errors.CBOR_NOT_CANONICAL),  # overlong NUL
    ("63eda080", errors.CBOR_UNSUPPORTED),  # surrogate
    ("64f4908080", errors.CBOR_UNSUPPORTED),  # above U+10FFFF
    ("81" * 9 + "00", errors.CBOR_LIMIT),
)


def test_examples_both_ways():
    for value, text in EXAMPLES:
        data = bytes.fromhex(text)
        assert cbor.dumps(value) == data, (value, cbor.dumps(value).hex())
        got = cbor.loads(data)
        assert got == value and type(got) is type(value), (text, got)


def test_refusals_carry_codes():
    for text, code in REFUSED:
        try:
            value = cbor.loads(bytes.fromhex(text))
        except ChargekeepError as e:
            # CPython's decoder already refuses what MicroPython's lets through
            assert e.code == code or text == "62c080", (text, e)
        else:
            raise AssertionError("%s decoded to %r" % (text, value))


def test_every_prefix_is_refused():
    data = cbor.dumps({1: [1, "two", b"three", None, True], -5: {2: 2**40}})
    for length in range(len(data)):
        raises(ChargekeepError, cbor.loads, data[:length])


def test_bytes_like_in_and_out():
    assert cbor.dumps(memoryview(b"ab")) == cbor.dumps(bytearray(b"ab")) == b"\x42ab"
    assert cbor.loads(memoryview(b"\x42ab")) == b"ab"
    assert cbor.dumps((1, 2)) == cbor.dumps([1, 2])


def test_dumps_refuses_what_it_cannot_say():
    for value in (1.5, object(), {"a": 1}, {True: 1}):
        raises(ChargekeepError, cbor.dumps, value, code=errors.CBOR_UNSUPPORTED)
    for value in (1 << 63, -(1 << 63) - 1, [[[[[[[[[1]]]]]]]]]):
        raises(ChargekeepError, cbor.dumps, value, code=errors.CBOR_LIMIT)
