"""For installers: which meter answers at which address of a board's bus."""

from typing import Annotated, Any

import typer

from chargekeep_tools import live
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.device import opened
from chargekeep_tools.options import JsonOption, new_app, show, table

app = new_app("Show what a running charger's meter says; find the meters on a bus.")
app.command("show")(live.meter_command)

# Runs on the board, whose program is interrupted first, so that nothing else uses the bus.
_SCAN = "from chargekeep.metering.scan import run; run(%d, %d)"
_SECONDS_EACH = 3  # an address where something answers is asked several times


def scan(port: str, first: int = 1, last: int = 247) -> list[dict[str, Any]]:
    """`address, family, register_wh, power_w` of all who answer; family "" is none we know."""
    with opened(port) as device:
        result = device.call(_SCAN % (first, last), timeout=20 + _SECONDS_EACH * (last - first))
    if not result["wired"]:
        raise ToolError(
            "the board has no meter's UART",
            Exit.DEVICE,
            'set "meter" in its config.json; see the wiring table',
        )
    names = ("address", "family", "register_wh", "power_w")
    return [dict(zip(names, row, strict=True)) for row in result["found"]]


@app.command("scan")
def scan_command(
    port: Annotated[str, typer.Option("--port", help="The board's serial port.")],
    first: Annotated[int, typer.Option(min=1, max=247, help="First address.")] = 1,
    last: Annotated[int, typer.Option(min=1, max=247, help="Last address.")] = 247,
    as_json: JsonOption = False,
) -> None:
    """Ask every address who is there; takes a quarter of a second each.

    The bus's speed is that of the meter in config.json.
    """
    found = scan(port, first, max(first, last))

    def human() -> None:
        if not found:
            typer.echo("no meter answers; check A and B, the meter's speed and its address")
            return
        rows = [[str(m["address"]), m["family"] or "unknown", *_reading(m)] for m in found]
        table(("address", "family", "register", "power"), rows)

    show(found, as_json, human)


def _reading(meter: dict[str, Any]) -> list[str]:
    register, power = meter["register_wh"], meter["power_w"]
    return ["-" if register is None else f"{register} Wh", "-" if power is None else f"{power} W"]


@app.callback()
def _group() -> None:
    pass  # keeps `scan` a command of its own
