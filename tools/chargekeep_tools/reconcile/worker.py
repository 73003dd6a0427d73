"""The reconciler at work: MQTT in, database, PUBACK, signed acknowledgement out.

Order is everything. A message is acknowledged to the broker after the commit that holds it, and
to the station after that, with the key that stations trust for it. A crash anywhere between
costs a repeat, which the cursor recognizes.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import paho.mqtt.client as mqtt
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy.exc import DBAPIError

from chargekeep_tools import wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.reconcile.project import Projector
from chargekeep_tools.reconcile.store import Log, Store
from chargekeep_tools.reconcile.verify import Batch, Station, Stations, open_batch

TOPIC = "chargekeep/1/+/+/up/log/+"
_GROUP = 500  # batches of one commit at most
_IDLE_S = 0.2
_BACK_OFF_S = (1.0, 30.0)

log_ = logging.getLogger(__name__)


@dataclass
class Message:
    """What came: `done` tells the broker that it need not keep it."""

    topic: str
    payload: bytes
    done: Callable[[], None] = lambda: None


@dataclass
class Figures:
    """What the reconciler did since it started."""

    batches: Counter[str] = field(default_factory=Counter)  # by outcome
    refused: Counter[int] = field(default_factory=Counter)  # by error code
    slots: int = 0
    records: int = 0
    commits: int = 0
    acknowledgements: int = 0


class Reconciler:
    """Takes groups of messages to the database and answers them. Knows no network.

    publish: `publish(topic, payload)` sends an acknowledgement.
    """

    def __init__(
        self,
        engine: sa.Engine,
        stations: Stations,
        key: Ed25519PrivateKey,
        publish: Callable[[str, bytes], None],
        projector: Projector | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self.store = Store(engine)
        self.stations = stations
        self.key = key
        self.publish = publish
        self.projector = projector or Projector(engine, stations)
        self.clock = clock
        self.figures = Figures()
        self._version = 0

    def take(self, messages: list[Message]) -> None:
        """One commit for all `messages`, then their PUBACKs, then the acknowledgements.

        Raises what the database raises; then nothing was acknowledged.
        """
        opened = [found for message in messages if (found := self._open(message)) is not None]
        heads: dict[int, Log] = {}
        if opened:
            outcomes = self.store.ingest(opened, int(self.clock()))
            self.figures.commits += 1
            for (batch, _), outcome in zip(opened, outcomes, strict=True):
                self.figures.batches[outcome.kind] += 1
                if outcome.kind == "accepted":
                    self.figures.slots += batch.last - batch.first + 1
                if outcome.log.head_seq:
                    heads[outcome.log.id] = outcome.log
        for message in messages:
            message.done()
        for log in heads.values():
            self._acknowledge(log)

    def project(self) -> None:
        """Bring transactions and bills up to what is stored."""
        self.figures.records += self.projector.run()

    def _open(self, message: Message) -> tuple[Batch, Station] | None:
        try:
            _, _, site, name, *_ = message.topic.split("/")
            station = self.stations.get(site, name)
            if station is None:
                raise wire.WireError(wire.COSE_UNKNOWN_KID, f"no station {site}/{name}")
            try:
                return open_batch(message.payload, station), station
            except wire.WireError as error:
                if error.code != wire.COSE_UNKNOWN_KID:
                    raise
                self.stations.refresh()  # commissioned anew since we looked
                station = self.stations.get(site, name) or station
                return open_batch(message.payload, station), station
        except (wire.WireError, ValueError) as error:
            # Not the station's words: nothing to keep, and never an acknowledgement.
            code = error.code if isinstance(error, wire.WireError) else 0
            self.figures.refused[code] += 1
            log_.warning("%s: %s", message.topic, error)
            return None

    def _acknowledge(self, log: Log) -> None:
        now = self.clock()
        self._version = max(self._version + 1, int(now))
        payload = {
            1: self._version,
            2: log.site,
            3: log.station,
            4: int(now),
            10: log.log_id,
            11: log.head_seq,
            12: log.head_link,
        }
        data = wire.seal_sign1(wire.ACKNOWLEDGEMENT, self.key, payload)
        self.publish(wire.topic(log.site, log.station, "down", "ack"), data)
        self.figures.acknowledgements += 1


class MqttSource:
    """Feeds a `Reconciler` from a broker, with PUBACKs in our own hand.

    url: mqtt://user:password@host:port, or mqtts:// with ?ca=FILE&cert=FILE&key=FILE.
    """

    def __init__(
        self,
        url: str,
        client_id: str = "chargekeep-reconciler",
        topics: Sequence[str] = (TOPIC,),
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise ToolError(
                f"{url!r} is no broker", Exit.USAGE, "write mqtt://user:password@host:port"
            )
        self.host = parts.hostname
        self.port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        self.topics = topics
        self.messages: list[Message] = []
        self.refused: Any = None
        # Not a clean session: what comes while we are away waits at the broker.
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id, clean_session=False, manual_ack=True
        )
        if parts.username:
            self.client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            files = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self.client.tls_set(files.get("ca"), files.get("cert"), files.get("key"))
        self.client.max_inflight_messages_set(0)
        self.client.on_connect = self._on_connect
        self.client.on_message = self._on_message
        self._session = 0

    def publish(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, qos=1)

    def run(self, reconciler: Reconciler, stop: Callable[[], bool] = lambda: False) -> None:
        """Work until `stop`. A broker that is away is waited for."""
        delay = _BACK_OFF_S[0]
        while not stop():
            try:
                self.client.connect(self.host, self.port, keepalive=30)
                while not stop() and self._step(reconciler):
                    delay = _BACK_OFF_S[0]
                if self.refused is not None:
                    raise ToolError(
                        f"{self.host}:{self.port} refused: {self.refused}",
                        Exit.BROKER,
                        "check user and password",
                    )
            except OSError as error:
                log_.warning("%s:%d: %s", self.host, self.port, error)
            self.messages.clear()  # the broker sends again what was not acknowledged
            give_up = time.monotonic() + delay
            while not stop() and time.monotonic() < give_up:
                time.sleep(_IDLE_S)
            delay = min(2 * delay, _BACK_OFF_S[1])
        self.client.disconnect()

    def _step(self, reconciler: Reconciler) -> bool:
        before = len(self.messages)
        code = self.client.loop(timeout=0 if before else _IDLE_S)
        waiting = len(self.messages)
        try:
            if waiting and (waiting == before or waiting >= _GROUP):
                group, self.messages = self.messages, []
                reconciler.take(group)
            elif not waiting:
                reconciler.project()
        except DBAPIError as error:
            # Nothing was acknowledged: the broker keeps the messages for the next connection.
            log_.error("database: %s", error)
            self.client.disconnect()
            return False
        return code == mqtt.MQTT_ERR_SUCCESS

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, _: Any) -> None:
        self.refused = reason if reason.is_failure else None
        self._session += 1
        if not reason.is_failure:
            client.subscribe([(topic, 1) for topic in self.topics])

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        session, mid, qos = self._session, message.mid, message.qos

        def done() -> None:
            if session == self._session:
                client.ack(mid, qos)

        self.messages.append(Message(message.topic, bytes(message.payload), done))
