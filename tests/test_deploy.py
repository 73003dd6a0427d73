"""tools/deploy: its files are what their programs take, and its scripts restore every commit."""

import contextlib
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from charger import SITE
from postgres import Postgres
from reconcile_host import Host
from sqlalchemy.exc import SQLAlchemyError

from chargekeep_tools.reconcile import cli
from chargekeep_tools.reconcile.schema import logs
from chargekeep_tools.sim.replica import Replica

DEPLOY = Path(__file__).parents[1] / "tools" / "deploy"
SECRETS = ("RABBITMQ_COOKIE", "POSTGRES_PASSWORD", "RECONCILER_PASSWORD", "OPERATOR_PASSWORD")


@pytest.mark.nightly
@pytest.mark.parametrize(
    "words",
    [
        ("docker-compose", "-f", "compose.yaml", "config", "-q"),
        ("haproxy", "-c", "-f", "haproxy.cfg"),
        ("promtool", "check", "config", "prometheus.yml"),
    ],
    ids=lambda words: words[0],
)
def test_files(words):
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    environment = {"PATH": os.environ["PATH"], "CHARGEKEEP_HOME": "/srv/home"}
    environment |= dict.fromkeys(SECRETS, "x")
    run = subprocess.run(words, cwd=DEPLOY, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


class Scripts:
    """The scripts of tools/deploy/postgres, run beside a `Postgres` as its user."""

    def __init__(self, postgres):
        self.postgres = postgres
        self.folder = postgres.folder / "second"
        self.folder.mkdir()
        for path in (DEPLOY / "postgres").iterdir():
            shutil.copy(path, self.folder)
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, postgres.user.pw_uid, postgres.user.pw_gid)

    def start(self, name, *words):
        return subprocess.Popen(
            ["sh", self.folder / name, *words],
            user=self.postgres.user.pw_uid,
            group=self.postgres.user.pw_gid,
            stdout=self.postgres.log,
            stderr=self.postgres.log,
            env={
                "PATH": f"{self.postgres.programs}:{os.environ['PATH']}",
                "PGDATA": str(self.postgres.folder / "data"),
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self.postgres.port),
                "PGUSER": "postgres",
            },
        )

    def run(self, name, *words):
        assert self.start(name, *words).wait(60) == 0, name


def give(host, replica):
    with contextlib.suppress(SQLAlchemyError):
        host.give(replica, *replica.batches())


@pytest.mark.nightly
def test_the_second_copy_has_every_commit(tmp_path):
    postgres = Postgres()
    scripts = Scripts(postgres)
    replica = Replica(SITE, "cp-1")
    receiver = None
    try:
        scripts.run("init.sh")
        postgres.restart()
        receiver = scripts.start("receive.sh", scripts.folder)
        host = Host(tmp_path, postgres.url)
        host.add(replica)
        for i in range(20):
            if i in (5, 12):
                scripts.run("backup.sh", scripts.folder)
            replica.charge(100 + i, tariff=(7, 1))
            host.give(replica, *replica.batches())
        before = cli.list_bills(host.engine)
        assert len(before) == 20 and replica.acknowledged == len(replica.slots)

        # Without the second copy nothing is acknowledged.
        receiver.kill()
        receiver.wait()
        replica.charge(7, tariff=(7, 1))
        acknowledged = replica.acknowledged
        waiting = threading.Thread(target=give, args=(host, replica))
        waiting.start()
        waiting.join(3)
        assert waiting.is_alive() and replica.acknowledged == acknowledged

        postgres.kill()
        waiting.join(20)
        host.engine.dispose()
        data = postgres.folder / "data"
        shutil.rmtree(data)
        data.mkdir(mode=0o700)
        os.chown(data, postgres.user.pw_uid, postgres.user.pw_gid)
        scripts.run("restore.sh", scripts.folder, data)
        postgres.start()
        time.sleep(1)  # recovery ends with a new timeline
        assert cli.list_bills(host.engine) == before
        with host.engine.connect() as connection:
            assert connection.scalar(sa.select(logs.c.head_seq)) >= replica.acknowledged
    finally:
        if receiver is not None and receiver.poll() is None:
            receiver.kill()
            receiver.wait()
        postgres.close()
