# The one door for signed objects: each is verified, must be for this station and newer than what
# its ledger counter says, is stored whole, and only then takes effect. A power cut at any point
# leaves the old object or the new one; nothing goes back, files put back from a copy included.
# Stored objects are verified again at boot, from what flash holds.

import asyncio

from micropython import const

from chargekeep import errors
from chargekeep.authorization import allowlist, command, form, revocation, tariff
from chargekeep.authorization import trust as trust_list
from chargekeep.config import Config
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError
from chargekeep.timebase import SOURCE_STATEMENT

_TIME_FLOOR = const(2)  # counters of the ledger, FORMATS.md section 4
_CLOCK_SET = const(7)  # record types
_ACCEPTED = const(8)
_FAULT = const(9)
_BODY = const(10)

# name (last topic level): content type, counter of versions
_KINDS = {
    "trust": (cose.TRUST_LIST, 3),
    "allowlist": (cose.ALLOWLIST, 4),
    "revocation": (cose.REVOCATION_LIST, 5),
    "tariff": (cose.TARIFF, 6),
    "config": (cose.CONFIGURATION, 7),
    "command": (cose.COMMAND, 8),
    "time": (cose.TIME_STATEMENT, 9),
}
_STORED = ("trust", "revocation", "tariff", "config", "allowlist")  # trust first
_COMING = "coming"  # in place of a kind: the allowlist that is being loaded


class _Configuration(form.Object):
    def __init__(self, payload):
        super().__init__(payload, (_BODY,))
        self.config = Config(self.body[_BODY], self.version)


class _TimeStatement(form.Object):
    def __init__(self, payload):
        super().__init__(payload, (_BODY,))
        self.unix_s = form.uint(self.body[_BODY], low=1)


_PARSE = {
    "trust": trust_list.TrustList,
    "allowlist": allowlist.Header,
    "revocation": revocation.RevocationList,
    "tariff": tariff.Tariff,
    "config": _Configuration,
    "command": command.Command,
    "time": _TimeStatement,
}


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
        self._step_logged = False
        self._kids = {}  # issuer of each stored object in force
        self._store = store
        self._ledger = ledger
        self._timebase = timebase
        self._health = health
        self._lock = asyncio.Lock()

    async def load(self):
        """Take up what is stored and not in force. What does not hold is counted and stays out."""
        for kind in _STORED:
            if kind not in self._kids:
                stored = self.allowlist.stored() if kind == "allowlist" else self._store.read(kind)
                if stored is not None:
                    await self._load(kind, stored)
        data = self.allowlist.stored_coming()
        if data is not None and not self.allowlist.coming:
            await self._load("allowlist", data, coming=True)

    async def accept(self, kind, data):
        """Take the object `data` of `kind` (a topic's name) as it arrived.

        True: new and in force (an allowlist: its pages are awaited, see `wanted`); False: the one
        there was. Raises ChargekeepError for what is refused, OSError where it cannot be stored.
        """
        async with self._lock:
            return await self._accept(kind, data)

    def wanted(self):
        """`(version, n)` of the allowlist chunk to fetch next, or None."""
        return self.allowlist.wanted()

    async def accept_chunk(self, version, n, data):
        """Take an allowlist chunk. False: not the one wanted. Raises LIST_PAGE or OSError."""
        async with self._lock:
            done = await self.allowlist.chunk(version, n, data)
            if done:
                self._finish("allowlist", self.allowlist.header)
            return done is not False

    def missing(self):
        """Kinds of stored objects that were accepted once and are not in force now."""
        return [
            kind
            for kind in _STORED
            if kind not in self._kids and self._ledger.counter(_KINDS[kind][1])
        ]

    async def open_acknowledgement(self, data):
        """`(log id, seq, link)` of an acknowledgement for this station."""
        payload = await cose.open_sign1_async(data, cose.ACKNOWLEDGEMENT, self.trust.key_for)
        listed = form.Object(payload, (3, 10, 11, 12))
        self._check_addressee(listed)
        body = listed.body
        return form.octets(body[10], 16), form.uint(body[11]), form.octets(body[12], 8)

    async def _accept(self, kind, data):
        if kind not in _KINDS:
            form.fail(kind)
        listed = await self._open(kind, data)
        current = self._ledger.counter(_KINDS[kind][1])
        if kind == "allowlist" and self.allowlist.coming:
            if self.allowlist.stored_coming() == data:
                return False
            current = max(current, self.allowlist.coming.version)
        # The same version again takes effect only where what was accepted has been lost
        if listed.version < current or (listed.version == current and kind not in self.missing()):
            if listed.version == current and self._is_stored(kind, data):
                return False
            raise ChargekeepError(errors.VERSION_ROLLBACK, "%s %d" % (kind, listed.version))
        if kind == "command":
            return await self._command(listed)
        if kind == "time":
            self._state_time(listed)
        elif kind == "allowlist":
            self._kids[_COMING] = cose.parse(data)[1]
            if not await self.allowlist.expect(listed, data):
                return True
        else:
            self._store.write(kind, data)
            self._apply(kind, listed, data)
        self._finish(kind, listed)
        if kind == "trust":
            await self.load()  # what nobody vouched for before
        return True

    async def _open(self, kind, data, stored=False):
        def key_for(kid, content_type):
            return self.trust.key_for(kid, content_type, stored)

        payload = await cose.open_sign1_async(data, _KINDS[kind][0], key_for)
        listed = _PARSE[kind](payload)
        self._check_addressee(listed)
        return listed

    def _check_addressee(self, listed):
        if listed.site != self.site or listed.station not in (None, self.station):
            raise ChargekeepError(errors.OBJECT_SITE)

    def _is_stored(self, kind, data):
        if kind == "command" or kind == "time":
            return True  # done once; the same message again is no error
        stored = self.allowlist.stored() if kind == "allowlist" else self._store.read(kind)
        return stored == data

    async def _command(self, listed):
        now = self._timebase.now()
        if (self._timebase.floor() if now is None else now) >= listed.exp:
            raise ChargekeepError(errors.COMMAND_EXPIRED)
        self._finish("command", listed)  # first: a command that restarts us must not come again
        if self.on_command:
            await self.on_command(listed.command, listed.arguments)
        return True

    def _state_time(self, listed):
        try:
            old = self._timebase.state(listed.unix_s)
        except ChargekeepError as e:
            if not self._step_logged:  # once a boot: it may be sent again and again
                self._step_logged = True
                self._ledger.append(_FAULT, [e.code, 1, e.detail])
            raise
        floor = self._timebase.floor()
        if floor > self._ledger.counter(_TIME_FLOOR):
            self._ledger.advance(_TIME_FLOOR, floor)
        self._ledger.append(_CLOCK_SET, [old, listed.unix_s, SOURCE_STATEMENT])

    def _finish(self, kind, listed):
        content_type, counter = _KINDS[kind]
        if kind == "allowlist" and _COMING in self._kids:
            self._kids[kind] = self._kids.pop(_COMING)
        if listed.version > self._ledger.counter(counter):
            self._ledger.advance(counter, listed.version)
            self._ledger.append(_ACCEPTED, [content_type, listed.version])
        if self.on_change and kind != "command":
            self.on_change(kind)

    def _apply(self, kind, listed, data):
        self._kids[kind] = cose.parse(data)[1]
        if kind == "trust":
            self.trust.use(listed)
            self.generation += 1
            self._drop_disowned()
        elif kind == "revocation":
            self.revocations = revocation.Revocations(listed)
        elif kind == "tariff":
            self.tariff = listed
        elif kind == "config":
            self.config = listed.config

    def _drop_disowned(self):
        # An issuer that is not trusted any more takes with it what it had signed, but for what it
        # revoked: that stays so until a new list comes.
        for kind in list(self._kids):
            content_type = _KINDS["allowlist" if kind == _COMING else kind][0]
            try:
                self.trust.key_for(self._kids[kind], content_type, True)
            except ChargekeepError as e:
                self._health.count(e.code, kind)
                del self._kids[kind]
                if kind == "allowlist":
                    self.allowlist.use(None)
                elif kind == _COMING:
                    self.allowlist.forget_coming()
                elif kind == "tariff":
                    self.tariff = tariff.NoTariff
                elif kind == "config":
                    self.config = Config()

    async def _load(self, kind, data, coming=False):
        try:
            listed = await self._open(kind, data, True)
            version = self._ledger.counter(_KINDS[kind][1])
            if coming and listed.version <= version:
                return self.allowlist.forget_coming()  # cut just after the switch
            if listed.version < version:
                raise ChargekeepError(errors.VERSION_ROLLBACK, kind)
        except ChargekeepError as e:
            self._health.count(e.code, kind)
            if coming:
                self.allowlist.forget_coming()
            return
        if kind != "allowlist":
            self._apply(kind, listed, data)
        elif coming:
            self._kids[_COMING] = cose.parse(data)[1]
            try:
                if not await self.allowlist.resume(listed):
                    return
            except (ChargekeepError, OSError):
                self._health.count(errors.LIST_PAGE, kind)
                return
        else:
            self._kids[kind] = cose.parse(data)[1]
            self.allowlist.use(listed)
        self._finish(kind, listed)


async def _give_way():
    await asyncio.sleep(0)
