"""Who may do what on a RabbitMQ cluster: its definitions file, from the stations of a home.

As with mosquitto (broker.py) a station writes its own up topics and reads its own down topics and
the site's; the reconciler reads ledgers and writes acknowledgements, and nothing else.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools.broker import OPERATOR, RECONCILER, host_accounts
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.credentials import Auth, Authority
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

    def add(user: str, password: str | None, queues: str, write: str, read: str) -> None:
        """`queues` it may make and use; `write` and `read` are of topics. No password: nothing."""
        found["users"].append(
            {
                "name": user,
                "password_hash": "" if password is None else password_hash(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
        )
        own = f"^{queues}$" if password is not None else "^$"
        both = rf"^({queues}|{re.escape(_EXCHANGE)})$" if password is not None else "^$"
        of = {"user": user, "vhost": "/"}
        found["permissions"].append(of | {"configure": own, "write": both, "read": both})
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
            # An import takes no user away: a revoked one stays, and may nothing.
            None if record.get("revoked") else record["mqtt"]["password"],
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
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    host: Annotated[
        list[str], typer.Option(help="Name or address stations reach it by; repeatable.")
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write definitions.json for `rabbitmqctl import_definitions`, accounts.env for compose, and
    the certificate of the nodes; again after every new or revoked station, then import.

    Certificates of those accounts are made in the home, in ca/clients.
    """
    the_home = Home(home)
    accounts, stations, authority = (
        host_accounts(the_home),
        the_home.stations(),
        Authority(the_home),
    )
    certificate, key = authority.server(host)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in {
        "definitions.json": json.dumps(definitions(stations, accounts), indent=1).encode(),
        "accounts.env": "".join(
            f"{user.upper()}_PASSWORD={password}\n" for user, password in accounts.items()
        ).encode(),
        "ca.crt": authority.certificate_pem,
        "server.crt": certificate,
        "server.pem": key,
    }.items():
        (out / name).touch(0o600)
        (out / name).write_bytes(data)
    for user in accounts:
        authority.client(user)
    psk = [
        station["station"]
        for station in stations
        if station["mqtt"].get("auth") == Auth.PSK and not station.get("revoked")
    ]

    def human() -> None:
        print(f"{out}: {len(stations)} stations")
        if psk:
            print(f"  RabbitMQ lets nobody in by a pre-shared key: {', '.join(psk)}")

    show({"stations": len(stations), "psk": psk}, as_json, human)
