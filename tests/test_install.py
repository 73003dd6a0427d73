"""The tools as an operator installs them: into a fresh environment, away from this tree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chargekeep_tools.cli import PARTS
from chargekeep_tools.codes import Exit

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs the installed `chargekeep` in an empty folder; its output."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [folder / "venv" / "bin" / "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, TOOLS], check=True, timeout=900)
    keep = ("HOME", "PATH", "LANG")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    environment["CHARGEKEEP_HOME"] = str(folder / "home")

    def chargekeep(*words, code=Exit.OK):
        done = subprocess.run(
            [folder / "venv" / "bin" / "chargekeep", *map(str, words)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout

    return chargekeep


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_every_command_is_there(installed):
    for part in PARTS:
        assert "Usage" in installed(part, "--help"), part


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_site_is_made_without_the_source_tree(installed, tmp_path):
    installed("keys", "create", "root", "--role", "root", "--no-passphrase")
    installed("keys", "create", "office", "--no-passphrase")
    installed("trust", "build", "--site", "hall")
    installed("tariff", "1", "--per-kwh", "0.35")
    installed("allowlist", "build", "--id-token", "BOB")
    assert installed("issue", "ALICE", "--for", "8h").count("CK1:") == 1
    for board in ("RPI_PICO_W", "ESP32_GENERIC", "UNIX"):
        made = json.loads(installed("bundle", "build", board, "-o", tmp_path / board, "--json"))
        assert any(path.startswith("chargekeep/app") for path in made["files"])
        installed("bundle", "show", tmp_path / board)
    installed("broker", "config", "--out", tmp_path / "etc", "--host", "127.0.0.1")
    installed("stations", "--json")
    installed("boards", "--json")
    installed("reconcile", "bill", "--json")
    installed("provision", "/dev/nowhere", "bay-1", code=Exit.NO_DEVICE)
    installed("status", "/dev/nowhere", code=Exit.NO_DEVICE)
