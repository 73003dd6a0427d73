# The rules of the one door for signed objects (objects.py): what is verified, for this station and
# newer is stored whole, counted in the ledger, and only then takes effect. Imported when something
# arrives, and at boot, and given back after.

from micropython import const

from chargekeep import errors
from chargekeep.authorization import allowlist, command, form, revocation, tariff
from chargekeep.authorization import trust as trust_list
from chargekeep.authorization.objects import KINDS, STORED
from chargekeep.config import Config
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError
from chargekeep.timebase import SOURCE_STATEMENT

_TIME_FLOOR = const(2)  # counter of the ledger, FORMATS.md section 4
_CLOCK_SET = const(7)  # record types
_ACCEPTED = const(8)
_FAULT = const(9)
_BODY = const(10)

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


class Door:
    """Works on `here`, an Objects."""

    def __init__(self, here):
        self._here = here

    async def load(self):
        """As Objects.load."""
        for kind in STORED:
            if kind not in self._here.kids:
                stored = (
                    self._here.allowlist.stored()
                    if kind == "allowlist"
                    else self._here.store.read(kind)
                )
                if stored is not None:
                    await self._load(kind, stored)
        data = self._here.allowlist.stored_coming()
        if data is not None and not self._here.allowlist.coming:
            await self._load("allowlist", data, coming=True)

    async def accept(self, kind, data):
        """As Objects.accept."""
        if kind not in KINDS:
            form.fail(kind)
        listed = await self._open(kind, data)
        current = self._here.ledger.counter(KINDS[kind][1])
        if kind == "allowlist" and self._here.allowlist.coming:
            if self._here.allowlist.stored_coming() == data:
                self._here.allowlist.base = 0  # its delta would be here
                return False
            current = max(current, self._here.allowlist.coming.version)
        # The same version again takes effect only where what was accepted has been lost
        if listed.version < current or (
            listed.version == current and kind not in self._here.missing()
        ):
            if listed.version == current and self._is_stored(kind, data):
                return False
            raise ChargekeepError(errors.VERSION_ROLLBACK, "%s %d" % (kind, listed.version))
        if kind == "command":
            return await self._command(listed)
        if kind == "time":
            self._state_time(listed)
        elif kind == "allowlist":
            self._here.kids[_COMING] = cose.parse(data)[1]
            if not await self._here.allowlist.expect(listed, data):
                return True
        else:
            self._here.store.write(kind, data)
            self._apply(kind, listed, data)
        self.finish(kind, listed)
        if kind == "trust":
            await self.load()  # what nobody vouched for before
        return True

    async def _open(self, kind, data, stored=False):
        def key_for(kid, content_type):
            return self._here.trust.key_for(kid, content_type, stored)

        payload = await cose.open_sign1_async(data, KINDS[kind][0], key_for)
        listed = _PARSE[kind](payload)
        self._here.check_addressee(listed)
        return listed

    def _is_stored(self, kind, data):
        if kind == "command" or kind == "time":
            return True  # done once; the same message again is no error
        stored = (
            self._here.allowlist.stored() if kind == "allowlist" else self._here.store.read(kind)
        )
        return stored == data

    async def _command(self, listed):
        now = self._here.timebase.now()
        if (self._here.timebase.floor() if now is None else now) >= listed.exp:
            raise ChargekeepError(errors.COMMAND_EXPIRED)
        self.finish("command", listed)  # first: a command that restarts us must not come again
        if self._here.on_command:
            await self._here.on_command(listed.command, listed.arguments)
        return True

    def _state_time(self, listed):
        try:
            old = self._here.timebase.state(listed.unix_s)
        except ChargekeepError as e:
            if not self._here.step_logged:  # once a boot: it may be sent again and again
                self._here.step_logged = True
                self._here.ledger.append(_FAULT, [e.code, 1, e.detail])
            raise
        floor = self._here.timebase.floor()
        if floor > self._here.ledger.counter(_TIME_FLOOR):
            self._here.ledger.advance(_TIME_FLOOR, floor)
        self._here.ledger.append(_CLOCK_SET, [old, listed.unix_s, SOURCE_STATEMENT])

    def finish(self, kind, listed):
        """What was accepted is in force: count its version, and tell."""
        content_type, counter = KINDS[kind]
        if kind == "allowlist" and _COMING in self._here.kids:
            self._here.kids[kind] = self._here.kids.pop(_COMING)
        if listed.version > self._here.ledger.counter(counter):
            self._here.ledger.advance(counter, listed.version)
            self._here.ledger.append(_ACCEPTED, [content_type, listed.version])
        if self._here.on_change and kind != "command":
            self._here.on_change(kind)

    def _apply(self, kind, listed, data):
        self._here.kids[kind] = cose.parse(data)[1]
        if kind == "trust":
            self._here.trust.use(listed)
            self._here.generation += 1
            self._drop_disowned()
        elif kind == "revocation":
            self._here.revocations = revocation.Revocations(listed)
        elif kind == "tariff":
            self._here.tariff = listed
        elif kind == "config":
            self._here.config = listed.config

    def _drop_disowned(self):
        # An issuer that is not trusted any more takes with it what it had signed, but for what it
        # revoked: that stays so until a new list comes.
        for kind in list(self._here.kids):
            content_type = KINDS["allowlist" if kind == _COMING else kind][0]
            try:
                self._here.trust.key_for(self._here.kids[kind], content_type, True)
            except ChargekeepError as e:
                self._here.health.count(e.code, kind)
                del self._here.kids[kind]
                if kind == "allowlist":
                    self._here.allowlist.use(None)
                elif kind == _COMING:
                    self._here.allowlist.forget_coming()
                elif kind == "tariff":
                    self._here.tariff = tariff.NoTariff
                elif kind == "config":
                    self._here.config = Config()

    async def _load(self, kind, data, coming=False):
        try:
            listed = await self._open(kind, data, True)
            version = self._here.ledger.counter(KINDS[kind][1])
            if coming and listed.version <= version:
                return self._here.allowlist.forget_coming()  # cut just after the switch
            if listed.version < version:
                raise ChargekeepError(errors.VERSION_ROLLBACK, kind)
        except ChargekeepError as e:
            self._here.health.count(e.code, kind)
            if coming:
                self._here.allowlist.forget_coming()
            return
        if kind != "allowlist":
            self._apply(kind, listed, data)
        elif coming:
            self._here.kids[_COMING] = cose.parse(data)[1]
            try:
                if not await self._here.allowlist.resume(listed):
                    return
            except (ChargekeepError, OSError):
                self._here.health.count(errors.LIST_PAGE, kind)
                return
        else:
            self._here.kids[kind] = cose.parse(data)[1]
            self._here.allowlist.use(listed)
        self.finish(kind, listed)
