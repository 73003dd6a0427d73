"""Prices, settings, commands and signed time: the small objects that govern a site's stations."""

import json
import secrets
import time
from typing import Annotated, Any

import typer

from chargekeep_tools import objects, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.options import (
    HomeOption,
    JsonOption,
    KeyOption,
    SiteOption,
    StationOption,
    new_app,
    outline,
    seconds,
    show,
    site_of,
    ten_thousandths,
)
from chargekeep_tools.publish import BrokerOption, ask, send_object

COMMANDS = {
    "stop": (1, ("EVSE",)),
    "unlock": (2, ("EVSE",)),
    "reboot": (3, ()),
    "set-limit": (4, ("EVSE", "watts (0: none)")),
    "clear": (5, ("error code",)),
    "diagnose": (6, ("number that the answer names [any]",)),
}
"""Name of a command to its number and what its arguments are (FORMATS.md section 2)."""

SETTINGS = {
    "offline_tx_for_unknown_id": 1,
    "unknown_id_max_wh": 2,
    "utc_offset_min": 3,
    "stop_tx_on_invalid_id": 4,
    "max_energy_on_invalid_id_wh": 5,
    "bare_uid": 6,
    "bare_uid_max_wh": 7,
    "accept_uncertain_time": 8,
    "offline_grace_s": 9,
    "stale_list_accepted": 10,
    "stale_list_max_wh": 11,
    "max_wh": 12,
    "max_s": 13,
    "max_w": 14,
    "ev_connection_timeout_s": 15,
    "policies": 16,
    "aligned_data_interval_s": 17,
    "resume_s": 19,
    "status_interval_s": 21,
    "meter_stale_s": 22,
    "charging_threshold_w": 23,
    "idle_timeout_s": 24,
    "plausible_max_w": 25,
}
"""Name of a setting to its number; firmware/chargekeep/config.py says what each means."""


def tariff(
    home: Home,
    site: str,
    tariff_id: int,
    currency: str,
    per_kwh: int,
    per_hour: int = 0,
    per_start: int = 0,
    **how: Any,
) -> objects.SignedObject:
    """Sign prices, each in 1/10000 of the currency unit. `how`: station, key, now of `sign`."""
    if len(currency) != 3 or not (currency.isascii() and currency.isupper()):
        raise ToolError(f"{currency!r} is no currency", Exit.USAGE, "three letters, as EUR")
    body = {10: tariff_id, 11: currency, 12: per_kwh, 13: per_hour, 14: per_start}
    return objects.sign(home, wire.TARIFF, site, body, **how)


def configuration(
    home: Home, site: str, settings: dict[int, Any], **how: Any
) -> objects.SignedObject:
    """Sign settings; one that is not named gets its default back."""
    return objects.sign(home, wire.CONFIGURATION, site, {10: settings}, **how)


def command(
    home: Home, site: str, number: int, arguments: list[int], exp: int, **how: Any
) -> objects.SignedObject:
    """Sign a command that a station obeys once, until `exp` (unix seconds)."""
    body = {10: number, 11: arguments, 12: exp}
    return objects.sign(home, wire.COMMAND, site, body, **how)


def time_statement(
    home: Home, site: str, now: int | None = None, **how: Any
) -> objects.SignedObject:
    """Sign the present time."""
    now = int(time.time()) if now is None else now
    return objects.sign(home, wire.TIME_STATEMENT, site, {10: now}, now=now, **how)


def parse_setting(text: str) -> tuple[int, Any]:
    """`name=value` to number and value; the value is JSON: a number, true, false or a list."""
    name, equals, value = text.partition("=")
    if not equals or name not in SETTINGS:
        raise ToolError(
            f"{text!r} is no setting", Exit.USAGE, f"name=value; names: {', '.join(SETTINGS)}"
        )
    try:
        return SETTINGS[name], json.loads(value)
    except ValueError:
        raise ToolError(f"{text!r}: {value!r} is no number, true, false or list", Exit.USAGE)


app = new_app("Prices, settings, commands and signed time.")


@app.command("tariff")
def tariff_command(
    tariff_id: Annotated[int, typer.Argument(min=1, help="Number of the tariff.")],
    per_kwh: Annotated[str, typer.Option(help="Price of a kWh, as 0.35.")],
    per_hour: Annotated[str, typer.Option(help="Price of an hour.")] = "0",
    per_start: Annotated[str, typer.Option(help="Price of a start.")] = "0",
    currency: Annotated[str, typer.Option(help="ISO 4217.")] = "EUR",
    site: SiteOption = None,
    station: StationOption = None,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the prices of a site."""
    the_home = Home(home)
    signed = tariff(
        the_home,
        site_of(the_home, site, station),
        tariff_id,
        currency,
        *map(ten_thousandths, (per_kwh, per_hour, per_start)),
        station=station,
        key=key,
    )
    show(signed.summary(), as_json, lambda: print(signed.sentence()))


@app.command("config")
def config_command(
    setting: Annotated[list[str] | None, typer.Argument(help="name=value; repeat.")] = None,
    site: SiteOption = None,
    station: StationOption = None,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set how stations behave; a setting that is not named gets its default back."""
    the_home = Home(home)
    settings = dict(map(parse_setting, setting or ()))
    site = site_of(the_home, site, station)
    signed = configuration(the_home, site, settings, station=station, key=key)
    show(signed.summary(), as_json, lambda: print(signed.sentence()))


@app.command("command")
def command_command(
    what: Annotated[str, typer.Argument(help=f"One of: {', '.join(COMMANDS)}.")],
    arguments: Annotated[list[int] | None, typer.Argument(help="Its arguments.")] = None,
    valid: Annotated[str, typer.Option("--for", help="Obeyed within this time.")] = "5m",
    broker: BrokerOption = None,
    site: SiteOption = None,
    station: StationOption = None,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell a station to do something now. With a broker, send it there.

    `diagnose` for one `--station` waits for the answer and shows it.
    """
    if what not in COMMANDS:
        raise ToolError(f"unknown command {what!r}", Exit.USAGE, f"one of: {', '.join(COMMANDS)}")
    number, wanted = COMMANDS[what]
    if what == "diagnose":
        arguments = arguments or [secrets.randbits(30)]
    if len(arguments or ()) != len(wanted):
        raise ToolError(f"{what} takes {len(wanted)} arguments: {', '.join(wanted)}", Exit.USAGE)
    the_home = Home(home)
    exp = int(time.time()) + seconds(valid)
    site = site_of(the_home, site, station)
    signed = command(the_home, site, number, arguments or [], exp, station=station, key=key)
    if what == "diagnose" and broker and station and arguments:
        topic = wire.topic(site, station, "up", "diagnosis")
        answer = ask(broker, signed, topic, arguments[0])
        return show(answer, as_json, lambda: outline(answer))
    if broker:
        send_object(broker, signed)
    show(signed.summary(), as_json, lambda: print(signed.sentence()))


@app.command("time")
def time_command(
    broker: BrokerOption = None,
    site: SiteOption = None,
    station: StationOption = None,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell stations the time, signed. With a broker, send it there."""
    the_home = Home(home)
    site = site_of(the_home, site, station)
    signed = time_statement(the_home, site, station=station, key=key)
    if broker:
        send_object(broker, signed)
    show(signed.summary(), as_json, lambda: print(signed.sentence()))
