"""The strict CBOR codec against cbor2: what it writes, cbor2 reads; what it reads, cbor2 would
write the same way; anything else is refused with a code."""

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargekeep import cbor, errors
from chargekeep.errors import ChargekeepError

INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300)
LEAVES = (
    st.none()
    | st.booleans()
    | INTEGERS
    | st.binary(max_size=300)
    | st.text(st.characters(codec="utf-8"), max_size=60)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(INTEGERS, inner, max_size=5),
    max_leaves=20,
)


def depth(value):
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@settings(deadline=None)
@given(VALUES.filter(lambda value: depth(value) <= 8))
def test_round_trip_and_cbor2_agrees(value):
    data = cbor.dumps(value)
    assert cbor.loads(data) == value
    assert cbor2.loads(data) == value


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_whatever_loads_is_the_one_encoding(data):
    try:
        value = cbor.loads(data)
    except ChargekeepError as e:
        assert errors.CBOR_TRUNCATED <= e.code <= errors.CBOR_LIMIT
        return
    assert cbor.dumps(value) == data
    assert cbor2.loads(data) == value


@settings(max_examples=200, deadline=None)
@given(VALUES.filter(lambda value: depth(value) <= 8), st.data())
def test_a_changed_byte_never_decodes_to_the_same_value(value, data):
    encoded = bytearray(cbor.dumps(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        assert cbor.loads(bytes(encoded)) != value or bytes(encoded) == cbor.dumps(value)
    except ChargekeepError:
        pass


@settings(deadline=None)
@given(st.dictionaries(INTEGERS, st.integers(0, 9), min_size=2, max_size=6), st.data())
def test_maps_in_another_order_are_refused(value, data):
    items = list(value.items())
    shuffled = data.draw(st.permutations(items))
    encoded = bytes([0xA0 + len(items)]) + b"".join(
        cbor.dumps(key) + cbor.dumps(item) for key, item in shuffled
    )
    if encoded == cbor.dumps(value):
        assert cbor.loads(encoded) == value
    else:
        with pytest.raises(ChargekeepError) as error:
            cbor.loads(encoded)
        assert error.value.code == errors.CBOR_NOT_CANONICAL
