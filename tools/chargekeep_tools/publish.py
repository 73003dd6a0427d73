"""Sends a site's signed objects to the MQTT broker, where stations find them when they connect.

Retained objects are sent whole each time; topics of lists that are no longer in force are cleared.
"""

import contextlib
import json
import queue
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
import typer
from paho.mqtt.enums import CallbackAPIVersion

from chargekeep_tools import allowlist, objects, tls, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.options import HomeOption, JsonOption, SiteOption, new_app, show, site_of

BrokerOption = Annotated[
    str | None,
    typer.Option(
        "--broker",
        envvar="CHARGEKEEP_BROKER",
        help="mqtt://user:password@host:port; for TLS mqtts:// and ?ca=FILE[&cert=FILE&key=FILE].",
    ),
]

# Keys before what they sign, and a list's pages before the header that sends stations to them.
RETAINED = ("trust", "config", "tariff", "revocation", "allowlist")
ALL = "all"
_TIMEOUT_S = 15
_LOOK_AGAIN_S = 5.0

Message = tuple[str, bytes, bool]
"""Topic, payload, retained."""


def where(url: str) -> str:
    """The broker at `url`, as what was published there is remembered."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}"


@contextlib.contextmanager
def connected(url: str) -> Iterator[mqtt.Client]:
    """A client connected to the broker at `url`, its network loop running in a thread."""
    parts = urlsplit(url)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise ToolError(
            f"{url!r} is no broker", Exit.USAGE, "write mqtt://user:password@host:port"
        )
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    if parts.username:
        client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
    context = tls.context(url)
    if context:
        client.tls_set_context(context)
    answer: list = []
    log: list[str] = []  # all that paho tells of a connection that TLS 1.3 refuses

    def on_connect(client, userdata, flags, reason, properties):
        answer.append(reason)

    client.on_connect = on_connect
    client.on_log = lambda client, userdata, level, text: log.append(text)
    port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
    where = f"{parts.hostname}:{port}"
    try:
        client.connect(parts.hostname, port, keepalive=30)
    except OSError as error:
        raise tls.refusal(where, error) or ToolError(
            f"no broker at {where}: {error}", Exit.BROKER, "is it running?"
        )
    try:
        while not answer:
            code = client.loop(timeout=_TIMEOUT_S)
            if code != mqtt.MQTT_ERR_SUCCESS and not answer:
                raise tls.refusal(where, log) or ToolError(
                    f"{where}: {mqtt.error_string(code)}", Exit.BROKER
                )
        if answer[0].is_failure:
            raise ToolError(
                f"{where} refused: {answer[0]}", Exit.BROKER, "check user and password"
            )
        client.on_log = None
        client.loop_start()
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def send(url: str, messages: Iterable[Message]) -> int:
    """Publish at QoS 1 and wait for each PUBACK; returns how many."""
    with connected(url) as client:
        sent = [client.publish(topic, data, 1, retain) for topic, data, retain in messages]
        for info in sent:
            try:
                info.wait_for_publish(_TIMEOUT_S)
            except (ValueError, RuntimeError) as error:
                raise ToolError(f"publishing failed: {error}", Exit.BROKER, "run it again")
            if not info.is_published():
                raise ToolError("the broker does not acknowledge", Exit.BROKER, "run it again")
    return len(sent)


def send_object(url: str, signed: objects.SignedObject) -> None:
    """Send a command or a time statement, which are not retained."""
    name = wire.NAMES[signed.content_type]
    send(url, [(wire.topic(signed.site, signed.station or ALL, "down", name), signed.data, False)])


def ask(url: str, signed: objects.SignedObject, topic: str, number: int) -> dict[str, Any]:
    """Send a command that asks; the JSON answer on `topic` whose `request` is `number`."""
    answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    listening = threading.Event()
    with connected(url) as client:
        client.on_message = lambda client, userdata, message: answers.put(bytes(message.payload))
        client.on_subscribe = lambda *arguments: listening.set()
        client.subscribe(topic, 1)
        listening.wait(_TIMEOUT_S)
        client.publish(
            wire.topic(signed.site, signed.station or ALL, "down", "command"), signed.data, 1
        )
        give_up = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                answer = json.loads(answers.get(timeout=max(0, give_up - time.monotonic())))
            except queue.Empty:
                raise ToolError(
                    f"{signed.station} does not answer", Exit.BUSY, "is it online? see its status"
                ) from None
            except ValueError:
                continue
            if isinstance(answer, dict) and answer.get("request") == number:
                return answer


def retained(home: Home, site: str, pages: bool = True) -> list[Message]:
    """Every retained message of a site, in the order to send them; an allowlist with its pages."""
    messages: list[Message] = []
    for name in RETAINED:
        for station, (version, data) in home.current(site, name).items():
            to = station or ALL
            if name == "allowlist" and pages:
                for n, part in allowlist.parts(home, site, version):
                    topic = wire.topic(site, to, "down", name, str(version), str(n))
                    messages.append((topic, part, True))
            messages.append((wire.topic(site, to, "down", name), data, True))
    return messages


def publish(home: Home, site: str, url: str) -> dict[str, int]:
    """Send all retained objects of `site`; clear what an earlier call sent and is gone."""
    messages = retained(home, site)
    ledger = home.site_folder(site) / "published.json"
    broker = where(url)
    before = home.read_json(ledger, {})
    topics = [topic for topic, _, _ in messages]
    gone = sorted(set(before.get(broker, ())) - set(topics))
    # Written down first: a topic that may be on the broker is never forgotten.
    home.write_json(ledger, before | {broker: topics + gone})
    send(url, [*messages, *((topic, b"", True) for topic in gone)])
    home.write_json(ledger, before | {broker: topics})
    return {"published": len(messages), "cleared": len(gone)}


class Follower:
    """Answers a station that comes online with what is retained for it, pages aside.

    For brokers that send nothing retained to a subscription with a wildcard (RabbitMQ).
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.answered = 0
        self._known: dict[str, tuple[float, list[tuple[str, bytes]]]] = {}

    def serve(self, client: mqtt.Client) -> None:
        """Follow on `client`, now and after each time it connects again."""

        def subscribe(*_: Any) -> None:
            client.subscribe("chargekeep/1/+/+/up/connection", 1)
            for site in self.home.sites():  # for those that came online while we were away
                for topic, data in self._objects(site):
                    client.publish(topic, data, 1)

        client.on_message = self._on_message
        client.on_connect = subscribe
        subscribe()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        _, _, site, station, *_ = message.topic.split("/")
        if message.payload != b"online":
            return
        with contextlib.suppress(ToolError):  # not a site of ours
            for topic, data in self._objects(site):
                _, _, _, to, *rest = topic.split("/")
                if to in (station, ALL):
                    client.publish(wire.topic(site, station, *rest), data, 1)
        self.answered += 1

    def _objects(self, site: str) -> list[tuple[str, bytes]]:
        at, found = self._known.get(site, (0.0, []))
        if time.monotonic() - at > _LOOK_AGAIN_S:
            found = [(topic, data) for topic, data, _ in retained(self.home, site, pages=False)]
            self._known[site] = time.monotonic(), found
        return found


app = new_app("Send a site's signed objects to the MQTT broker.")


@app.command("publish")
def publish_command(
    broker: BrokerOption = None,
    site: SiteOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Send them to each station that comes online.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a site's signed objects to the MQTT broker, retained.

    --follow is for RabbitMQ, which sends stations nothing that is retained: it runs until
    interrupted, for every site of the home.
    """
    if not broker:
        raise ToolError("which broker?", Exit.USAGE, "--broker mqtt://user:password@host:port")
    the_home = Home(home)
    if follow:
        with connected(broker) as client:
            Follower(the_home).serve(client)
            signal.pause()
    done = publish(the_home, site_of(the_home, site), broker)
    show(
        done,
        as_json,
        lambda: print(f"published {done['published']}, cleared {done['cleared']}"),
    )


@app.command("retained")
def retained_command(site: SiteOption = None, home: HomeOption = None) -> None:
    """List what would be published, as JSON."""
    the_home = Home(home)
    messages = retained(the_home, site_of(the_home, site))
    show([{"topic": t, "bytes": len(d)} for t, d, _ in messages], True, lambda: None)
