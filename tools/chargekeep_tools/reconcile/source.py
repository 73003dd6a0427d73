"""Where the reconciler's messages come from: a broker that keeps each until it is done with.

`Source` is the port and its loop. `MqttSource` is mosquitto or any other MQTT 3.1.1 broker;
amqp.py is RabbitMQ's queues, for several reconcilers.
"""

import contextlib
import logging
import select
import ssl
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy.exc import SQLAlchemyError

from chargekeep_tools import tls
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.reconcile.worker import Group, Message, Reconciler

PARTITIONS = tuple(f"p{number:02d}" for number in range(64))  # as `wire.partition` has it
_LOG = "chargekeep/1/+/+/up/log/"
TOPIC = _LOG + "+"
_GROUP = 1000  # batches of one commit at most
_AHEAD = 2  # groups that are verified while one is committed
_IDLE_S = 0.2
_PROJECT_EVERY_S, _PROJECT_S = 10.0, 2.0  # under load without a pause
_SEND_S = 10.0
_PUBACK = b"\x40\x02"  # MQTT 3.1.1 section 3.4
_BACK_OFF_S = (1.0, 30.0)

log_ = logging.getLogger(__name__)


class Source(ABC):
    """A connection to a broker that comes back, and hands over again what was not `done`.

    messages: what came and was not taken yet; `failures`: what a broken connection raises.
    """

    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._groups: deque[Group] = deque()  # being verified, in the order they came
        self._project_at = time.monotonic() + _PROJECT_EVERY_S

    @abstractmethod
    def open(self) -> None:
        """Connect. Raises `failures`."""

    @abstractmethod
    def poll(self, timeout_s: float) -> None:
        """Add what comes within `timeout_s` to `messages`. Raises `failures`."""

    @abstractmethod
    def close(self) -> None:
        """Break the connection, if there is one: the broker keeps what is not done."""

    @abstractmethod
    def publish(self, topic: str, payload: bytes) -> None:
        """Send to the MQTT topic, at least once while the connection holds."""

    def run(self, reconciler: Reconciler, stop: Callable[[], bool] = lambda: False) -> None:
        """Work until `stop`. A broker or a database that is away is waited for."""
        delay = _BACK_OFF_S[0]
        while not stop():
            try:
                self.open()
                while not stop():
                    self._step(reconciler)
                    delay = _BACK_OFF_S[0]
            except SQLAlchemyError as error:
                log_.error("database: %s", error)  # nothing of the group was acknowledged
            except self.failures as error:
                log_.warning("broker: %s", error)
            self.messages.clear()
            self._groups.clear()
            self.close()
            give_up = time.monotonic() + delay
            while not stop() and time.monotonic() < give_up:
                time.sleep(_IDLE_S)
            delay = min(2 * delay, _BACK_OFF_S[1])

    def _step(self, reconciler: Reconciler) -> None:
        before = len(self.messages)
        self.poll(0 if before or self._groups else _IDLE_S)
        waiting = len(self.messages)
        pause = waiting == before
        if waiting and (pause or waiting >= _GROUP):
            self._groups.append(reconciler.begin(self.messages))
            self.messages = []
        if self._groups and (pause or len(self._groups) > _AHEAD):
            reconciler.finish(self._groups.popleft())
        idle = not (waiting or self._groups)
        if idle or time.monotonic() > self._project_at:
            reconciler.project(_PROJECT_S)
            self._project_at = time.monotonic() + _PROJECT_EVERY_S


class _Link:
    """A socket for paho that reads ahead, and keeps what is sent for the next `flush`.

    paho alone asks the system four times for each packet and writes each one by itself.
    """

    _SIZE = 1 << 17

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.fileno, self.setblocking = inner.fileno, inner.setblocking
        self._in = memoryview(b"")
        self._out = bytearray()
        self.failure: ssl.SSLError | None = None  # of which paho tells its log only

    def pending(self) -> int:
        """Bytes that are here already, of which no `select` tells."""
        return len(self._in) or getattr(self.inner, "pending", int)()

    def recv(self, size: int) -> bytes:
        if not self._in:
            try:
                self._in = memoryview(self.inner.recv(self._SIZE))
            except ssl.SSLError as error:
                self.failure = error
                raise
        found = bytes(self._in[:size])
        self._in = self._in[size:]
        return found

    def send(self, data: bytes | bytearray) -> int:
        self._out += data
        return len(data)

    def flush(self) -> None:
        """Send everything, within `_SEND_S`."""
        give_up = time.monotonic() + _SEND_S
        while self._out:
            try:
                del self._out[: self.inner.send(self._out)]
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if time.monotonic() > give_up:
                    raise TimeoutError("the broker takes nothing") from None
                select.select([], [self.inner], [], _IDLE_S)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.inner.send(self._out)  # most likely DISCONNECT
        self.inner.close()


class _Client(mqtt.Client):
    """paho over a `_Link`; messages go to `on_batch(topic, payload, mid)`, without its detours."""

    on_batch: Callable[[str, bytes, int], None]

    def _create_socket(self) -> Any:
        self.link = _Link(super()._create_socket())
        return self.link

    def _handle_publish(self) -> Any:
        # MQTT 3.1.1 section 3.3; we subscribe with QoS 1, and stations publish with it.
        packet = self._in_packet["packet"]
        end = 2 + int.from_bytes(packet[:2])
        qos = self._in_packet["command"] >> 1 & 3
        if qos != 1 or len(packet) < end + 2:
            return mqtt.MQTT_ERR_SUCCESS if qos == 0 else mqtt.MQTT_ERR_PROTOCOL
        mid = int.from_bytes(packet[end : end + 2])
        self.on_batch(packet[2:end].decode("utf-8", "replace"), bytes(packet[end + 2 :]), mid)
        return mqtt.MQTT_ERR_SUCCESS


class MqttSource(Source):
    """An MQTT broker, with PUBACKs in our own hand.

    url: mqtt://user:password@host:port, or mqtts:// with ?ca=FILE&cert=FILE&key=FILE.
    """

    def __init__(
        self,
        url: str,
        client_id: str = "chargekeep-reconciler",
        topics: Sequence[str] = (TOPIC,),
    ) -> None:
        super().__init__()
        parts = urlsplit(url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise ToolError(
                f"{url!r} is no broker", Exit.USAGE, "write mqtt://user:password@host:port"
            )
        self.host = parts.hostname
        self.port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        self.topics = topics
        self.refused: Any = None
        # Not a clean session: what comes while we are away waits at the broker.
        self.client = _Client(
            CallbackAPIVersion.VERSION2, client_id, clean_session=False, manual_ack=True
        )
        if parts.username:
            self.client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        context = tls.context(url)
        if context:
            self.client.tls_set_context(context)
        self.client.max_inflight_messages_set(0)
        self.client.on_connect = self._on_connect
        self.client.on_batch = self._on_batch
        self._session = 0

    def open(self) -> None:
        try:
            self.client.connect(self.host, self.port, keepalive=30)
        except ssl.SSLError as error:
            raise tls.refusal(f"{self.host}:{self.port}", error) or error

    def poll(self, timeout_s: float) -> None:
        self.client.link.flush()
        code = self.client.loop(timeout=timeout_s)
        while not code and self.client.link.pending() and len(self.messages) < _GROUP:
            code = self.client.loop_read()
        if self.refused is not None:
            raise ToolError(
                f"{self.host}:{self.port} refused: {self.refused}",
                Exit.BROKER,
                "check user and password",
            )
        if code != mqtt.MQTT_ERR_SUCCESS:
            where = f"{self.host}:{self.port}"
            refusal = tls.refusal(where, self.client.link.failure)
            raise refusal or ConnectionError(f"{where}: {mqtt.error_string(code)}")

    def close(self) -> None:
        self.client.disconnect()

    def publish(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, qos=1)

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, _: Any) -> None:
        self.refused = reason if reason.is_failure else None
        self._session += 1
        if not reason.is_failure:
            client.subscribe([(topic, 1) for topic in self.topics])

    def _on_batch(self, topic: str, payload: bytes, mid: int) -> None:
        session, puback = self._session, _PUBACK + mid.to_bytes(2)

        def done() -> None:
            if session == self._session:
                self.client.link.send(puback)

        self.messages.append(Message(topic, payload, done))


def partitions(words: Iterable[str]) -> list[str]:
    """The partitions named by `p07` or `k/n` (those whose number leaves k when divided by n).

    Raises `ToolError` for anything else.
    """
    found = set()
    for word in words:
        k, slash, n = word.partition("/")
        if word in PARTITIONS:
            found.add(word)
        elif slash and k.isdigit() and n.isdigit() and int(k) < int(n) <= len(PARTITIONS):
            found.update(PARTITIONS[int(k) :: int(n)])
        else:
            raise ToolError(f"{word!r} is no partition", Exit.USAGE, "write p00 to p63, or 0/4")
    return sorted(found)


def source_for(url: str, words: Iterable[str] = ()) -> Source:
    """The source at `url` for the partitions that `words` name [all]."""
    names = partitions(words)
    if urlsplit(url).scheme in ("amqp", "amqps"):
        try:
            from chargekeep_tools.reconcile.amqp import AmqpSource
        except ImportError:
            hint = "pip install 'chargekeep-tools[cluster]'"
            raise ToolError("pika is not installed", Exit.USAGE, hint)
        return AmqpSource(url, names or PARTITIONS)
    client_id = "-".join(["chargekeep-reconciler", *sorted(words)])
    return MqttSource(url, client_id, [_LOG + name for name in names] or [TOPIC])
