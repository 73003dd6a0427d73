"""Makes boards stations over USB: the device makes its key, the host keeps only the public half.

A run that was cut is repeated and goes on where it was, with the same key and the same log.
"""

import os
import secrets
import time
from typing import Annotated, Any

import typer

from chargekeep_tools import keys, wire
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
    code = f"from chargekeep import commission\ncommission.run({wire.dumps(request)!r})"
    result = device.call(code, _COMMISSION_TIMEOUT_S)
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
        "mqtt": mqtt,
        "board": result["board"],
        "unique_id": result["unique_id"],
        "firmware": result["firmware"],
        "micropython": result["micropython"],
        "ledger_blocks": result["ledger_blocks"],
        "commissioned": int(time.time()),
    }
    if before is not None and before["public_key"] != record["public_key"]:
        # Its old log is still to be verified: keys are retired, not forgotten.
        old = {name: before[name] for name in ("public_key", "kid", "log_id", "commissioned")}
        record["former"] = [*before.get("former", ()), old]
    elif before is not None and "former" in before:
        record["former"] = before["former"]
    home.save_station(record)
    return record


def provision(home: Home, port: str, site: str, station: str, **how: Any) -> dict[str, Any]:
    """`commission` for the board at `port`."""
    with opened(port) as device:
        return commission(home, device, site, station, **how)


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
        {name: value for name, value in record.items() if name != "mqtt"}
        for record in Home(home).stations(site)
    ]
    rows = (
        (r["station"], r["site"], r["kid"], r["board"], r["firmware"], utc(r["commissioned"]))
        for r in records
    )
    columns = ("station", "site", "kid", "board", "firmware", "commissioned")
    show(records, as_json, lambda: table(columns, rows))
