"""Simulated parts to try things with: the demo, or a meter alone."""

import contextlib
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from chargekeep_tools.options import new_app
from chargekeep_tools.sim import demo as demos
from chargekeep_tools.sim.meter import FAMILIES, SimMeter

app = new_app("Run a simulated charger and meter.")


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running.")] = False,
) -> None:
    """Play the whole story: provision, charge offline, power cut, sync, bill."""
    raise typer.Exit(demos.run(keep))


@app.command()
def meter(
    family: Annotated[str, typer.Option(help=f"One of: {', '.join(FAMILIES)}.")] = "sdm630",
    watts: Annotated[int, typer.Option(min=0, help="Load.")] = 11_000,
    address: Annotated[int, typer.Option(min=1, max=247, help="Modbus address.")] = 1,
    baudrate: Annotated[int, typer.Option(help="Speed of the line.")] = 9600,
) -> None:
    """Play an energy meter on a pseudo-terminal until Ctrl-C."""
    with SimMeter(family=family, power_w=watts, address=address, baudrate=baudrate) as played:
        print(f"{family} at address {address}, {baudrate} baud: {played.path}", flush=True)
        try:
            while True:
                time.sleep(10)
                print(f"{played.wh:.1f} Wh, {played.requests} requests", flush=True)
        except KeyboardInterrupt:
            pass


@app.command()
def board(
    folder: Annotated[Path, typer.Argument(help="Folder for its flash and its ports.")],
    watts: Annotated[int, typer.Option(min=0, help="What the car takes.")] = 11_000,
) -> None:
    """Play a board with nothing but MicroPython on it, wired to a meter and a charger."""
    from chargekeep_tools.sim.bench import SimBench

    with SimBench(folder, watts) as bench:
        print(f"board: {bench.port}\nreader: {bench.reader}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


@app.command()
def fleet(
    chargers: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 20,
    minutes: Annotated[int, typer.Option(min=1, help="Simulated time to live.")] = 1440,
    online: Annotated[float, typer.Option(min=0.01, max=1, help="Share of time online.")] = 0.3,
) -> None:
    """Play many chargers on flapping networks, and check that every Wh is billed once."""
    from chargekeep_tools.sim import fleet as fleets

    raise typer.Exit(fleets.play(chargers, minutes, online))
