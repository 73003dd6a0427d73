"""Coverage-guided fuzzing of everything that reads what others wrote, and the corpus that it finds
replayed on the MicroPython VM at 192k of heap: both must take the same inputs for well-formed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
MICROPYTHON = Path(sys.executable).parent / "micropython"
CI_SECONDS = 5
NIGHTLY_RUNS = {  # 5,000,000 together; the last ones verify signatures
    "cbor": 1_100_000,
    "entitlement": 900_000,
    "object": 800_000,
    "config": 600_000,
    "snapshot": 500_000,
    "text": 350_000,
    "delta": 300_000,
    "manifest": 250_000,
    "cose": 150_000,
    "presented": 50_000,
}
PATHS = [str(path) for path in (ROOT / "firmware", TESTS, TESTS / "fuzz")]
FIRMWARE = str(conftest.compiled())  # for the VM, as a board has it


def fuzz(name, folder, *options):
    """Number of executions; the corpus grows in `folder`."""
    pytest.importorskip("atheris")
    seeds = TESTS / "fuzz" / "corpus" / name
    done = subprocess.run(
        [
            *(sys.executable, TESTS / "fuzz" / "fuzz.py", name),
            *("-max_len=4096", "-rss_limit_mb=600", "-timeout=20", "-verbosity=1"),
            *options,
            *(folder, seeds),
        ],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return int(re.findall(r"Done (\d+) runs", done.stderr)[-1])


def replay(name, *folders):
    """What MicroPython makes of the files, against CPython."""
    env = dict(os.environ, MICROPYPATH=":".join([".frozen", FIRMWARE, *PATHS]))
    vm = [MICROPYTHON, "-X", "heapsize=192k"]
    results = []
    for command, path in ((vm, env), ([sys.executable], dict(os.environ))):
        path["PYTHONPATH"] = ":".join([*PATHS, str(TESTS / "shim")])
        done = subprocess.run(
            [*command, TESTS / "fuzz" / "replay.py", name, *folders],
            env=path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        results.append(done.stdout.split())
    assert results[0] == results[1]
    return int(results[0][0])


@pytest.mark.parametrize("name", NIGHTLY_RUNS)
def test_fuzz(name, tmp_path):
    corpus = tmp_path / name
    corpus.mkdir()
    runs = fuzz(name, corpus, f"-max_total_time={CI_SECONDS}")
    files = replay(name, TESTS / "fuzz" / "corpus" / name, corpus)
    print(f"{name}: {runs} executions, {files} inputs replayed on the VM")


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NIGHTLY_RUNS)
def test_fuzz_long(name, tmp_path):
    corpus = tmp_path / name
    corpus.mkdir()
    runs = fuzz(name, corpus, f"-runs={NIGHTLY_RUNS[name]}")
    assert runs >= NIGHTLY_RUNS[name]
    replay(name, TESTS / "fuzz" / "corpus" / name, corpus)
