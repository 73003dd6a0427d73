"""Evidence that the firmware signs, verified on the host alone, and its OCMF document."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chargekeep_tools import evidence, ocmf, wire

ROOT = Path(__file__).resolve().parent.parent
MICROPYTHON = Path(sys.executable).parent / "micropython"
SEED = bytes(range(32))
PUBLIC_KEY = wire.public_bytes(Ed25519PrivateKey.from_private_bytes(SEED))

ATTEST = """
import asyncio, binascii, hashlib, json
from chargekeep.credential import ed25519
from chargekeep.transaction import evidence
from station_sim import Decision, World

seed = bytes(range(32))
kid = hashlib.sha256(ed25519.public_key(seed)).digest()[:4]

async def sign(message):
    return await ed25519.sign_async(seed, message)

def attest(w):
    machine = w.station.machine
    asyncio.run(evidence.attest(machine, w.ledger, "site-1", "CP-1", "SDM630", kid, sign))

w = World()
m = w.boot().machine
w.run(3)
m.start(Decision(max_wh=100))
w.run(60)
attest(w)
attest(w)  # there is nothing more to attest
m = w.boot().machine
assert m.ended is None
w.run(3)
m.start(Decision(max_wh=100))
w.run(20)
w.meter.wh = 555000
w.run(60)
w.cut()  # before it is attested
m = w.boot().machine
w.run(3)
attest(w)
print(json.dumps([[p[4], binascii.hexlify(p[5]).decode()] for k, p in w.ledger.log if k == 15]))
"""


@pytest.fixture(scope="module")
def sealed() -> list[bytes]:
    paths = [".frozen", ROOT / "firmware", ROOT / "tests"]
    done = subprocess.run(
        [MICROPYTHON, "-X", "heapsize=480k", "-c", ATTEST],
        env=dict(os.environ, MICROPYPATH=":".join(map(str, paths))),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [number for number, _ in found] == [1, 2]
    return [bytes.fromhex(data) for _, data in found]


def test_evidence_is_verified_with_the_public_key_alone(sealed):
    found = evidence.verify(sealed[0], PUBLIC_KEY)
    assert (found.site, found.station, found.tx_id, found.evse_id) == ("site-1", "CP-1", 1, 1)
    assert found.begin.register_wh == 180_200 and found.meter == "SDM630"
    assert found.energy_wh == found.end.register_wh - 180_200 and 100 <= found.energy_wh < 110
    assert found.id_hash == b"h" * 16 and found.stopped_reason == 3
    assert found.end.time is not None and found.begin.time is not None
    assert 30 < found.end.time - found.begin.time < 40 and found.end.boot_id == 1
    assert not found.segmented and len(sealed[0]) < 240, len(sealed[0])


def test_a_meter_exchange_is_told(sealed):
    found = evidence.verify(sealed[1], PUBLIC_KEY)
    assert found.segmented and 100 <= found.energy_wh < 115
    with pytest.raises(evidence.EvidenceError):
        found.to_ocmf()


def test_no_byte_can_be_changed(sealed):
    for i in range(len(sealed[0])):
        changed = bytearray(sealed[0])
        changed[i] ^= 1
        with pytest.raises(evidence.EvidenceError):
            evidence.verify(bytes(changed), PUBLIC_KEY)
    with pytest.raises(evidence.EvidenceError):
        evidence.verify(sealed[0], wire.public_bytes(Ed25519PrivateKey.generate()))
    with pytest.raises(evidence.EvidenceError):
        evidence.verify(sealed[0] + b"\0", PUBLIC_KEY)


def test_a_signed_object_of_another_form_is_refused():
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    good = {2: "s", 3: "c", 10: 1, 11: 1, 12: None, 15: 6, 16: 5, 17: ""}
    good |= {13: [1, None, 0, 1, 2], 14: [6, None, 0, 1, 9]}
    assert evidence.verify(wire.seal_sign1(wire.EVIDENCE, key, good), PUBLIC_KEY).energy_wh == 5
    for wrong in (
        {13: [1]},
        {13: 5},
        {14: [-1, None, 0, 1, 9]},
        {16: -1},
        {13: [1, "x", 0, 1, 2]},
    ):
        data = wire.seal_sign1(wire.EVIDENCE, key, good | wrong)
        with pytest.raises(evidence.EvidenceError):
            evidence.verify(data, PUBLIC_KEY)
    with pytest.raises(evidence.EvidenceError):
        evidence.verify(wire.seal_sign1(wire.HEAD, key, good), PUBLIC_KEY)


def test_ocmf_document(sealed):
    found = evidence.verify(sealed[0], PUBLIC_KEY)
    key = ocmf.new_key()
    text = ocmf.document(found.to_ocmf(), key)
    body = ocmf.verify(text, key.public_key())
    assert body["PG"] == "T1" and body["GS"] == "CP-1" and "no claim" in body["GI"]
    begin, end = body["RD"]
    assert (begin["TX"], begin["RV"], begin["RU"]) == ("B", "180.200", "kWh")
    assert end["TX"] == "E" and end["RV"] == f"{found.end.register_wh / 1000:.3f}"
    assert begin["TM"] == "2023-11-14T22:13:24,000+0000 I"
    for i in range(0, text.rindex("|"), 3):
        other = "x" if text[i] != "x" else "y"
        with pytest.raises(ocmf.OcmfError):
            ocmf.verify(text[:i] + other + text[i + 1 :], key.public_key())
    with pytest.raises(ocmf.OcmfError):
        ocmf.verify(text, ocmf.new_key().public_key())


def test_ocmf_says_what_is_not_known():
    unknown = ocmf.Reading(5, None, 0)
    transaction = ocmf.Transaction("CP-1", 7, 1, None, unknown, replace(unknown, wh=9), "", True)
    body = ocmf.payload(transaction)
    begin, end = body["RD"]
    assert begin["TM"].endswith(" U") and begin["EF"] == "t" and end["TX"] == "P"
    assert body["IS"] is False and body["IT"] == "NONE" and end["RV"] == "0.009"
