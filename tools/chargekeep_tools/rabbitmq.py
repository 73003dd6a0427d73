"""Who may do what on a RabbitMQ cluster: its definitions file, from the stations of a home.

As with mosquitto (broker.py) a station writes its own up topics and reads its own down topics and
the site's; the reconciler reads ledgers and writes acknowledgements, and nothing else.
"""

import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools.broker import OPERATOR, RECONCILER
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.options import HomeOption, JsonOption, new_app, show

_EXCHANGE = "amq.topic"
_QUEUES = r"chargekeep\.log\.p\d\d"
# A queue that nobody empties drops what is oldest; only the signed acknowledgement frees a
# station's log, so it sends that again.
_QUEUE_BYTES = 64 << 20

app = new_app("Write the accounts of a RabbitMQ cluster.")


def password_hash(password: str) -> str:
    """As RabbitMQ's rabbit_password_hashing_sha256 writes it."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def definitions(stations: Iterable[dict[str, Any]], accounts: dict[str, str]) -> dict[str, Any]:
    """What `rabbitmqctl import_definitions` takes.

    stations: records of the home with `site`, `station` and `mqtt`; accounts: passwords of
    RECONCILER and OPERATOR. Raises `ToolError` for a name with a dot.
    """
    found: dict[str, Any] = {
        "vhosts": [{"name": "/"}],
        "users": [],
        "permissions": [],
        "topic_permissions": [],
        "policies": [
            {
                "vhost": "/",
                "name": "chargekeep-log",
                "pattern": rf"^{_QUEUES}$",
                "apply-to": "queues",
                "definition": {"max-length-bytes": _QUEUE_BYTES},
                "priority": 0,
            }
        ],
    }

    def add(user: str, password: str, queues: str, write: str, read: str) -> None:
        """`queues` it may make and use; `write` and `read` are of topics."""
        found["users"].append(
            {
                "name": user,
                "password_hash": password_hash(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
        )
        both = rf"^({queues}|{re.escape(_EXCHANGE)})$"
        of = {"user": user, "vhost": "/"}
        found["permissions"].append(of | {"configure": f"^{queues}$", "write": both, "read": both})
        topics = {"exchange": _EXCHANGE, "write": f"^{write}", "read": f"^{read}"}
        found["topic_permissions"].append(of | topics)

    topic = r"chargekeep\.1\.[^.]+\.[^.]+\."
    if RECONCILER in accounts:
        add(RECONCILER, accounts[RECONCILER], _QUEUES, topic + r"down\.ack$", topic + r"up\.log\.")
    if OPERATOR in accounts:
        add(OPERATOR, accounts[OPERATOR], _session(".*"), topic + r"down\.", topic + r"up\.")
    for record in stations:
        site, station = record["site"], record["station"]
        for name in (site, station):
            if "." in name:
                hint = (
                    "RabbitMQ takes a dot for a level of the topic: provision it by another name"
                )
                raise ToolError(f"{name!r} has a dot", Exit.USAGE, hint)
        site, station = re.escape(site), re.escape(station)
        add(
            record["mqtt"]["user"],
            record["mqtt"]["password"],
            _session(station),
            rf"chargekeep\.1\.{site}\.{station}\.up\.",
            rf"chargekeep\.1\.{site}\.({station}|all)\.down\.",
        )
    return found


def _session(client_id: str) -> str:
    """The queues that RabbitMQ makes for an MQTT client."""
    return rf"mqtt-subscription-{client_id}qos[01]"


@app.command("rabbitmq")
def rabbitmq_command(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if it is not there.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write definitions.json for `rabbitmqctl import_definitions`, and accounts.env.

    accounts.env holds the passwords of reconciler and operator; those that are there stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    env = folder / "accounts.env"
    before = env.read_text().split() if env.exists() else []
    known = dict(line.split("=", 1) for line in before if "=" in line)
    accounts = {
        name: known.get(f"{name.upper()}_PASSWORD") or secrets.token_hex(16)
        for name in (RECONCILER, OPERATOR)
    }
    stations = Home(home).stations()
    _private(env, "".join(f"{name.upper()}_PASSWORD={accounts[name]}\n" for name in accounts))
    _private(folder / "definitions.json", json.dumps(definitions(stations, accounts), indent=1))
    count = len(stations)
    show({"stations": count}, as_json, lambda: print(f"{folder}: {count} stations"))


def _private(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)
