"""RabbitMQ as the reconciler's source: one quorum queue for each partition of the stations.

RabbitMQ's MQTT plugin puts what stations publish into the exchange amq.topic, where the queues
are bound by the partition at the end of the topic. A queue has one consumer at a time (single
active consumer), so that a station's batches come in order; the next in line takes over when it
dies. A delivery is acknowledged after the commit that holds it.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import pika
import pika.exceptions

from chargekeep_tools import tls
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.reconcile.source import Source
from chargekeep_tools.reconcile.worker import Message

EXCHANGE = "amq.topic"
QUEUE = "chargekeep.log."
_PREFETCH = 250  # of each queue; RabbitMQ counts them by consumer
_HEARTBEAT_S = 30  # longer than a commit; a broken connection is noticed after two

logging.getLogger("pika").setLevel(logging.CRITICAL)  # each failure is ours to tell, once
log_ = logging.getLogger(__name__)


def queue_of(partition: str) -> str:
    return QUEUE + partition


class AmqpSource(Source):
    """The queues of `partitions` in a RabbitMQ cluster; makes those that are not there.

    url: amqp://user:password@host:port,host:port/vhost; amqps:// takes ?ca=FILE&cert=FILE&key=FILE
    Of several hosts the first that answers is used.
    """

    failures = (OSError, pika.exceptions.AMQPError)

    def __init__(self, url: str, partitions: Sequence[str]) -> None:
        super().__init__()
        self.partitions = partitions
        self.parameters = list(_parameters(url))
        self.connection: Any = None
        self.channel: Any = None
        # RabbitMQ stops reading from a connection that publishes when it runs out of memory or
        # disk. Deliveries must be acknowledged then, so acknowledgements to stations go apart.
        self.out: Any = None
        self.out_channel: Any = None
        self._blocked = False

    def open(self) -> None:
        self.connection = self._connect()
        self.out = self._connect()
        self._blocked = False
        self.out.add_on_connection_blocked_callback(partial(self._block, True))
        self.out.add_on_connection_unblocked_callback(partial(self._block, False))
        self.out_channel = self.out.channel()
        self.channel = self.connection.channel()
        self.channel.basic_qos(prefetch_count=_PREFETCH)
        for name in self.partitions:
            queue = queue_of(name)
            self.channel.queue_declare(
                queue,
                durable=True,
                arguments={"x-queue-type": "quorum", "x-single-active-consumer": True},
            )
            self.channel.queue_bind(queue, EXCHANGE, f"chargekeep.1.*.*.up.log.{name}")
        for name in self.partitions:
            self.channel.basic_consume(queue_of(name), self._on_message)

    def _connect(self) -> pika.BlockingConnection:
        """To the first host that answers. One that refuses TLS is reported while others do."""
        away = refused = None
        for one in self.parameters:
            where = f"{one.host}:{one.port}"
            try:
                return pika.BlockingConnection(one)
            except pika.exceptions.ProbableAuthenticationError as error:
                raise ToolError(
                    f"{where} refused: {error}", Exit.BROKER, "check user and password"
                )
            except self.failures as error:
                refusal = tls.refusal(where, error)
                if refusal is None:
                    away = ConnectionError(f"{where}: {error!r}")  # it has no other text
                else:
                    log_.warning("broker: %s", refusal)
                    refused = refusal
        raise away or refused or ConnectionError("no host")

    def poll(self, timeout_s: float) -> None:
        self.connection.process_data_events(timeout_s)
        self.out.process_data_events(0)
        if not self.channel.is_open:
            raise pika.exceptions.ChannelWrongStateError("the channel was closed")

    def close(self) -> None:
        for connection in (self.connection, self.out):
            try:
                if connection is not None and connection.is_open:
                    connection.close()
            except self.failures:
                pass  # it is gone already
        self.connection = self.out = None

    def publish(self, topic: str, payload: bytes) -> None:
        if not self._blocked:  # else the station sends again, and is answered then
            self.out_channel.basic_publish(EXCHANGE, topic.replace("/", "."), payload)

    def _block(self, blocked: bool, *_: Any) -> None:
        self._blocked = blocked

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        done: Callable[[], None] = partial(channel.basic_ack, method.delivery_tag)
        self.messages.append(Message(method.routing_key.replace(".", "/"), body, done))


def _parameters(url: str) -> Sequence[pika.ConnectionParameters]:
    parts = urlsplit(url)
    account, _, hosts = parts.netloc.rpartition("@")
    user, _, password = account.partition(":")
    context = tls.context(url)
    found = []
    for host in hosts.split(","):
        name, _, port = host.partition(":")
        if not name or (port and not port.isdigit()):
            raise ToolError(
                f"{url!r} is no cluster", Exit.USAGE, "write amqp://user:password@host:port,host"
            )
        found.append(
            pika.ConnectionParameters(
                name,
                int(port or (5671 if context else 5672)),
                unquote(parts.path[1:]) or "/",
                pika.PlainCredentials(unquote(user) or "guest", unquote(password) or "guest"),
                heartbeat=_HEARTBEAT_S,
                ssl_options=pika.SSLOptions(context, name) if context else None,
                socket_timeout=5,
            )
        )
    return found
