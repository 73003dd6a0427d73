"""The processes that verify batches for the reconciler change its speed, and nothing else."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import sqlalchemy as sa
from charger import SITE, make_home, wait_for
from reconcile_host import Host
from sqlalchemy.exc import OperationalError

from chargekeep_tools.reconcile import source
from chargekeep_tools.reconcile.schema import batches, logs
from chargekeep_tools.reconcile.source import Source
from chargekeep_tools.reconcile.verifiers import Verifiers
from chargekeep_tools.reconcile.worker import Message
from chargekeep_tools.sim.replica import Replica


def make_host(folder, names=("cp-1", "cp-2")):
    host = Host(folder)
    for name in names:
        replica = host.add(Replica(SITE, name))
        for _ in range(80):
            replica.charge(100, tariff=(7, 1))
    return host


@pytest.fixture
def host(tmp_path):
    host = make_host(tmp_path)
    host.reconciler.verifiers = Verifiers(host.home.root, 2)
    yield host
    host.reconciler.verifiers.close()


def messages_of(host):
    """Batches of three slots, a station's after the other's: more than one process is given."""
    found = [
        Message(replica.log_topic, data)
        for replica in host.chargers.values()
        for data in replica.batches(most=3)
    ]
    assert len(found) > 64
    return found


def heads(host):
    with host.engine.connect() as connection:
        rows = connection.execute(sa.select(logs.c.station, logs.c.head_seq, logs.c.head_link))
        return sorted(map(tuple, rows))


def ends(host):
    return sorted((r.name, len(r.slots), r.slots[-1].link) for r in host.chargers.values())


def test_nothing_is_decided_differently(host, tmp_path):
    good = messages_of(host)
    data = good[0].payload
    bad = [
        Message(good[0].topic, data[:-1] + bytes((data[-1] ^ 1,))),
        Message(good[0].topic, b"\xff" * 300),
        Message(good[-1].topic, data),  # signed by another station
        Message("chargekeep/1/depot/nobody/up/log/p00", data),
        Message("nonsense", data),
    ]
    mixed = [message for pair in zip(good, bad * 20, strict=False) for message in pair] + good
    host.reconciler.take(mixed)
    assert heads(host) == ends(host)
    alone = Host(tmp_path / "alone", f"sqlite:///{tmp_path}/alone.db", host.home)
    alone.reconciler.take(mixed)
    assert host.reconciler.figures.refused == alone.reconciler.figures.refused
    assert host.reconciler.figures.batches == alone.reconciler.figures.batches
    assert [row["data"] for row in host.rows(batches)] == [m.payload for m in good]


def test_groups_that_are_begun_ahead_are_committed_in_order(host):
    messages = messages_of(host)
    groups = [host.reconciler.begin(messages[i : i + 40]) for i in range(0, len(messages), 40)]
    assert groups[0].parts is not None
    for group in groups:
        host.reconciler.finish(group)
    assert heads(host) == ends(host)
    assert set(host.reconciler.figures.batches) == {"accepted"}


class Kept(Source):
    """A broker that hands over what is not done, five messages at a time."""

    def __init__(self, messages):
        super().__init__()
        self.kept = list(messages)
        self.opened = 0

    def open(self):
        self.opened += 1
        self.coming = iter(list(self.kept))

    def poll(self, timeout_s):
        for message in itertools.islice(self.coming, 5):
            done = partial(self.kept.remove, message)
            self.messages.append(Message(message.topic, message.payload, done))

    def close(self):
        pass

    def publish(self, topic, payload):
        pass


def test_a_source_begins_ahead_and_finishes_in_order(host, monkeypatch):
    monkeypatch.setattr(source, "_GROUP", 40)
    monkeypatch.setattr(source, "_BACK_OFF_S", (0, 0))
    kept = Kept(messages_of(host))
    ahead, finish = [], host.reconciler.finish

    def watched(group):
        ahead.append(len(kept._groups))
        if len(ahead) == 2:
            raise OperationalError("COMMIT", {}, OSError("lost"))
        finish(group)

    monkeypatch.setattr(host.reconciler, "finish", watched)
    kept.run(host.reconciler, lambda: not kept.kept)
    assert heads(host) == ends(host)
    assert (kept.opened, max(ahead)) == (2, 2)
    assert set(host.reconciler.figures.batches) == {"accepted"}


def test_processes_that_are_killed_lose_nothing(host):
    messages = messages_of(host)
    for begun_before in (True, False):
        group = host.reconciler.begin(messages) if begun_before else None
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)
        host.reconciler.finish(group or host.reconciler.begin(messages))
        assert heads(host) == ends(host)
    group = host.reconciler.begin(messages)
    assert all(host.reconciler.verifiers.end(group.parts))  # there are new ones


def test_a_station_that_is_commissioned_later_is_known(host):
    host.reconciler.take(messages_of(host))
    late = host.add(Replica(SITE, "cp-3"))
    late.charge(100, updates=200, tariff=(7, 1))
    host.reconciler.take([Message(late.log_topic, data) for data in late.batches(most=3)])
    assert heads(host) == ends(host)


def test_they_end_with_a_reconciler_that_is_killed(tmp_path):
    make_home(tmp_path / "home")
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from chargekeep_tools.reconcile.verifiers import Verifiers\n"
        "if __name__ == '__main__':\n"
        "    verifiers = Verifiers(Path(sys.argv[1]), 2)\n"
        "    list(verifiers.end(verifiers.begin([('', b'')] * 200)))\n"
        "    print(*verifiers._pool._processes, flush=True)\n"
        "    time.sleep(60)\n"
    )
    script = tmp_path / "reconciler.py"
    script.write_text(code)
    with subprocess.Popen(
        [sys.executable, script, tmp_path / "home"], stdout=subprocess.PIPE
    ) as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        process.kill()
    assert len(pids) == 2
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")")[1].split()[0] != "Z"
    except OSError:
        return False
