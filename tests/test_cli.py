"""The `chargekeep` command as a script sees it: output, --json and exit codes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chargekeep_tools import cli, policy
from chargekeep_tools.codes import MEANING, Exit

CHARGEKEEP = Path(sys.executable).parent / "chargekeep"


@pytest.fixture
def run(tmp_path):
    def run(*args, code=0, env=None):
        done = subprocess.run(
            [CHARGEKEEP, *map(str, args)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=dict(os.environ, CHARGEKEEP_HOME=str(tmp_path / "home"), COLUMNS="120")
            | (env or {}),
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def test_an_operator_starts_from_nothing(run, tmp_path):
    run("keys", "create", "root", "--role", "root", "--no-passphrase")
    run("keys", "create", "op", env={"CHARGEKEEP_PASSPHRASE": "secret"})
    assert len(json.loads(run("keys", "list", "--json"))) == 2
    run("trust", "build", "--site", "hall")
    issued = run("issue", "ALICE", "--kwh", 10, "--qr", tmp_path / "a.png", code=4)  # locked
    env = {"CHARGEKEEP_PASSPHRASE": "secret"}
    issued = run("issue", "ALICE", "--kwh", 10, "--qr", tmp_path / "a.png", env=env)
    assert issued.startswith("CK1:")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    run("revoke", issued.strip(), env=env)
    assert json.loads(run("entitlements", "--json"))[0]["revoked"]
    run("allowlist", "build", "--id-token", "BOB", env=env)
    assert "not listed" in run("allowlist", "find", "ALICE", code=7)
    assert "listed" in run("allowlist", "find", "BOB")
    run("tariff", 1, "--per-kwh", "0.35", env=env)


def test_failures_have_codes_of_their_own(run):
    run("issue", "A", code=Exit.USAGE)  # which site?
    run("issue", "A", "--site", "nowhere", code=Exit.HOME)
    run("keys", "show", "nobody", code=Exit.KEY)
    run("keys", "create", "x", "--role", "boss", code=Exit.USAGE)
    run("keys", "create", "op", "--no-passphrase")
    run("keys", "create", "root", "--role", "root", "--no-passphrase")
    run("trust", "build", "--site", "hall")
    run("publish", code=Exit.USAGE)
    run("publish", "--broker", "mqtt://127.0.0.1:1", code=Exit.BROKER)
    run("revoke", "nonsense", code=Exit.USAGE)
    run("provision", "/dev/nothing", "a", code=Exit.NO_DEVICE)
    answer = run("publish", "--broker", "mqtt://127.0.0.1:1", "--json", code=Exit.BROKER)
    assert json.loads(answer)["exit_code"] == 6


def test_every_exit_code_is_documented(run):
    assert set(MEANING) == set(Exit)
    listed = run("exit-codes")
    assert all(f"{code:3}" in listed for code in Exit)


@pytest.mark.parametrize("name", sorted(cli.PARTS))
def test_every_part_loads_and_has_help(name):
    part = cli.Part(name, callback=None)
    assert part.real().help or part.real().callback.__doc__


def test_help_loads_no_part(run):
    started = time.monotonic()
    assert "provision" in run("--help")
    assert time.monotonic() - started < 3
    code = "import sys; from chargekeep_tools import cli; print('nacl' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"False\n"


def test_completion_knows_commands_and_options(run):
    env = {
        "_CHARGEKEEP_COMPLETE": "complete_bash",
        "COMP_WORDS": "chargekeep al",
        "COMP_CWORD": "1",
    }
    assert "allowlist" in run(env=env)
    env |= {"COMP_WORDS": "chargekeep issue --k", "COMP_CWORD": "2"}
    assert "--kwh" in run(env=env)


def test_settings_and_commands_are_those_of_the_firmware():
    from chargekeep import config
    from chargekeep.authorization import command

    assert policy.SETTINGS == {row[1]: row[0] for row in config.rows()}
    assert {n: len(a) for n, a in policy.COMMANDS.values()} == command._COUNT


def test_the_readme_lists_every_exit_code_and_command():
    readme = (Path(__file__).parents[1] / "tools" / "README.md").read_text()
    for code, meaning in MEANING.items():
        assert f"| {code:d} | {meaning} |" in readme
    assert all(f"`{name}" in readme for name in cli.PARTS)
