# What the operator told this station, through the one door for signed objects: each is verified,
# must be for this station and newer than what its ledger counter says, is stored whole, and only
# then takes effect. A power cut at any point leaves the old object or the new one; nothing goes
# back, files put back from a copy included. Stored ones are verified again at each boot.

import asyncio

from chargekeep import borrow, errors
from chargekeep.authorization import allowlist, form, revocation, tariff
from chargekeep.authorization import trust as trust_list
from chargekeep.config import Config
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError

# name (last topic level): content type, counter of versions in the ledger (FORMATS.md section 4)
KINDS = {
    "trust": (cose.TRUST_LIST, 3),
    "allowlist": (cose.ALLOWLIST, 4),
    "revocation": (cose.REVOCATION_LIST, 5),
    "tariff": (cose.TARIFF, 6),
    "config": (cose.CONFIGURATION, 7),
    "command": (cose.COMMAND, 8),
    "time": (cose.TIME_STATEMENT, 9),
}
STORED = ("trust", "revocation", "tariff", "config", "allowlist")  # trust first


class Objects:
    """What the operator told this station: `trust`, `allowlist`, `revocations`, `tariff` and
    `config`.

    `site` and `station` are names, `root_key` is 32 bytes, `health` counts errors. Mount the
    ledger and start the timebase, then await `load`. `on_command(command, arguments)` is awaited
    for each new command, `on_change(kind)` called after anything else took effect.
    """

    def __init__(
        self,
        site,
        station,
        root_key,
        store,
        ledger,
        timebase,
        health,
        on_command=None,
        on_change=None,
    ):
        self.site = site
        self.station = station
        self.trust = trust_list.Trust(root_key, timebase)
        self.allowlist = allowlist.Allowlist(store, _give_way)
        self.revocations = revocation.Revocations()
        self.tariff = tariff.NoTariff
        self.config = Config()
        self.on_command = on_command
        self.on_change = on_change
        self.generation = 0  # counts trust lists: what was verified under another needs it again
        self.step_logged = False  # of a refused step back in time: once a boot
        self.kids = {}  # issuer of each stored object in force
        self.store = store
        self.ledger = ledger
        self.timebase = timebase
        self.health = health
        self._lock = asyncio.Lock()

    async def load(self):
        """Take up what is stored and not in force. What does not hold is counted and stays out."""
        async with self._lock:
            await self._door().load()

    async def accept(self, kind, data):
        """Take the object `data` of `kind` (a topic's name) as it arrived.

        True: new and in force (an allowlist: its pages are awaited, see `wanted`); False: the one
        there was. Raises ChargekeepError for what is refused, OSError where it cannot be stored.
        """
        async with self._lock:
            return await self._door().accept(kind, data)

    def wanted(self):
        """`(version, n)` of the allowlist chunk to fetch next, or None."""
        return self.allowlist.wanted()

    async def accept_chunk(self, version, n, data):
        """Take an allowlist chunk. False: not the one wanted. Raises LIST_PAGE or OSError."""
        async with self._lock:
            done = await self.allowlist.chunk(version, n, data)
            if done:
                self._door().finish("allowlist", self.allowlist.header)
            return done is not False

    def missing(self):
        """Kinds of stored objects that were accepted once and are not in force now."""
        return [
            kind
            for kind in STORED
            if kind not in self.kids and self.ledger.counter(KINDS[kind][1])
        ]

    async def open_acknowledgement(self, data):
        """`(log id, seq, link)` of an acknowledgement for this station."""
        payload = await cose.open_sign1_async(data, cose.ACKNOWLEDGEMENT, self.trust.key_for)
        listed = form.Object(payload, (3, 10, 11, 12))
        self.check_addressee(listed)
        body = listed.body
        return form.octets(body[10], 16), form.uint(body[11]), form.octets(body[12], 8)

    def check_addressee(self, listed):
        """Raises OBJECT_SITE where `listed` (form.Object) is for others."""
        if listed.site != self.site or listed.station not in (None, self.station):
            raise ChargekeepError(errors.OBJECT_SITE)

    def _door(self):
        return borrow("chargekeep.authorization.door").Door(self)


async def _give_way():
    await asyncio.sleep(0)
