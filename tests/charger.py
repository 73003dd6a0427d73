"""A station for tests of the host: the firmware's own ledger on simulated flash, and its key."""

import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mptest import at_last
from nor_sim import NorSim

from chargekeep.ledger.ring import Ledger
from chargekeep_tools import keys, objects, wire
from chargekeep_tools.home import Home
from chargekeep_tools.reconcile.verify import Station

SITE = "depot"
TARIFF = {10: 7, 11: "EUR", 12: 3500, 13: 600, 14: 2000}
NOW = 1_800_000_000


def make_home(root: Path) -> Home:
    """A home with keys and tariff 7: 0.35 a kWh, 0.06 an hour, 0.20 a start."""
    home = Home(root)
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "issuer", "issuer", encrypted=False)
    objects.sign(home, wire.TARIFF, SITE, TARIFF, now=NOW)
    return home


class Charger:
    """Appends what the firmware appends; `batches` is what its outbox would send."""

    def __init__(self, name: str, blocks: int = 8, register: int = 0) -> None:
        self.name = name
        self.key = Ed25519PrivateKey.generate()
        self.public = wire.public_bytes(self.key)
        self.log_id = wire.kid(self.public) * 4
        self.seal = bytes(32)
        self.device = NorSim(blocks)
        self.time, self.boot, self.uptime = NOW, 1, 0
        self.register = register
        self.tx = 0
        Ledger.format(self.device, self.log_id, self.seal)
        self.mount()

    def mount(self) -> None:
        self.ledger = Ledger(self.device, self.seal, self)
        self.ledger.mount()
        self.ledger.append(1, [1, "0.1.0"])

    def reboot(self) -> None:
        self.boot += 1
        self.uptime = 0
        self.mount()

    def stamp(self) -> list[Any]:
        return [self.time, 3, self.boot, self.uptime]

    def sleep(self, seconds: int) -> None:
        self.uptime += seconds
        if self.time is not None:
            self.time += seconds

    def record(self) -> dict[str, Any]:
        """As provisioning writes it into the home."""
        return {
            "site": SITE,
            "station": self.name,
            "public_key": self.public.hex(),
            "kid": wire.kid(self.public).hex(),
            "log_id": self.log_id.hex(),
            "seal_key": self.seal.hex(),
            "mqtt": {"user": self.name, "password": "secret-" + self.name},
            "commissioned": NOW,
            "board": "UNIX",
            "firmware": "0.1.0",
        }

    @property
    def station(self) -> Station:
        return Station.of(self.record())

    def start(self, tariff: tuple[int, int] = (7, 1), **fields: Any) -> int:
        self.tx += 1
        self.seq_no = 0
        cti = fields.get("cti", self.tx.to_bytes(8, "big"))
        body = [self.tx, 1, 1, b"h" * 16, cti, b"k" * 4, self.register, *tariff, 0, 0, 0, 1]
        self.ledger.append(2, body)
        return self.tx

    def update(self) -> None:
        self.seq_no += 1
        self.ledger.append(3, [self.tx, self.seq_no, 8, self.register, 1])

    def stop(self, reason: int = 6) -> None:
        self.seq_no += 1
        self.ledger.append(4, [self.tx, self.seq_no, 10, reason, self.register])

    def charge(self, wh: int, seconds: int = 3600, updates: int = 1) -> int:
        """A whole transaction of `wh`."""
        tx = self.start()
        for i in range(updates):
            self.register += wh * (i + 1) // updates - wh * i // updates
            self.sleep(seconds // updates)
            self.update()
        self.stop()
        return tx

    def batches(self, after: int | None = None, max_bytes: int = 2048) -> list[bytes]:
        """Signed batches of everything after slot `after` [what is acknowledged]."""
        found = []
        after = self.ledger.acknowledged if after is None else after
        while (batch := at_last(self.ledger.batch(after, max_bytes, True))) is not None:
            first, last, link, runs = batch
            body = {
                2: SITE,
                3: self.name,
                10: self.log_id,
                11: first,
                12: link,
                13: [[a, b, bytes(c), d] for a, b, c, d in runs],
            }
            if first > after + 1:
                body[14] = after
            found.append(wire.seal_batch(self.key, body, *found[-1:]))
            after = last
        return found

    @property
    def log_topic(self) -> str:
        return wire.topic(SITE, self.name, "up", "log", f"p{wire.partition(self.name):02d}")

    def acknowledge(self, body: dict[int, Any]) -> None:
        """An acknowledgement's payload, as the firmware takes it."""
        assert (body[2], body[3]) == (SITE, self.name)
        if body[11] > self.ledger.acknowledged:
            self.ledger.acknowledge(body[10], body[11], body[12])


def wait_for(condition: Any, seconds: float = 10) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "did not happen"
        time.sleep(0.01)
