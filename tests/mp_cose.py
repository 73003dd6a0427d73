# also: cpython
# heap: 320k
import asyncio

from authority import ISSUER, ROOT, SITE, entitlement, trust_list
from mptest import raises

from chargekeep import cbor, errors
from chargekeep.credential import cose, token
from chargekeep.errors import ChargekeepError


def key_for(kid, content_type):
    if kid != ISSUER.kid:
        raise ChargekeepError(errors.COSE_UNKNOWN_KID)
    return ISSUER.public


def test_what_is_sealed_opens():
    data = ISSUER.seal(cose.COMMAND, b"payload")
    assert cose.parse(data)[:2] == (cose.COMMAND, ISSUER.kid)
    assert cose.open_sign1(data, cose.COMMAND, key_for) == b"payload"
    assert asyncio.run(cose.open_sign1_async(data, cose.COMMAND, key_for)) == b"payload"
    assert cose.open_sign1(memoryview(data), cose.COMMAND, key_for) == b"payload"


def test_another_content_type_does_not_open():
    data = ISSUER.seal(cose.COMMAND, b"payload")
    for other in range(65001, 65014):
        if other != cose.COMMAND:
            raises(
                ChargekeepError,
                cose.open_sign1,
                data,
                other,
                key_for,
                code=errors.COSE_CONTENT_TYPE,
            )


def test_every_changed_byte_is_refused():
    data = ISSUER.seal(cose.COMMAND, b"payload")
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        raises(ChargekeepError, cose.open_sign1, bytes(changed), cose.COMMAND, key_for)
        raises(ChargekeepError, cose.open_sign1, data[:at], cose.COMMAND, key_for)
    raises(ChargekeepError, cose.open_sign1, data + b"\0", cose.COMMAND, key_for)


def test_forms_that_are_refused():
    protected = cbor.dumps({1: -8, 3: cose.COMMAND, 4: ISSUER.kid})
    sig = bytes(64)

    def message(*parts):
        return b"\xd2" + cbor.dumps(list(parts))

    def header(value):
        return message(cbor.dumps(value), {}, b"", sig)

    form, algorithm = errors.COSE_FORM, errors.COSE_ALGORITHM
    kid = ISSUER.kid
    for data, code in (
        (b"", form),
        (message(protected, {}, b"", sig)[1:], form),
        (b"\xd1" + message(protected, {}, b"", sig)[1:], form),
        (message(protected, {}, b""), form),
        (message(protected, {}, b"", sig, b""), form),
        (message(protected, {4: kid}, b"", sig), form),
        (message(protected, [], b"", sig), form),
        (message(protected, {}, None, sig), form),
        (message(protected, {}, b"", sig[1:]), form),
        (message(protected, {}, b"", sig + b"\0"), form),
        (message({}, {}, b"", sig), form),
        (b"\xd2\xa0", form),
        (header([]), form),
        (header({1: -8, 3: 65007}), form),
        (header({1: -8, 3: 65007, 4: kid, 5: 1}), form),
        (header({1: -8, 2: [3], 3: 65007, 4: kid}), form),
        (header({1: -8, 3: 65007, 5: kid}), form),
        (header({1: -8, 3: 65007, 4: kid + b"\0"}), form),
        (header({1: -8, 3: "65007", 4: kid}), form),
        (header({1: -7, 3: 65007, 4: kid}), algorithm),
        (header({1: None, 3: 65007, 4: kid}), algorithm),
        (message(b"", {}, b"", sig), errors.CBOR_TRUNCATED),
    ):
        raises(ChargekeepError, cose.parse, data, code=code)


def test_signature_of_another_key():
    data = ROOT.seal(cose.COMMAND, b"payload")
    raises(
        ChargekeepError,
        cose.open_sign1,
        data,
        cose.COMMAND,
        lambda kid, content_type: ISSUER.public,
        code=errors.COSE_SIGNATURE,
    )
    assert trust_list() and SITE


def test_token_text():
    data = entitlement()
    assert len(data) <= 160, len(data)
    text = token.to_text(data)
    assert text.startswith("CK1:") and "=" not in text and "+" not in text and "/" not in text
    assert token.from_text(text) == data
    for bad in (
        "",
        "CK1:",
        "CK2:" + text[4:],
        text[3:],
        text + "=",
        text[:-1] + "!",
        text.replace("CK1:", "ck1:"),
        "CK1:" + "A" * 1000,
        "CK1:AA AA",
        "CK1:AB",  # stray bits
        "CK1:A",
        "CK1:+/+/",
        "CK1:AAAA\n",
    ):
        raises(ChargekeepError, token.from_text, bad, code=errors.TOKEN_FORM)
