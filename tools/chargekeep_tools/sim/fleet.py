"""Many chargers on flapping networks, against a real broker and a real reconciler.

Each is a `Replica` with an MQTT connection of its own and the outbox's rules: a window of signed
batches, resent from the acknowledged cursor, freed by nothing but the signed acknowledgement.
"""

import contextlib
import random
import secrets
import select
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from chargekeep_tools import wire
from chargekeep_tools.sim.replica import Replica

_WINDOW = 4
_SLOTS = 32  # of a batch
_ACK_TIMEOUT_S = 2.0
_STEP_S = 60  # simulated, for each step of a station's life


class Charger:
    """A replica online. `wh` is what its meter counted in transactions that have ended; `answers`
    are signed acknowledgements.
    """

    def __init__(self, replica: Replica, fleet: "Fleet", online: float) -> None:
        self.replica = replica
        self.fleet = fleet
        self.chance = random.Random(replica.name)
        self.online = online
        self.wh = self.cuts = self.resent = self.answers = 0
        self.client: mqtt.Client | None = None
        self.connected = False
        self._sent = 0
        self._sent_at = 0.0
        self._ends: dict[int, int] = {}  # last slot by packet id
        self._flip_at = 0.0
        self._left = 0  # steps of the running transaction
        self._begun = 0  # register at its start
        self._running = False

    # Life

    def live(self, steps: int) -> None:
        """`steps` minutes of charging, idling, and now and then a restart."""
        replica, chance = self.replica, self.chance
        for _ in range(steps):
            replica.sleep(_STEP_S)
            if self._left:
                self._left -= 1
                replica.register += chance.randrange(400)
                if not self._left:
                    self.finish()
                elif chance.random() < 0.01:
                    replica.reboot()
                else:
                    replica.update()
            elif chance.random() < 0.05:
                self._left = chance.randrange(5, 120)
                self._begun, self._running = replica.register, True
                replica.start(self.fleet.tariff, cti=None)

    def finish(self) -> None:
        """End what is running."""
        if self._running:
            self.replica.stop()
            self.wh += self.replica.register - self._begun
        self._running, self._left = False, 0

    # Network

    def step(self, now: float) -> None:
        """Flip the network where it is time to, and send what may be sent."""
        if now >= self._flip_at and self.online < 1:
            self._flip_at = now + self.fleet.period_s * self.chance.uniform(0.2, 1.0) * (
                self.online if self.client is None else 1 - self.online
            )
            if self.client is None:
                self._connect()
            else:
                self.cut()
        elif self.client is None and self.online >= 1:
            self._connect()
        if self.client is not None:
            if self.client.loop_misc() != mqtt.MQTT_ERR_SUCCESS:
                self.cut()
            elif self.connected:
                self._send(now)

    def cut(self) -> None:
        """The network is gone, in the middle of whatever was on its way."""
        if self.client is not None:
            self.cuts += 1
            with contextlib.suppress(OSError, ValueError):
                found = self.client.socket()
                if found is not None:
                    found.close()
        self.client = None
        self.connected = False

    def _connect(self) -> None:
        replica = self.replica
        client = mqtt.Client(CallbackAPIVersion.VERSION2, replica.name)
        client.username_pw_set(replica.name, replica.password)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        if self.fleet.believe_puback:
            client.on_publish = self._on_publish
        try:
            client.connect(*self.chance.choice(self.fleet.addresses))
        except OSError:
            return
        self.client = client

    def _on_connect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, _: Any
    ) -> None:
        self.connected = not reason.is_failure
        client.subscribe(wire.topic(self.replica.site, self.replica.name, "down", "ack"), 1)
        self.resent += self._sent > self.replica.acknowledged
        self._rewind()
        self._ends = {}
        self._sent_at = time.monotonic()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            body = wire.open_sign1(
                bytes(message.payload), wire.ACKNOWLEDGEMENT, self.fleet.key_for
            )
            self.replica.acknowledge(body)
            self.answers += 1
        except ValueError:
            return
        self._sent_at = time.monotonic()

    def _on_publish(
        self, client: mqtt.Client, userdata: Any, mid: int, reason: Any, _: Any
    ) -> None:
        if client is self.client and mid in self._ends:
            self.replica.acknowledged = max(self.replica.acknowledged, self._ends.pop(mid))

    def _rewind(self) -> None:
        self._sent, self._newest = self.replica.acknowledged, b""

    def _send(self, now: float) -> None:
        replica = self.replica
        if self._sent > replica.acknowledged and now - self._sent_at > _ACK_TIMEOUT_S:
            self.resent += 1
            self._rewind()
            self._sent_at = now
        self._sent = max(self._sent, replica.acknowledged)
        while self._sent < min(len(replica.slots), replica.acknowledged + _WINDOW * _SLOTS):
            body = replica.body(self._sent, _SLOTS)
            if body is None or self.client is None:
                return
            self._newest = wire.seal_batch(replica.key, body, self._newest)
            info = self.client.publish(replica.log_topic, self._newest, 1)
            self._sent = replica.end_of(self._sent, _SLOTS)
            if self.fleet.believe_puback:
                self._ends[info.mid] = self._sent


class Fleet:
    """Chargers on one broker, run in this thread; `online` is the share of time they have one.

    addresses: (host, port) of each of its nodes; key_for: who may sign acknowledgements; tariff:
    (id, version) that transactions begin under; period_s: the longest time from one connection to
    the next. With `believe_puback` they free what the broker has acknowledged, as chargekeep
    never does: the control of the experiments.
    """

    def __init__(
        self,
        replicas: Iterable[Replica],
        addresses: Sequence[tuple[str, int]],
        key_for: wire.KeyFor,
        online: float = 0.3,
        tariff: tuple[int, int] = (1, 1),
        period_s: float = 1.0,
        believe_puback: bool = False,
    ) -> None:
        self.addresses = addresses
        self.period_s = period_s
        self.believe_puback = believe_puback
        self.key_for = key_for
        self.tariff = tariff
        self.chargers = [Charger(replica, self, online) for replica in replicas]

    def run(self, until: Callable[[], bool], steps: int = 0) -> None:
        """Serve all connections until `until()`; in each round everyone lives `steps` minutes."""
        while not until():
            self.round(steps)

    def round(self, steps: int = 0) -> None:
        for charger in self.chargers:
            charger.live(steps)
            charger.step(time.monotonic())
        self._serve()

    def drain(self, seconds: float) -> bool:
        """Everyone stays online until all is acknowledged; False if that takes too long."""
        for charger in self.chargers:
            charger.finish()
            charger.online = 1
        give_up = time.monotonic() + seconds
        self.run(lambda: self.backlog() == 0 or time.monotonic() > give_up)
        return self.backlog() == 0

    def backlog(self) -> int:
        """Slots that are not acknowledged."""
        return sum(len(c.replica.slots) - c.replica.acknowledged for c in self.chargers)

    def close(self) -> None:
        for charger in self.chargers:
            charger.cut()

    def _serve(self) -> None:
        sockets = {}
        for charger in self.chargers:
            client = charger.client
            found = client.socket() if client is not None else None
            if found is None:
                charger.client = None
            else:
                sockets[found] = charger
        writers = [s for s, c in sockets.items() if c.client is not None and c.client.want_write()]
        poller = select.poll()
        by_number = {}
        for found, charger in sockets.items():
            by_number[found.fileno()] = charger
            poller.register(found, select.POLLIN | (select.POLLOUT if found in writers else 0))
        for number, happened in poller.poll(20):
            client = by_number[number].client
            if client is None:
                continue
            failed = False
            if happened & select.POLLOUT:
                failed = client.loop_write() != mqtt.MQTT_ERR_SUCCESS
            if happened & ~select.POLLOUT and not failed:
                failed = client.loop_read() != mqtt.MQTT_ERR_SUCCESS
            if failed:
                by_number[number].cut()


def play(chargers: int, minutes: int, online: float) -> int:
    """All parts in a folder that goes away; 0 if every Wh was billed once, else 1."""
    from chargekeep_tools import keys, objects
    from chargekeep_tools.broker import RECONCILER, Broker
    from chargekeep_tools.home import Home
    from chargekeep_tools.reconcile import cli, store
    from chargekeep_tools.reconcile.source import MqttSource

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        home = Home(Path(name) / "home")
        keys.create(home, "root", "root", encrypted=False)
        keys.create(home, "issuer", "issuer", encrypted=False)
        prices = {10: 1, 11: "EUR", 12: 3500, 13: 0, 14: 0}
        objects.sign(home, wire.TARIFF, "fleet", prices, now=0)
        replicas = [Replica("fleet", f"cp-{i}") for i in range(chargers)]
        for replica in replicas:
            home.save_station(replica.record())
        accounts = {RECONCILER: secrets.token_hex(8)}
        broker = Broker(Path(name) / "broker", home.stations(), accounts)
        engine = store.connect(f"sqlite:///{name}/reconcile.db")
        with broker:
            source = MqttSource(broker.url(RECONCILER))
            reconciler = cli.reconciler_for(home, engine, None, source.publish)
            done = threading.Event()
            worker = threading.Thread(target=source.run, args=(reconciler, done.is_set))
            worker.start()
            addresses = [(broker.host, broker.port)]
            fleet = Fleet(replicas, addresses, keys.key_for(home), online)
            for lived in range(0, minutes, 10):
                fleet.round(steps=min(10, minutes - lived))
            drained = fleet.drain(60 + chargers)
            fleet.close()
            done.set()
            worker.join()
        reconciler.project()
        found = cli.list_bills(engine)
    metered = sum(charger.wh for charger in fleet.chargers)
    billed = sum(bill["energy_wh"] for bill in found)
    slots = sum(len(replica.slots) for replica in replicas)
    print(
        f"{chargers} chargers, {minutes} min, {sum(c.cuts for c in fleet.chargers)} cuts, "
        f"{slots} slots, {len(found)} bills in {time.monotonic() - began:.1f} s"
    )
    print(f"metered {metered} Wh, billed {billed} Wh, not acknowledged {fleet.backlog()} slots")
    return 0 if drained and metered == billed else 1
