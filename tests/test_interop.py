"""Tokens of two other COSE libraries open here, and ours open there."""

import asyncio

import pytest
from authority import ISSUER, NOW, ROOT, SITE, Station, claims, entitlement
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cwt import COSE, COSEKey
from hypothesis import given, settings
from hypothesis import strategies as st
from mptest import clean
from pycose.algorithms import EdDSA
from pycose.headers import KID, Algorithm, ContentType
from pycose.keys import OKPKey
from pycose.keys.curves import Ed25519
from pycose.messages import Sign1Message

from chargekeep import cbor, errors
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError


def key_for(kid, content_type):
    assert (kid, content_type) == (ISSUER.kid, cose.ENTITLEMENT)
    return ISSUER.public


def pycose_key():
    return OKPKey(crv=Ed25519, x=ISSUER.public, d=ISSUER.seed)


def cwt_key():
    return COSEKey.new(
        {1: 1, 2: ISSUER.kid, 3: -8, -1: 6, -2: ISSUER.public, -4: ISSUER.seed, 4: [1, 2]}
    )


def made_by_pycose(payload, content_type=cose.ENTITLEMENT):
    message = Sign1Message(
        phdr={Algorithm: EdDSA, ContentType: content_type, KID: ISSUER.kid}, payload=payload
    )
    message.key = pycose_key()
    return message.encode()


def made_by_cwt(payload):
    return COSE.new().encode(
        payload,
        cwt_key(),
        protected={1: -8, 3: cose.ENTITLEMENT, 4: ISSUER.kid},
    )


MAKERS = {"pycose": made_by_pycose, "cwt": made_by_cwt}


@pytest.mark.parametrize("maker", MAKERS)
def test_their_messages_open_here(maker):
    payload = cbor.dumps(claims())
    data = MAKERS[maker](payload)
    assert cose.open_sign1(data, cose.ENTITLEMENT, key_for) == payload
    assert data == entitlement()  # one encoding, one deterministic signature


@pytest.mark.parametrize("maker", MAKERS)
def test_their_tokens_are_accepted(maker):
    async def decide():
        station = await Station().start()
        payload = cbor.dumps(claims(cti=b"interop!", max_wh=7000))
        return await station.policy.decide(MAKERS[maker](payload), 1)

    decision = asyncio.run(decide())
    clean()
    assert decision.accepted and decision.max_wh == 7000 and decision.cti == b"interop!"


def test_ours_opens_there():
    data = entitlement()
    message = Sign1Message.decode(data)
    message.key = pycose_key()
    assert message.verify_signature()
    assert message.phdr[ContentType] == cose.ENTITLEMENT and message.phdr[KID] == ISSUER.kid
    payload = COSE.new().decode(data, cwt_key())
    assert cbor.loads(message.payload) == claims()
    assert payload in (message.payload, claims())


def test_ours_fails_there_when_forged():
    forged = bytearray(entitlement())
    forged[-1] ^= 1
    message = Sign1Message.decode(bytes(forged))
    message.key = pycose_key()
    assert not message.verify_signature()


def test_the_key_is_what_cryptography_makes_of_the_seed():
    for signer in (ISSUER, ROOT):
        key = Ed25519PrivateKey.from_private_bytes(signer.seed)
        assert key.public_key().public_bytes_raw() == signer.public


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_edit_of_a_token_is_accepted(data):
    token = bytearray(entitlement())
    edit = data.draw(st.sampled_from(("flip", "cut", "insert", "swap")))
    at = data.draw(st.integers(0, len(token) - 1))
    if edit == "flip":
        token[at] ^= data.draw(st.integers(1, 255))
    elif edit == "cut":
        del token[at]
    elif edit == "insert":
        token.insert(at, data.draw(st.integers(0, 255)))
    else:
        other = data.draw(st.integers(0, len(token) - 1))
        token[at], token[other] = token[other], token[at]
    if bytes(token) == entitlement():
        return

    def any_key(kid, content_type):
        return ISSUER.public

    with pytest.raises(ChargekeepError) as error:
        cose.open_sign1(bytes(token), cose.ENTITLEMENT, any_key)
    # a flipped bit of the kid is found by who looks the key up, or by the signature here
    assert 100 <= error.value.code < 120, errors
    assert NOW and SITE


def test_sizes():
    assert len(entitlement()) <= 160
    limits = [60000, 14400, 22000, 1, 12, 345, 1]
    assert len(entitlement(sub="DE-ABC-C12345-X", limits=limits)) <= 160
