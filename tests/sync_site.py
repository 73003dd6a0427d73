"""A site for tests of sync: a home, mosquitto, and stations in MicroPython VMs."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from charger import SITE, make_home
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chargekeep_tools import wire
from chargekeep_tools.broker import OPERATOR, RECONCILER, Broker
from chargekeep_tools.reconcile import cli, store
from chargekeep_tools.reconcile.source import source_for

ROOT = Path(__file__).parent.parent


class Vm:
    """sync_vm.py in its VM; `events` fills while it runs."""

    def __init__(self, record, seed, issuer, port, folder, **settings):
        settings |= {
            "site": SITE,
            "station": record["station"],
            "password": record["mqtt"]["password"],
            "log_id": record["log_id"],
            "seal_key": record["seal_key"],
            "kid": record["kid"],
            "seed": seed.hex(),
            "issuer": issuer,
            "port": port,
            "flash": str(folder / (record["station"] + ".nor")),
        }
        paths = [".frozen", ROOT / "firmware", ROOT / "boards/UNIX", ROOT / "tests"]
        file = folder / (record["station"] + ".json")
        file.write_text(json.dumps(settings))
        program = Path(sys.executable).parent / "micropython"
        self.events = []
        self.process = subprocess.Popen(
            [program, "-X", "heapsize=320k", ROOT / "tests/sync_vm.py", file],
            env=dict(os.environ, MICROPYPATH=":".join(map(str, paths))),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.events.append({"crash": line})

    def last(self, name):
        return next((e[name] for e in reversed(self.events) if name in e), 0)

    def errors(self):
        return {e["error"] for e in self.events if "error" in e}

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        assert not [e for e in self.events if "crash" in e], self.events


class Site:
    """A home, a broker and stations; `reconcile` runs the reconciler for a while."""

    def __init__(self, folder, extra=""):
        self.folder = folder
        self.home = make_home(folder / "home")
        self.accounts = {RECONCILER: "r", OPERATOR: "o"}
        self.broker = Broker(folder / "broker", accounts=self.accounts, extra=extra)
        self.engine = store.connect(f"sqlite:///{folder / 'reconcile.db'}")
        self.vms = []
        self.seeds = {}

    def add(self, name, **settings):
        key = Ed25519PrivateKey.generate()
        public = wire.public_bytes(key)
        record = {
            "site": SITE,
            "station": name,
            "public_key": public.hex(),
            "kid": wire.kid(public).hex(),
            "log_id": (wire.kid(public) * 4).hex(),
            "seal_key": "11" * 32,
            "mqtt": {"user": name, "password": "p" * 20},
        }
        self.home.save_station(record)
        self.seeds[name] = key.private_bytes_raw()
        self.broker.stations.append(record)
        return record

    def vm(self, name, **settings):
        issuer = self.home.key("issuer")["public_key"]
        record = self.home.station(name)
        port = settings.pop("port", self.broker.port)
        vm = Vm(record, self.seeds[name], issuer, port, self.folder, **settings)
        self.vms.append(vm)
        return vm

    def reconcile(self, until, seconds=20, url=None):
        source = source_for(url or self.broker.url(RECONCILER))
        reconciler = cli.reconciler_for(self.home, self.engine, None, source.publish)
        give_up = time.monotonic() + seconds

        def stop():
            assert time.monotonic() < give_up, [vm.events[-5:] for vm in self.vms]
            return until()

        source.run(reconciler, stop)
        reconciler.project()
        return reconciler

    def close(self):
        self.broker.stop()
        for vm in self.vms:
            vm.stop()
