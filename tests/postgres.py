"""A PostgreSQL of its own for a test, from Debian's package; skips where there is none."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from chargekeep_tools.broker import free_port


def _binaries():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Postgres:
    """A cluster in a temporary folder, run as the user postgres (it refuses root).

    Without `fsync` a commit survives the death of the server, but not of the machine.
    """

    def __init__(self, fsync=False):
        self.fsync = fsync
        pytest.importorskip("psycopg")
        self.programs = _binaries()
        if self.programs is None or os.geteuid() != 0:
            pytest.skip("needs root and apt-get install postgresql")
        self.user = pwd.getpwnam("postgres")
        self.folder = Path(tempfile.mkdtemp(prefix="chargekeep-pg-"))
        os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        self.log = (self.folder / "log").open("ab")
        self.port = free_port()
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-D", self.folder / "data", "-A", "trust", "--no-sync")
        self.start()

    def _popen(self, program, *words):
        return subprocess.Popen(
            [self.programs / program, *words],
            user=self.user.pw_uid,
            group=self.user.pw_gid,
            cwd=self.folder,
            stdout=self.log,
            stderr=self.log,
        )

    def _run(self, program, *words):
        assert self._popen(program, *words).wait(60) == 0, program

    def start(self):
        words = ("-D", self.folder / "data", "-p", str(self.port), "-k", self.folder)
        words += ("-c", f"fsync={'on' if self.fsync else 'off'}")
        self.process = self._popen("postgres", *words, "-h", "127.0.0.1")
        give_up = time.monotonic() + 90
        while self._popen("pg_isready", "-h", "127.0.0.1", "-p", str(self.port)).wait(10):
            assert time.monotonic() < give_up, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)

    def empty(self):
        """The URL of a database with nothing in it."""
        engine = sa.create_engine(self.url)
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
        engine.dispose()
        return self.url

    def kill(self):
        """As a power cut: the postmaster and all its backends."""
        self.process.kill()
        self.process.wait()
        # Its backends notice and end; its lock must be free before the next start.
        time.sleep(0.5)

    def restart(self):
        self.kill()
        self.start()

    def close(self):
        self.process.send_signal(signal.SIGINT)  # whoever is connected
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
