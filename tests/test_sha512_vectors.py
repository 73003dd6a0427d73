"""NIST's SHA-512 vectors (SHAVS): short and long messages and the chained Monte Carlo run, for the
portable code and for the assembly.
"""

import re
import sys
from pathlib import Path

import cryptography_vectors
import pytest

from chargekeep.credential import sha512

sys.path.insert(0, str(Path(__file__).resolve().parent / "rp2040"))
from machine_code import load_credential

VECTORS = Path(cryptography_vectors.__path__[0], "hashes/SHA2")


def _messages(name):
    text = (VECTORS / name).read_text()
    found = re.findall(r"Len = (\d+)\s+Msg = (\w+)\s+MD = (\w+)", text)
    for bits, message, digest in found:
        yield bytes.fromhex(message)[: int(bits) // 8], bytes.fromhex(digest)


@pytest.fixture(scope="module", params=["plain", "thumb"])
def hash(request):
    if request.param == "plain":
        return sha512.sha512
    return load_credential().sha512.sha512


@pytest.mark.parametrize("name, count", [("SHA512ShortMsg.rsp", 129), ("SHA512LongMsg.rsp", 128)])
def test_messages(hash, name, count):
    cases = list(_messages(name))
    assert len(cases) == count
    for message, digest in cases if name.startswith("SHA512Short") else cases[::16]:
        assert hash(message) == digest


def _monte(hash, rounds):
    text = (VECTORS / "SHA512Monte.rsp").read_text()
    seed = bytes.fromhex(re.search(r"Seed = (\w+)", text).group(1))
    digests = re.findall(r"MD = (\w+)", text)
    assert len(digests) == 100
    for expected in digests[:rounds]:
        chain = [seed] * 3
        for _ in range(1000):
            chain = [*chain[1:], hash(b"".join(chain))]
        seed = chain[-1]
        assert seed.hex() == expected


@pytest.mark.nightly
def test_monte_carlo(hash):
    _monte(hash, 2)


@pytest.mark.nightly
def test_long_messages(hash):
    for message, digest in _messages("SHA512LongMsg.rsp"):
        assert hash(message) == digest
