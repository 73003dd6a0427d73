# Wires the parts into a charger; the only module that knows them all. Start-up goes from what is
# trusted most to what is trusted least: flash, identity, the operator's objects, a transaction
# that a power cut interrupted, and only then the network. Nothing here waits for the network.

import asyncio
import gc
import hashlib
import json
import time

from micropython import const

from chargekeep.credential import ed25519  # first: it takes its tables while the heap is whole

# isort: split
from chargekeep import __version__, borrow, cbor, errors, health
from chargekeep.authorization import command
from chargekeep.authorization.policy import Policy
from chargekeep.authorization.spent import Spent
from chargekeep.board import open_board
from chargekeep.console import Service
from chargekeep.core import Core
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import record
from chargekeep.metering.sampler import Sampler
from chargekeep.metering.wired import open_meter
from chargekeep.reader import Console, LineReader
from chargekeep.supervisor import Supervisor
from chargekeep.sync.inbox import Inbox
from chargekeep.sync.mqtt import MqttClient
from chargekeep.sync.outbox import Outbox
from chargekeep.sync.wifi import Wifi
from chargekeep.transaction.machine import Machine
from chargekeep.transaction.wired import open_actuator
from chargekeep.update import slots
from chargekeep.update.trial import Trial

_CONNECTOR = const(1)
_TICK_MS = const(250)
_HOUSEKEEPING_MS = const(1000)
_CYCLES = const(15)  # of the sampler: one that takes longer hangs
_NEWS_MS = const(2000)
_RECEIVE = const(3072)  # bytes of the largest signed object, or four allowlist pages
_RESERVE_SLOTS = const(120)  # with fewer free slots the station calls itself degraded
_FLOOR_STEP_S = const(900)  # how much known time may be lost with the power

_TIME_FLOOR = const(2)  # ledger counter, FORMATS.md section 4

_SSID = const(1)  # keys of the file `network`
_WIFI_PASSWORD = const(2)
_HOST = const(3)
_PORT = const(4)
_USER = const(5)
_PASSWORD = const(6)
_TLS = const(7)


class App:
    """A commissioned station on `board`. `run` serves until the board restarts.

    Raises SECRET on a board that is no station yet, LEDGER_* where its log cannot be used.
    """

    def __init__(self, board):
        self.board = board
        core = Core(board, starting=True)
        self.identity = core.identity
        self.ledger = core.ledger
        self.timebase = core.timebase
        self.objects = core.objects
        self.health = core.health
        self.objects.on_command = self._on_command
        self.objects.on_change = self._on_change
        spent = Spent(core.store, self.timebase)
        self.policy = Policy(self.objects, spent, self.timebase, self.identity.site_key)
        public_key = ed25519.public_key(self.identity.seed)
        self._kid = hashlib.sha256(public_key).digest()[:4]
        self._wire_charging()
        self._wire_network(cbor.loads(core.store.read("network") or b"\xa0"))
        self.watchdog = board.watchdog()
        self.supervisor = Supervisor(self.watchdog, self.health, time.ticks_ms, time.ticks_diff)
        self.trial = Trial(self.ledger, self.health)
        self._ticks = 0
        self._heap_peak = 0
        self._oldest = -1, 0  # acknowledged seq, uptime at which the record after it was made
        self._told = None  # what the last status said: state, news, ticks

    def _wire_charging(self):
        board = self.board
        meter = open_meter(board)
        self.sampler = Sampler(meter, self.health)
        self.machine = Machine(
            self.identity.evse_id,
            _CONNECTOR,
            self.ledger,
            self.sampler,
            open_actuator(board, meter, self.health),
            self.timebase,
            self.health,
            on_begin=self._on_begin,
            on_started=self._on_started,
            on_used=self.policy.use,
            may_resume=self._may_resume,
            config=lambda: self.objects.config,
        )
        kind = board.wiring["reader"].get("type")
        if kind == "pn532":
            from chargekeep.reader_pn532 import Pn532Reader

            self.reader = Pn532Reader(board.uart("reader"), self.health)
            self._display = None
        else:
            self._display = Console() if kind == "usb" else board.uart("reader")
            self.reader = LineReader(self._display, self.health)  # what reads lines may show some

    def _wire_network(self, settings):
        me = self.identity
        count = self.health.count
        interface = self.board.network()
        self._networked = _HOST in settings
        self._presenting = False
        self.client = MqttClient(
            self._networked and _transport(settings, interface, lambda: self._presenting).open,
            me.station,
            count,
            user=settings.get(_USER),
            password=settings.get(_PASSWORD),
            receive=_RECEIVE,
        )
        self.outbox = Outbox(
            self.client,
            self.ledger,
            me.site,
            me.station,
            self._kid,
            self._sign,
            self.objects.open_acknowledgement,
            count,
        )
        self.client.will = self.outbox.will
        handlers = {
            "ack": self.outbox.acknowledged,
            "allowlist": self._on_allowlist,
            "firmware": self._on_firmware,
        }
        for kind in ("trust", "revocation", "tariff", "config", "command", "time"):
            handlers[kind] = self._accept(kind)
        self.inbox = Inbox(self.client, me.site, me.station, handlers, count)
        self._refresh = False  # what came before the trust list that vouches for it comes again
        self._chunk = None  # topic levels of the allowlist chunk that is subscribed to
        self.download = None  # of new firmware
        self.wifi = interface and Wifi(
            interface, settings.get(_SSID), settings.get(_WIFI_PASSWORD), count
        )

    # What the parts ask of each other

    def _sign(self, message):
        return ed25519.sign_async(self.identity.seed, message)

    def _on_begin(self, decision):
        self.policy.begin(decision, self.identity.evse_id)

    def _on_started(self, transaction):
        self.policy.started(transaction, self.identity.evse_id)

    def _may_resume(self, transaction):
        if self.policy.revoked(transaction.cti, transaction.id_hash):
            return False
        try:
            self._on_started(transaction)  # where flash refused it at the boot
        except ChargekeepError:
            return False
        return True

    def _accept(self, kind):
        async def handler(data):
            await self.objects.accept(kind, data)

        return handler

    async def _on_allowlist(self, data, *levels):
        try:
            if levels:
                version, n = levels
                await self.objects.accept_chunk(int(version), int(n), data)
            else:
                await self.objects.accept("allowlist", data)
        except ValueError:
            raise ChargekeepError(errors.SYNC_TOPIC, "allowlist")
        finally:
            await self._follow_chunk()

    async def _follow_chunk(self):
        wanted = self.objects.wanted()
        levels = wanted and "allowlist/%d/%d" % wanted
        if levels != self._chunk:
            if self._chunk:
                await self.inbox.unfollow(self._chunk)
            self._chunk = levels
            if levels:
                await self.inbox.follow(levels)

    async def _on_firmware(self, data, *levels):
        download = self.download
        if levels:
            if download:
                download.take(levels, data)
        elif data not in (slots.installed(), slots.failed(), download and download.data):
            if download:
                self._loading.cancel()
            self.download = borrow("chargekeep.update.download").Download(self, data)
            self._loading = asyncio.create_task(self.download.run())

    def _on_change(self, kind):
        machine, config = self.machine, self.objects.config
        transaction = machine.transaction
        if kind == "trust":
            self._refresh = True
        elif kind == "config":
            self.sampler.max_power_w = config.plausible_max_w
        elif kind == "revocation" and transaction:
            if self.policy.revoked(transaction.cti, transaction.id_hash):
                stop = config.stop_tx_on_invalid_id
                machine.deauthorize(0 if stop else config.max_energy_on_invalid_id_wh)

    async def _on_command(self, order, arguments):
        machine = self.machine
        if order in (command.STOP, command.UNLOCK_TRANSACTION):
            if arguments[0] == self.identity.evse_id and machine.transaction:
                machine.stop()
        elif order == command.SET_LIMIT:
            if arguments[0] == self.identity.evse_id:
                machine.limit(arguments[1])
        elif order == command.REBOOT:
            self.board.reset()
        elif order == command.DIAGNOSE:
            found = borrow("chargekeep.answers").diagnosis(self)
            found["request"] = arguments[0]
            self.outbox.answer(json.dumps(found).encode())
        elif order == command.CLEAR_EXCEPTION:
            if arguments[0] == errors.SPENT_LOST:
                self.policy.spent.reset()
            else:
                machine.clear()

    # The driver plane

    async def _serve_drivers(self):
        while True:
            self._presenting = False
            presented = await self.reader.read()
            self._presenting = True
            answer = await self._present(presented)
            if self._display:
                self._display.write(answer + b"\r\n")

    async def _present(self, presented):
        """One line for the reader's display: what became of the credential."""
        machine = self.machine
        decision = await self.policy.decide(presented, self.identity.evse_id, _CONNECTOR)
        try:
            if not decision.accepted:
                raise ChargekeepError(decision.code)
            if machine.present(decision):
                return b"ACCEPTED %d" % machine.transaction.id
            return b"STOPPED %d %d Wh" % (machine.transaction.id, machine.info()["energy_wh"])
        except ChargekeepError as e:
            self.health.count(e.code, decision.status)
            body = [e.code, decision.id_hash, decision.cti, decision.kid]
            self.ledger.append(record.REFUSED, body)
            return b"REFUSED E%d %s" % (e.code, decision.status.encode())

    async def _serve_machine(self):
        machine = self.machine
        evse_id = self.identity.evse_id
        running = machine.transaction
        while True:
            machine.tick()
            if running and not machine.transaction:
                self.policy.end(evse_id)
                await self.ledger.append_head(self._sign)
                self.outbox.wake()
            running = machine.transaction
            self._ticks += 1
            await asyncio.sleep_ms(_TICK_MS)

    async def _attest(self):
        # In the background; what it takes is loaded when there is something to do.
        me, trust = self.identity, self.objects.trust
        kept = None  # version whose keys have their tables on flash
        meter = self.board.wiring["meter"].get("family", "sdm630")
        while True:
            await asyncio.sleep_ms(_HOUSEKEEPING_MS)
            if trust.version != kept:
                kept = trust.version
                keys = [ed25519.public_key(me.seed)] + trust.keys()
                await borrow("chargekeep.credential.tables").keep(self.objects.store, keys)
            if self.machine.ended:
                args = (self.ledger, me.site, me.station, meter, self._kid, self._sign)
                await borrow("chargekeep.transaction.evidence").attest(self.machine, *args)

    # Housekeeping

    async def _housekeep(self):
        sampled = -1
        while True:
            await asyncio.sleep_ms(_HOUSEKEEPING_MS)
            if self.trial.pending and self.sampler.samples:
                self.trial.passed()  # it meters, and the boot record is in the log
                self._refresh = True  # newer firmware may have been refused until now
            if self._refresh and self.client.connected:
                self._refresh = False
                await self.inbox.start()
            if self.sampler.samples != sampled:  # the next reading is most of a second away
                sampled = self.sampler.samples
                self.ledger.maintain()
            self._heap_peak = max(self._heap_peak, gc.mem_alloc())
            gc.collect()
            self._report()
            # Last, for a full ledger raises. A boot that the host cannot see yet and that does
            # nothing worth a record is not worth one itself: those of a crash loop cost nothing.
            if self.client.connected or self.timebase.uptime_s() >= _FLOOR_STEP_S:
                self.ledger.record_boot()
            floor = self.timebase.floor()
            if floor - self.ledger.counter(_TIME_FLOOR) >= _FLOOR_STEP_S:
                self.ledger.advance(_TIME_FLOOR, floor)

    def _report(self):
        # A change of state is told at once, other news soon, and nothing new at the interval
        # that the operator set.
        state, why = self.state()
        machine = self.machine
        news = sum(self.health.errors.values()), self.ledger.backlog == 0, self.versions()
        news += (self.trial.update,)
        now = time.ticks_ms()
        quiet_ms = 1000 * self.objects.config.status_interval_s
        if self._told and (state, why, machine.state) == self._told[0]:
            if news != self._told[1]:
                quiet_ms = _NEWS_MS
            if time.ticks_diff(now, self._told[2]) < quiet_ms:
                return
        self._told = ((state, why, machine.state), news, now)
        text = json.dumps(self.status(state, why))
        print(text)
        self.outbox.status(text.encode())

    def state(self):
        """`(state, reasons)` as health.py defines them."""
        machine, objects = self.machine, self.objects
        reasons = health.reasons(
            self.sampler.fault or not self.sampler.samples,
            self.timebase.quality,
            bool(objects.missing()) or (self._list_age_s() or 0) > objects.config.offline_grace_s,
            self.ledger.free_slots,
            _RESERVE_SLOTS,
        )
        unsafe = machine.unsafe
        if unsafe:
            reasons.insert(0, "unsafe_%d" % unsafe)
        return health.assess(self.client.connected, unsafe, reasons), reasons

    def status(self, state, reasons):
        """The status message: what an operator needs to know, as a dict for JSON."""
        ledger = self.ledger
        last = self.health.last
        return {
            "status": state,
            "reasons": reasons,
            "station": self.identity.station,
            "firmware": __version__,
            "boot": self.timebase.boot_id,
            "uptime_s": self.timebase.uptime_s(),
            "time": self.timebase.now(),
            "time_quality": self.timebase.quality,
            "evse": self.machine.state,
            "transaction": self.machine.info(),
            "register_wh": self.sampler.register_wh,
            "meter_age_ms": self.sampler.age_ms(),
            "versions": self.versions(),
            "list_age_s": self._list_age_s(),
            "update": self.trial.update,
            "backlog": ledger.backlog,
            "oldest_unsynced_s": self._unsynced_s(),
            "free_slots": ledger.free_slots,
            "erases": ledger.erases,
            "errors": {str(code): n for code, n in self.health.errors.items()},
            "last_error": last and "E%d %s" % last,
            "heap_used": gc.mem_alloc(),
            "heap_peak": self._heap_peak,
            "heap_free": gc.mem_free(),
        }

    def _list_age_s(self):
        header, now = self.objects.allowlist.header, self.timebase.now()
        return now - header.issued_at if header and now else None

    def _unsynced_s(self):
        # How long the host has lacked the oldest record; of another boot without a clock, since
        # this one. Read from flash once for each acknowledgement.
        seq, uptime = self.ledger.acknowledged, self.timebase.uptime_s()
        if not self.ledger.backlog:
            return 0
        if self._oldest[0] != seq:
            since = 0
            for _, _, body in self.ledger.records(seq + 1):
                if body[2] == self.timebase.boot_id:
                    since = body[3]
                elif body[0] and self.timebase.now():
                    since = body[0] + uptime - self.timebase.now()
                break
            self._oldest = seq, since
        return uptime - self._oldest[1]

    def versions(self):
        """What is in force of each signed object; 0: none."""
        objects = self.objects
        header = objects.allowlist.header
        return {
            "trust": objects.trust.version,
            "allowlist": header.version if header else 0,
            "revocation": objects.revocations.version,
            "tariff": objects.tariff.version,
            "config": objects.config.version,
        }

    async def run(self):
        """Serve for ever."""
        await self.objects.load()
        self._on_change("config")
        self.machine.resume(self.watchdog.feed)
        supervisor = self.supervisor
        supervisor.add("sampler", self.sampler.run)
        supervisor.add("machine", self._serve_machine)
        supervisor.add("drivers", self._serve_drivers)
        supervisor.add("notary", self._attest)
        supervisor.add("housekeeping", self._housekeep)
        if not isinstance(self._display, Console):  # else the line belongs to the drivers
            supervisor.add("console", Service(self).run)
        sampler = self.sampler
        supervisor.watch("sampler", lambda: sampler.cycles, _CYCLES * sampler.cycle_ms)
        supervisor.watch("machine", lambda: self._ticks, 5_000)
        if self._networked:
            await self.inbox.start()
            await self._follow_chunk()
            supervisor.add("mqtt", self.client.run)
            supervisor.add("outbox", self.outbox.run)
            if self.wifi:
                supervisor.add("wifi", self.wifi.run)
        await supervisor.run()


def _transport(settings, interface, busy):
    # Loaded where there is a broker only: a board without a radio lacks what it needs.
    from chargekeep.sync.transport import Transport

    dns = interface and (lambda: interface.ifconfig()[3])
    tls = settings if settings.get(_TLS) else None
    return Transport(settings[_HOST], settings[_PORT], tls, dns, busy=busy)


def main():
    """Run the station this board is; without one, say so and return to the REPL."""
    gc.collect()  # what importing left behind would scatter what stays
    gc.threshold(gc.mem_free() // 4)
    try:
        app = App(open_board())
    except ChargekeepError as e:
        print(json.dumps({"status": health.UNSAFE, "last_error": str(e)}))
        if slots.on_trial():
            raise  # main.py restarts the board, and boot.py counts
        return
    asyncio.run(app.run())
