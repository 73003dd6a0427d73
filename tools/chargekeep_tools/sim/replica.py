"""A station as the host sees it, without its firmware: genuine records in a genuine chain, signed.

Written from firmware/FORMATS.md sections 4 and 5. Fast enough for fleets: no flash is simulated,
only what would be in it. Everything follows from the seed.
"""

import hashlib
import random
import struct
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chargekeep_tools import wire
from chargekeep_tools.log import slots
from chargekeep_tools.reconcile.verify import SealKeys, Station

BOOT, TX_STARTED, TX_UPDATED, TX_ENDED, METER_VALUE, METER_SEGMENT = 1, 2, 3, 4, 5, 11
START = 1_800_000_000
_FIRST, _LAST = 0x40, 0x80


@dataclass(frozen=True)
class Slot:
    sector: int
    index: int
    short: bytes  # type, length and payload
    link: bytes


class Replica:
    """A charger with a meter: `register` in Wh, `time` and `uptime` in seconds."""

    def __init__(self, site: str, name: str, seed: int = 0, register: int = 0) -> None:
        chance = random.Random(f"{site}/{name}/{seed}")
        self.site, self.name = site, name
        self.key = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        self.public = wire.public_bytes(self.key)
        self.log_id = chance.randbytes(16)
        self.seal = SealKeys(chance.randbytes(32))
        self.password = chance.randbytes(12).hex()
        self.time: int | None = START
        self.boot = self.uptime = self.tx = self.seq_no = 0
        self.register = register
        self.slots: list[Slot] = []
        self.acknowledged = 0
        self._link = hashlib.sha256(self.log_id).digest()[:8]
        self._genesis = self._link
        self.reboot()

    def record(self) -> dict[str, Any]:
        """As provisioning writes it into the home."""
        return {
            "site": self.site,
            "station": self.name,
            "public_key": self.public.hex(),
            "kid": wire.kid(self.public).hex(),
            "log_id": self.log_id.hex(),
            "seal_key": self.seal.at(0).hex(),
            "mqtt": {"user": self.name, "password": self.password},
            "board": "simulated",
            "firmware": "",
            "commissioned": START,
        }

    @property
    def station(self) -> Station:
        return Station.of(self.record())

    @property
    def log_topic(self) -> str:
        partition = f"p{wire.partition(self.name):02d}"
        return wire.topic(self.site, self.name, "up", "log", partition)

    # What happens at the station

    def append(self, kind: int, body: list[Any]) -> None:
        payload = wire.dumps([self.time, 3 if self.time else 0, self.boot, self.uptime, *body])
        parts = [payload[i : i + slots.PAYLOAD] for i in range(0, len(payload), slots.PAYLOAD)]
        sector, index = 1, 0
        if self.slots:
            sector, index = self.slots[-1].sector, self.slots[-1].index + 1
            if index + len(parts) > slots.SLOTS:
                sector, index = sector + 1, 0
        for i, part in enumerate(parts):
            flags = len(part) | (_FIRST if i == 0 else 0)
            flags |= _LAST if i == len(parts) - 1 else 0
            seq = len(self.slots) + 1
            body52 = struct.pack("<HBB48s", seq & 0xFFFF, kind, flags, part)
            key = self.seal.link_key(sector)
            self._link = hashlib.sha256(key + self._link + body52).digest()[:8]
            self.slots.append(Slot(sector, index + i, bytes((kind, flags)) + part, self._link))

    def sleep(self, seconds: int) -> None:
        self.uptime += seconds
        if self.time is not None:
            self.time += seconds

    def reboot(self) -> None:
        self.boot += 1
        self.uptime = 0
        self.append(BOOT, [1, "0.1.0"])

    def start(self, tariff: tuple[int, int] = (1, 1), **fields: Any) -> int:
        self.tx += 1
        self.seq_no = 0
        cti = fields.get("cti", self.tx.to_bytes(8, "big"))
        limits = [fields.get("max_wh", 0), fields.get("max_s", 0), 0]
        token = fields.get("id_token", b"h" * 16)
        body = [self.tx, 1, 1, token, cti, b"issu", self.register, *tariff, *limits, 1]
        self.append(TX_STARTED, body)
        return self.tx

    def update(self, trigger: int = 8) -> None:
        self.seq_no += 1
        self.append(TX_UPDATED, [self.tx, self.seq_no, trigger, self.register, 1])

    def stop(self, reason: int = 6, trigger: int = 10) -> None:
        self.seq_no += 1
        self.append(TX_ENDED, [self.tx, self.seq_no, trigger, reason, self.register])

    def charge(
        self, wh: int, seconds: int = 3600, updates: int = 1, tariff: tuple[int, int] = (1, 1)
    ) -> int:
        """A whole transaction of `wh`; returns its id."""
        tx = self.start(tariff)
        for i in range(updates):
            self.register += wh * (i + 1) // updates - wh * i // updates
            self.sleep(seconds // updates)
            self.update()
        self.stop()
        return tx

    # What it sends

    def body(self, after: int, most: int = 32) -> dict[int, Any] | None:
        """The payload of the batch after slot `after`: whole records in about `most` slots."""
        end = self.end_of(after, most)
        if end <= after:
            return None
        runs: list[list[Any]] = []
        for slot in self.slots[after:end]:
            if runs and runs[-1][0] == slot.sector:
                runs[-1][2] += slot.short
                runs[-1][3] = slot.link
            else:
                runs.append([slot.sector, slot.index, slot.short, slot.link])
        return {
            2: self.site,
            3: self.name,
            10: self.log_id,
            11: after + 1,
            12: self.slots[after - 1].link if after else self._genesis,
            13: runs,
        }

    def end_of(self, after: int, most: int = 32) -> int:
        """The last slot of the batch after slot `after`."""
        end = min(after + most, len(self.slots))
        while 0 < end < len(self.slots) and not self.slots[end - 1].short[1] & _LAST:
            end += 1
        return end

    def batches(self, after: int | None = None, most: int = 32) -> list[bytes]:
        """Signed batches of all slots after `after` [what is acknowledged], sent in a row."""
        found: list[bytes] = []
        at = self.acknowledged if after is None else after
        while (body := self.body(at, most)) is not None:
            found.append(wire.seal_batch(self.key, body, *found[-1:]))
            at = self.end_of(at, most)
        return found

    def acknowledge(self, body: dict[int, Any]) -> None:
        """An acknowledgement's payload, as the firmware takes it; ValueError for a false one."""
        seq = body[11]
        if body[10] != self.log_id or not 0 < seq <= len(self.slots):
            raise ValueError("another log")
        if self.slots[seq - 1].link != body[12]:
            raise ValueError("another history")
        self.acknowledged = max(self.acknowledged, seq)
