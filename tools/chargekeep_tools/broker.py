"""A mosquitto broker set up as chargekeep needs it: password file, one ACL per account, and
nothing anonymous. Used by the demo, the tests, and as the example the documentation explains.
"""

import base64
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chargekeep_tools import wire
from chargekeep_tools.codes import Exit, ToolError

RECONCILER = "reconciler"
OPERATOR = "operator"
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


def free_port() -> int:
    """A port of loopback that nobody has, below those that connections are given (32768 on)."""
    while True:
        port = 20_000 + int.from_bytes(os.urandom(2)) % 12_000
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


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
        users = [(name, password) for name, password in self.accounts.items()]
        users += [(s["mqtt"]["user"], s["mqtt"]["password"]) for s in self.stations]
        acl = [operator_acl(name) for name in self.accounts]
        acl += [station_acl(s["mqtt"]["user"], s["site"], s["station"]) for s in self.stations]
        self._private("passwords", "".join(password_line(*user) for user in users))
        self._private("acl", "".join(acl))
        return self._private(
            "mosquitto.conf",
            f"listener {self.port} {self.host}\n"
            "allow_anonymous false\n"
            f"password_file {self.folder / 'passwords'}\n"
            f"acl_file {self.folder / 'acl'}\n"
            # As root mosquitto would become a user that cannot read this folder.
            f"user {'root' if os.geteuid() == 0 else 'mosquitto'}\n"
            "persistence true\n"
            f"persistence_location {self.folder}/\n"
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
            f"{self.extra}",
        )

    def start(self) -> "Broker":
        """Run mosquitto until `stop`; returns when it accepts connections."""
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            raise ToolError("mosquitto is not installed", Exit.BROKER, "apt-get install mosquitto")
        path = self.write()
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", path], stdout=log, stderr=log)
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
                return self
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

    def _private(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path
