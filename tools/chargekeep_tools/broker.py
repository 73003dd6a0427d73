"""A mosquitto broker set up as chargekeep needs it: one ACL per account, and nothing anonymous.

`Broker` runs one on this machine, for the demo and the tests; `configure` writes the files for one
in operation: listeners with TLS for passwords, client certificates and pre-shared keys.
"""

import base64
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools import wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.credentials import Auth, Authority
from chargekeep_tools.home import Home
from chargekeep_tools.options import HomeOption, JsonOption, new_app, show

RECONCILER = "reconciler"
OPERATOR = "operator"
# Up to TLS 1.2; the last is for microcontrollers that would keep a driver waiting while they make
# an ephemeral key.
_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20:AES128-GCM-SHA256"
_ITERATIONS = 101  # what mosquitto_passwd uses: passwords are random, made by provisioning
_START_S = 10


def password_line(user: str, password: str) -> str:
    """A line of mosquitto's password file (PBKDF2-HMAC-SHA512)."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS, 64)
    encoded = (base64.b64encode(part).decode() for part in (salt, digest))
    return f"{user}:$7${_ITERATIONS}${'$'.join(encoded)}\n"


def station_acl(user: str, site: str, station: str) -> str:
    """What one station may do: write its own up topics, read its own down topics and the site's.

    A broker acknowledges a publish that its ACL denies (MQTT 3.1.1 knows no other answer), so a
    station believes the signed acknowledgement only.
    """
    return (
        f"user {user}\n"
        f"topic write {wire.topic(site, station, 'up')}/#\n"
        f"topic read {wire.topic(site, station, 'down')}/#\n"
        f"topic read {wire.topic(site, 'all', 'down')}/#\n\n"
    )


def operator_acl(user: str) -> str:
    """Reads what every station sends and writes what they are to take."""
    return (
        f"user {user}\n"
        "topic read chargekeep/1/+/+/up/#\n"
        "topic readwrite chargekeep/1/+/+/down/#\n\n"
    )


def access_files(accounts: dict[str, str], stations: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Who may do what, as mosquitto's files `passwords`, `psk` and `acl`.

    A station is in the file of the one credential it was given; a revoked one is in none.
    """
    stations = [s for s in stations if not s.get("revoked")]
    by: dict[str, list[dict[str, Any]]] = {auth: [] for auth in Auth}
    for station in stations:
        by[station["mqtt"].get("auth", Auth.PASSWORD)].append(station["mqtt"])
    users = [*accounts.items(), *((m["user"], m["password"]) for m in by[Auth.PASSWORD])]
    acl = [operator_acl(name) for name in accounts]
    acl += [station_acl(s["mqtt"]["user"], s["site"], s["station"]) for s in stations]
    return {
        "passwords": "".join(password_line(*user) for user in users),
        "psk": "".join(f"{m['user']}:{m['psk']}\n" for m in by[Auth.PSK]),
        "acl": "".join(acl),
    }


def _common(folder: Path) -> str:
    return (
        "allow_anonymous false\n"
        f"password_file {folder / 'passwords'}\n"
        f"acl_file {folder / 'acl'}\n"
        # As root mosquitto would become a user that cannot read this folder.
        f"user {'root' if os.geteuid() == 0 else 'mosquitto'}\n"
        "persistence true\n"
        f"persistence_location {folder}/\n"
        # A station sends its ledger again until the host has it: queues may stay small, but
        # the reconciler acknowledges a whole database commit at a time.
        "max_inflight_messages 1000\n"
        "max_queued_messages 10000\n"
        "max_packet_size 65536\n"
        "set_tcp_nodelay true\n"
        "log_dest stderr\n"
        "log_type error\n"
        "log_type warning\n"
        "connection_messages false\n"
    )


def _private(path: Path, data: str | bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def free_port() -> int:
    """A port of loopback that nobody has, below those that connections are given (32768 on);
    another each time."""
    while True:
        port = 20_000 + int.from_bytes(os.urandom(2)) % 12_000
        with socket.socket() as probe:
            if port not in _given and probe.connect_ex(("127.0.0.1", port)):
                _given.add(port)
                return port


_given: set[int] = set()


class Broker:
    """Configuration files in `folder` and the mosquitto process that runs on them.

    `accounts` maps the host's own users (RECONCILER, OPERATOR) to passwords; `stations` are
    records of the operator's home directory with `site`, `station` and `mqtt`.
    """

    def __init__(
        self,
        folder: Path,
        stations: Iterable[dict[str, Any]] = (),
        accounts: dict[str, str] | None = None,
        port: int | None = None,
        host: str = "127.0.0.1",
        extra: str = "",
    ) -> None:
        self.folder = folder
        self.host = host
        self.port = port or free_port()
        self.extra = extra
        self.accounts = accounts or {}
        self.stations = list(stations)
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, user: str, password: str | None = None) -> str:
        return f"mqtt://{user}:{password or self.accounts[user]}@{self.host}:{self.port}"

    def write(self) -> Path:
        """Write mosquitto.conf, passwords and acl; returns the first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in access_files(self.accounts, self.stations).items():
            _private(self.folder / name, text)
        listener = f"listener {self.port} {self.host}\n"
        text = listener + _common(self.folder) + self.extra
        return _private(self.folder / "mosquitto.conf", text)

    def start(self) -> "Broker":
        """Run mosquitto until `stop`; returns when it accepts connections."""
        self.run(self.write())
        return self

    def run(self, path: Path) -> None:
        """Run mosquitto on the configuration `path` until `stop`."""
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            raise ToolError("mosquitto is not installed", Exit.BROKER, "apt-get install mosquitto")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", path], stdout=log, stderr=log)
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        self.stop()
        tail = (self.folder / "mosquitto.log").read_text()[-500:]
        raise ToolError(f"mosquitto does not start: {tail}", Exit.BROKER, "see mosquitto.log")

    def reload(self) -> None:
        """Take accounts and ACLs that changed since (SIGHUP)."""
        self.write()
        if self.process is not None:
            self.process.send_signal(1)

    def stop(self, kill: bool = False) -> None:
        """End the process, with `kill` as a power cut would."""
        if self.process is None:
            return
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        self.process.wait(10)
        self.process = None

    def __enter__(self) -> "Broker":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


PORTS = (1883, 8883, 8884, 8885)
"""Plain; TLS with a password, with a client certificate, with a pre-shared key."""


def host_accounts(home: Home) -> dict[str, str]:
    """Passwords of the host's own users; made the first time they are asked for."""
    path = home.root / "broker.json"
    with home.locked():
        accounts = home.read_json(path)
        if accounts is None:
            accounts = {name: secrets.token_urlsafe(18) for name in (OPERATOR, RECONCILER)}
            home.write_json(path, accounts, private=True)
    return accounts


def configure(
    home: Home,
    out: Path,
    hosts: list[str],
    plain: bool = False,
    ports: tuple[int, int, int, int] = PORTS,
) -> dict[str, Any]:
    """Write all that mosquitto needs to serve the stations of `home` into `out`.

    hosts: names and addresses that stations reach it by, for its certificate. plain: listen
    without TLS on all interfaces, not only on this machine.
    """
    authority, records = Authority(home), home.stations()
    files = access_files(host_accounts(home), records)
    certificate, key = authority.server(hosts)
    secure = f"certfile {out / 'server.crt'}\nkeyfile {out / 'server.pem'}\nciphers {_SUITES}\n"
    listeners = [
        f"listener {ports[0]}{'' if plain else ' 127.0.0.1'}\n",
        f"listener {ports[1]}\n{secure}",
        f"listener {ports[2]}\n{secure}cafile {out / 'ca.crt'}\ncrlfile {out / 'crl.pem'}\n"
        "require_certificate true\nuse_identity_as_username true\n",
    ]
    if files["psk"]:
        listeners.append(
            f"listener {ports[3]}\npsk_hint chargekeep\npsk_file {out / 'psk'}\n"
            "use_identity_as_username true\n"
        )
    out.mkdir(parents=True, exist_ok=True)
    files["mosquitto.conf"] = "".join(listeners) + _common(out)
    for name, text in files.items():
        _private(out / name, text)
    _private(out / "server.pem", key)
    _private(out / "server.crt", certificate)
    _private(out / "ca.crt", authority.certificate_pem)
    _private(out / "crl.pem", authority.revocations())
    revoked = [r["station"] for r in records if r.get("revoked")]
    served = [r["station"] for r in records if not r.get("revoked")]
    return {"path": str(out / "mosquitto.conf"), "stations": served, "revoked": revoked}


app = new_app("Set up the MQTT broker of the stations of this home.")


@app.command("config")
def config_command(
    out: Annotated[Path, typer.Option("--out", help="Folder on the broker's machine.")],
    host: Annotated[
        list[str], typer.Option(help="Name or address stations reach the broker by; repeatable.")
    ],
    plain: Annotated[
        bool, typer.Option("--plain", help="Without TLS not only on this machine.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write mosquitto.conf, passwords, pre-shared keys, certificates and ACLs; again after every
    new or revoked station, then restart mosquitto."""
    done = configure(Home(home), out.absolute(), host, plain)

    def human() -> None:
        print(f"{len(done['stations'])} stations, {len(done['revoked'])} revoked: {done['path']}")
        print(f"  now restart it: mosquitto -c {done['path']}")

    show(done, as_json, human)


@app.command("url")
def url_command(
    user: Annotated[str, typer.Argument(help=f"{OPERATOR} or {RECONCILER}.")],
    host: Annotated[str, typer.Argument(help="The broker, as in `broker config`.")],
    home: HomeOption = None,
) -> None:
    """Print what --broker and $CHARGEKEEP_BROKER take, password included."""
    the_home = Home(home)
    password = host_accounts(the_home).get(user)
    if password is None:
        raise ToolError(f"no user {user!r}", Exit.USAGE, f"{OPERATOR} or {RECONCILER}")
    ca = Authority(the_home).folder / "ca.crt"
    print(f"mqtts://{user}:{password}@{host}:{PORTS[1]}?ca={ca}")
