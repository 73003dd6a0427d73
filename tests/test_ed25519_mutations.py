"""Signatures, messages and keys with something changed: none is accepted. 10,000 in CI, 1,000,000
in the nightly run, a tenth of them on the MicroPython VM, the others on CPython.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MICROPYTHON = Path(sys.executable).parent / "micropython"


def _mutate(interpreter, seed, count):
    if interpreter == "vm":
        command = [MICROPYTHON, "-X", "heapsize=192k"]
        env = dict(os.environ, MICROPYPATH=f".frozen:{ROOT / 'firmware'}")
    else:
        command = [sys.executable]
        env = dict(os.environ, PYTHONPATH=f"{ROOT / 'firmware'}:{ROOT / 'tests/shim'}")
    command += [ROOT / "tests" / "ed25519_mutate.py", str(seed), str(count)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith(f"{count} mutations, 0 accepted")


@pytest.mark.parametrize("interpreter, count", [("vm", 1_000), ("cpython", 9_000)])
def test_mutations(interpreter, count):
    _mutate(interpreter, 1, count)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.parametrize("interpreter, count", [("vm", 10_000), ("cpython", 90_000)])
def test_mutations_long(interpreter, count, seed):
    _mutate(interpreter, seed, count)
