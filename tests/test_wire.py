"""The host's wire formats: strict CBOR, COSE_Sign1 against two other libraries, the text form."""

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cwt import COSE, COSEKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pycose.keys import OKPKey
from pycose.messages import Sign1Message

from chargekeep_tools import wire

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = wire.public_bytes(KEY)
PAYLOAD = {1: 3, 2: "site-a", 4: 1_800_000_000, 10: [1, b"\x02", None, True]}


def key_for(kid, content_type):
    return PUBLIC if kid == wire.kid(PUBLIC) else None


def code_of(function, *args):
    with pytest.raises(wire.WireError) as caught:
        function(*args)
    return caught.value.code


_INTEGERS = st.integers(-(2**63), 2**63 - 1)
_VALUES = st.recursive(
    st.none() | st.booleans() | _INTEGERS | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_INTEGERS, inner, max_size=4),
    max_leaves=8,
).filter(lambda value: depth(value) <= 8)


def depth(value):
    children = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, children), default=0) if isinstance(value, (list, dict)) else 0


@given(_VALUES)
@settings(max_examples=200, deadline=None)
def test_what_is_written_reads_back(value):
    assert wire.loads(wire.dumps(value)) == value


@given(st.binary(max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_either_refused_or_the_one_encoding(data):
    try:
        value = wire.loads(data)
    except wire.WireError:
        return
    assert wire.dumps(value) == data


def test_map_keys_are_in_bytewise_order_of_their_encoding():
    assert wire.dumps({-1: 0, 24: 0, 1: 0, 256: 0}).hex() == "a4010018180019010000" + "2000"


@pytest.mark.parametrize(
    "data",
    [
        "1801",  # an integer longer than needed
        "a201000100",  # the same key twice
        "a202000100",  # keys out of order
        "9f01ff",  # indefinite length
        "5f4101ff",
        "0100",  # a byte follows
        "f93c00",  # a float
        "f7",  # undefined
        "c11a5f5e1000",  # a date
        "c24101",  # a bignum that fits an integer
        "c249010000000000000000",  # one that does not
        "1bffffffffffffffff",  # beyond a signed 64-bit integer
        "a1616100",  # a text key
        "a1f500",  # a boolean key
        "d20102",  # a tag 18 and more
        "81d28101",  # a tag inside
        "8181818181818181818100",  # nested too deep
        "d9d9f700",  # self-described CBOR
        "82d81c8101d81d00",  # shared references
        "9bffffffffffffffff",  # a length beyond reason
        "",
        "19",
        "62ff00",  # not UTF-8
    ],
)
def test_other_encodings_are_refused(data):
    with pytest.raises(wire.WireError):
        wire.loads(bytes.fromhex(data))


def test_a_sealed_object_opens():
    data = wire.seal_sign1(wire.TARIFF, KEY, PAYLOAD)
    assert wire.open_sign1(data, wire.TARIFF, key_for) == PAYLOAD
    assert wire.peek_sign1(data) == (wire.TARIFF, wire.kid(PUBLIC), PAYLOAD)


def test_pycose_and_cwt_read_what_is_sealed():
    data = wire.seal_sign1(wire.TARIFF, KEY, PAYLOAD)
    message = Sign1Message.decode(data)
    message.key = OKPKey(crv="ED25519", x=PUBLIC)
    assert message.verify_signature()
    assert message.payload == wire.dumps(PAYLOAD)
    public = COSEKey.from_pem(pem(), kid=wire.kid(PUBLIC))
    assert COSE.new().decode(data, public) == wire.dumps(PAYLOAD)


def pem():
    from cryptography.hazmat.primitives import serialization

    return KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def test_no_object_stands_in_for_another():
    data = wire.seal_sign1(wire.TARIFF, KEY, PAYLOAD)
    assert code_of(wire.open_sign1, data, wire.COMMAND, key_for) == wire.COSE_CONTENT_TYPE


def test_an_unknown_key_is_refused():
    data = wire.seal_sign1(wire.TARIFF, KEY, PAYLOAD)
    assert code_of(wire.open_sign1, data, wire.TARIFF, lambda *_: None) == wire.COSE_UNKNOWN_KID


def test_every_flipped_bit_is_refused():
    data = wire.seal_sign1(wire.TARIFF, KEY, {1: 1})
    for i in range(len(data) * 8):
        bad = bytearray(data)
        bad[i // 8] ^= 1 << i % 8
        with pytest.raises(wire.WireError):
            wire.open_sign1(bytes(bad), wire.TARIFF, key_for)


@pytest.mark.parametrize(
    "parts",
    [
        [b"", {}, b"", bytes(64)],
        [b"\xa0", {}, b"", bytes(64)],
        [b"\xa0", {1: 1}, b"", bytes(64)],
        [b"\xa0", {}, None, bytes(64)],
        [b"\xa0", {}, b"", bytes(63)],
        [b"\xa0", {}, b""],
    ],
)
def test_a_message_of_another_form_is_refused(parts):
    data = cbor2.dumps(cbor2.CBORTag(18, parts))
    assert code_of(wire.open_sign1, data, wire.TARIFF, key_for) < 112


def test_a_weak_key_verifies_nothing():
    # The neutral element signs everything under a verifier that does not look: R = A = 1, S = 0.
    neutral = b"\x01" + bytes(31)
    assert not wire.verify(neutral, b"message", neutral + bytes(32))


def test_another_algorithm_is_refused():
    protected = cbor2.dumps({1: -7, 3: wire.TARIFF, 4: wire.kid(PUBLIC)})
    data = cbor2.dumps(cbor2.CBORTag(18, [protected, {}, b"\xa0", bytes(64)]))
    assert code_of(wire.open_sign1, data, wire.TARIFF, key_for) == wire.COSE_ALGORITHM


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_text_form_reads_back(data):
    assert wire.from_text(wire.to_text(data)) == data


@pytest.mark.parametrize(
    "text", ["", "CK1", "ck1:AA", "CK1:AA==", "CK1:AB", "CK1:A", "CK1:+/8", "CK1:A\n"]
)
def test_other_texts_are_refused(text):
    assert code_of(wire.from_text, text) == wire.TOKEN_FORM


def test_topic_parts_cannot_smuggle_levels():
    assert wire.topic("a", "b", "down", "ack") == "chargekeep/1/a/b/down/ack"
    for bad in ("", "a/b", "+", "#"):
        with pytest.raises(ValueError):
            wire.topic("a", bad)
