"""What an operator sees of the reconciler."""

import json
import re
from pathlib import Path

import pytest
from charger import SITE
from reconcile_host import Host
from test_reconcile_evidence import EVIDENCE, attest, charge

from chargekeep_tools import evidence, wire
from chargekeep_tools.cli import main
from chargekeep_tools.codes import Exit
from chargekeep_tools.sim.replica import TX_ENDED, Replica


@pytest.fixture
def host(tmp_path):
    """With a bill, an adjustment of it, and a station that writes to the operator's terminal."""
    host = Host(tmp_path)
    replica = host.add(Replica(SITE, "cp-1"))
    evil = charge(replica) | {2: "[/red]\x1b[2J", 16: 5}
    replica.append(EVIDENCE, [1, wire.seal_sign1(wire.EVIDENCE, replica.key, evil)])
    replica.register += 200
    replica.append(TX_ENDED, [1, 9, 10, 6, replica.register])
    host.give(replica, *replica.batches())
    return host


@pytest.fixture
def run(host, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")

    def run(words, code=0, database=None):
        home = ["--home", str(host.home.root), "--database", database or host.url]
        monkeypatch.setattr("sys.argv", ["chargekeep", *words, *home])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


def test_bills_show_what_was_adjusted(run):
    head, line = run(["reconcile", "bill"]).splitlines()
    assert "adjusted" in head and "0.6100 EUR" in line and "0.0700" in line


def test_exceptions_say_since_when_and_what_to_do(run):
    text = run(["exceptions", "list"])
    assert "raised" in text and "None" not in text and "reconcile policy" in text
    assert "[/red]?[2J" in text and "\x1b" not in text
    assert "reconcile retry" in run(["exceptions", "resolve", "seen", "--where", "station=cp-1"])
    assert run(["exceptions", "list"]) == "none\n"
    assert "seen" in run(["exceptions", "list", "--resolved"])
    assert json.loads(run(["exceptions", "list", "--resolved", "--json"]))[0]["tx"] == 1


def test_a_kind_that_is_none_is_an_error(run):
    for command in (["list"], ["resolve", "x"]):
        text = run(["exceptions", *command, "--where", "kind=unknown_tarif"], Exit.USAGE)
        assert "reconcile policy" in text


@pytest.mark.parametrize("command", [["reconcile", "status"], ["exceptions", "list"]])
def test_a_database_that_is_not_there_has_its_exit_code(run, tmp_path, command):
    (tmp_path / "none.db").write_bytes(b"no database, but long enough to be looked at" * 30)
    for url, code in (
        (f"sqlite:///{tmp_path}/nowhere/x.db", Exit.DATABASE),
        (f"sqlite:///{tmp_path}/none.db", Exit.DATABASE),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", Exit.DATABASE),
        ("no URL", Exit.USAGE),
        ("quux://x/y", Exit.USAGE),
    ):
        text = run(command, code, url)
        assert "secret" not in text and "Traceback" not in text


def test_run_ends_at_once_where_waiting_helps_nobody(run, tmp_path):
    (tmp_path / "none.db").write_bytes(b"no database, but long enough to be looked at" * 30)
    words = ["reconcile", "run", "--broker", "mqtt://127.0.0.1:1"]
    run(words, Exit.DATABASE, f"sqlite:///{tmp_path}/none.db")
    run(words, Exit.USAGE, "quux://x/y")


def test_evidence_of_before_a_station_was_replaced_verifies(host, monkeypatch, capsys, tmp_path):
    old, new = Replica(SITE, "cp-2"), Replica(SITE, "cp-2", seed=1)
    host.home.save_station(new.record() | {"former": [old.record()]})
    file = tmp_path / "evidence"
    for replica in (old, new):
        file.write_bytes(wire.seal_sign1(wire.EVIDENCE, replica.key, charge(replica)))
        words = ["evidence", "verify", str(file), "--station", "cp-2"]
        monkeypatch.setattr("sys.argv", ["chargekeep", *words, "--home", str(host.home.root)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code and "1000 Wh" in capsys.readouterr().out


def test_evidence_that_came_is_verified_as_the_driver_gets_it(run, host):
    replica = host.add(Replica(SITE, "cp-2"))
    attest(replica, charge(replica, 1234))
    charge(replica)  # without evidence
    host.give(replica, *replica.batches())
    sealed = bytes.fromhex(run(["reconcile", "evidence", "cp-2", "1"]))
    verified = evidence.verify(sealed, replica.public)
    assert (verified.tx_id, verified.energy_wh) == (1, 1234)
    for station, tx in (("cp-2", "2"), ("cp-2", "3"), ("cp-9", "1")):
        text = run(["reconcile", "evidence", station, tx], Exit.FAILED)
        assert f"{station}: no evidence of transaction {tx}" in text


def test_a_time_that_is_no_date_is_shown_as_it_is(run, host):
    replica = host.add(Replica(SITE, "cp-2"))
    replica.time = 1 << 39
    attest(replica, charge(replica))
    host.give(replica, *replica.batches())
    assert f"@{1 << 39}" in run(["reconcile", "bill", "--station", "cp-2"])
    sealed = bytes.fromhex(run(["reconcile", "evidence", "cp-2", "1"]))
    with pytest.raises(evidence.EvidenceError):
        evidence.verify(sealed, replica.public)


def test_metrics_that_are_documented_or_watched_exist(host):
    metrics = pytest.importorskip("chargekeep_tools.reconcile.metrics")
    names = set()
    for family in metrics.Collector(host.reconciler).collect():
        names |= {family.name + ("_total" if family.type == "counter" else "")}
    tools = Path(__file__).resolve().parent.parent / "tools"
    for file in ("README.md", "deploy/README.md", "deploy/alerts.yml"):
        named = set(re.findall(r"chargekeep_[a-z_]+", (tools / file).read_text()))
        assert named - {"chargekeep_tools"} <= names, file
