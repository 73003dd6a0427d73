"""Makes boards stations over USB: the device makes its key, the host keeps only the public half.

A run that was cut is repeated and goes on where it was, with the same key and the same log.
"""

import os
import secrets
import time
from binascii import b2a_base64
from typing import Annotated, Any

import typer

from chargekeep_tools import allowlist, keys, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.device import Device, opened
from chargekeep_tools.home import Home, checked_name
from chargekeep_tools.options import (
    HomeOption,
    JsonOption,
    SiteOption,
    new_app,
    show,
    site_of,
    table,
    utc,
)
from chargekeep_tools.publish import RETAINED

_SECRET = ("mqtt", "seal_key", "former")
_PROOF = b"chargekeep commission\0"
# Erasing and checking 64 sectors takes up to 26 s at the flash's worst case.
_COMMISSION_TIMEOUT_S = 90


def network_map(
    *,
    wifi: tuple[str, str] | None = None,
    broker: tuple[str, int] | None = None,
    mqtt: dict[str, str] | None = None,
    tls: bool = False,
    ca: bytes | None = None,
) -> dict[int, Any]:
    """The station's file `network`: Wi-Fi `(ssid, password)`, broker `(host, port)`, MQTT user."""
    found: dict[int, Any] = {}
    if wifi is not None:
        found |= {1: wifi[0], 2: wifi[1]}
    if broker is not None:
        found |= {3: broker[0], 4: broker[1], 7: tls}
    if mqtt is not None:
        found |= {5: mqtt["user"], 6: mqtt["password"]}
    if ca is not None:
        found[8] = ca
    return found


def commission(
    home: Home,
    device: Device,
    site: str,
    station: str,
    *,
    evse_id: int = 1,
    network: dict[int, Any] | None = None,
    root: str | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Have the device become `station`, and keep its record. Returns the record.

    `network` lacks MQTT user and password: they are made here, once for each station.
    Raises `ToolError` when the proof of possession of the new key does not verify.
    """
    checked_name(station, "station")
    before = home.station(station) if home.has_station(station) else None
    if before is not None and before["site"] != site:
        raise ToolError(
            f"station {station} belongs to site {before['site']}", Exit.USAGE, "take another name"
        )
    mqtt = before["mqtt"] if before else {"user": station, "password": secrets.token_urlsafe(18)}
    challenge = os.urandom(32)
    request = {
        1: site,
        2: station,
        3: evse_id,
        4: bytes.fromhex(keys.choose(home, "root", name=root)["public_key"]),
        5: os.urandom(32),
        6: home.site_key(site),
        7: (network or {}) | {5: mqtt["user"], 6: mqtt["password"]},
        8: challenge,
        9: replace,
    }
    device.run("from chargekeep import commission")
    result = device.call(
        f"commission.run('commission', {wire.dumps(request)!r})", _COMMISSION_TIMEOUT_S
    )
    public_key, log_id = bytes.fromhex(result["public_key"]), bytes.fromhex(result["log_id"])
    proof = _PROOF + challenge + log_id
    if not wire.verify(public_key, proof, bytes.fromhex(result["proof"])):
        raise ToolError(
            f"{device.port}: the station's key does not sign as it should",
            Exit.VERIFY,
            "do not use this board",
        )
    if before is not None and before["public_key"] != public_key.hex() and not replace:
        raise ToolError(
            f"{station} has another key than the record in {home.root}",
            Exit.WRONG_BOARD,
            "is it the right board? --replace records the new key",
        )
    record = {
        "site": site,
        "station": station,
        "evse_id": result["evse_id"],
        "public_key": public_key.hex(),
        "kid": wire.kid(public_key).hex(),
        "log_id": log_id.hex(),
        "seal_key": result["seal_key"],
        "mqtt": mqtt,
        "board": result["board"],
        "unique_id": result["unique_id"],
        "firmware": result["firmware"],
        "micropython": result["micropython"],
        "ledger_blocks": result["ledger_blocks"],
        "commissioned": int(time.time()),
    }
    _keep(home, record, before)
    device.call("commission.run('confirm')")
    return record


def _keep(home: Home, record: dict[str, Any], before: dict[str, Any] | None) -> None:
    if before is not None and before["public_key"] != record["public_key"]:
        # Its old log is still to be verified: keys are retired, not forgotten.
        names = ("public_key", "kid", "log_id", "seal_key", "commissioned")
        old = {name: before[name] for name in names}
        record["former"] = [*before.get("former", ()), old]
    elif before is not None:
        record["seal_key"] = record["seal_key"] or before["seal_key"]
        record["commissioned"] = before["commissioned"]
        if "former" in before:
            record["former"] = before["former"]
    home.save_station(record)


def install(home: Home, device: Device, station: str) -> dict[str, int]:
    """Give the station the objects in force, allowlist included, as the broker would.

    Returns object names to versions. What the station has already is not sent again.
    """
    site = home.station(station)["site"]
    installed: dict[str, int] = {}
    device.run("from chargekeep import commission")
    for name in RETAINED:
        current = home.current(site, name)
        newest = max((current[to] for to in (None, station) if to in current), default=None)
        if newest is None:
            continue
        version, data = newest
        answer = device.call(f"commission.run('take', {name!r}, {b2a_base64(data)!r})", 30)
        if name == "allowlist":
            chunks = allowlist.chunks(home, site, version)
            while answer["wanted"]:
                wanted, n = answer["wanted"]
                chunk = b2a_base64(chunks[n])
                answer = device.call(f"commission.run('take_chunk', {wanted}, {n}, {chunk!r})", 30)
        installed[name] = version
    return installed


def provision(home: Home, port: str, site: str, station: str, **how: Any) -> dict[str, Any]:
    """`commission` and `install` for the board at `port`. Returns the station's record."""
    with opened(port) as device:
        record = commission(home, device, site, station, **how)
        return record | {"installed": install(home, device, station)}


app = new_app("Make boards stations, over USB.")


@app.command("provision")
def provision_command(
    port: Annotated[str, typer.Argument(help="Serial port, as /dev/ttyACM0.")],
    station: Annotated[str, typer.Argument(help="Name of the station.")],
    evse: Annotated[int, typer.Option(min=1, help="EVSE id.")] = 1,
    wifi: Annotated[
        str | None, typer.Option(help="Network name; the password is asked for.")
    ] = None,
    broker: Annotated[str | None, typer.Option(help="MQTT broker as host:port.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Connect to the broker with TLS.")] = False,
    root: Annotated[str | None, typer.Option(help="Root key the station believes.")] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Forget the station the board was, its key and its log."),
    ] = False,
    site: SiteOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the board at PORT the station STATION."""
    the_home = Home(home)
    network = network_map(
        wifi=(wifi, wifi_password(wifi)) if wifi else None,
        broker=host_and_port(broker, 8883 if tls else 1883) if broker else None,
        tls=tls,
    )
    record = provision(
        the_home,
        port,
        site_of(the_home, site, station),
        station,
        evse_id=evse,
        network=network,
        root=root,
        replace=replace,
    )
    show(
        record,
        as_json,
        lambda: print(f"{station} is a station of {record['site']}, kid {record['kid']}"),
    )


def wifi_password(ssid: str) -> str:
    """From $CHARGEKEEP_WIFI_PASSWORD, or asked for; never on a command line."""
    given = os.environ.get("CHARGEKEEP_WIFI_PASSWORD")
    if given is not None:
        return given
    return typer.prompt(f"Password of Wi-Fi {ssid}", hide_input=True, err=True)


def host_and_port(text: str, default: int) -> tuple[str, int]:
    host, _, port = text.partition(":")
    if not host or not (port or "1").isdigit():
        raise ToolError(f"{text!r} is no broker", Exit.USAGE, "write host or host:port")
    return host, int(port or default)


@app.command("stations")
def stations_command(
    site: SiteOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """List the stations of this home."""
    records = [
        {name: value for name, value in record.items() if name not in _SECRET}
        for record in Home(home).stations(site)
    ]
    rows = (
        (r["station"], r["site"], r["kid"], r["board"], r["firmware"], utc(r["commissioned"]))
        for r in records
    )
    columns = ("station", "site", "kid", "board", "firmware", "commissioned")
    show(records, as_json, lambda: table(columns, rows))
