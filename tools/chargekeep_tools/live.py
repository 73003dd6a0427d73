"""Asks a running charger over USB, without stopping it: status, meter, log, diagnosis.

The line protocol of firmware/chargekeep/console.py: `?name numbers`, answered by lines of JSON.
"""

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import serial
import typer

from chargekeep_tools import boards
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.log import records
from chargekeep_tools.options import JsonOption, new_app, outline, show, utc

_ANSWER_S = 3
_RESTART_S = 10


def _open(port: str) -> serial.Serial:
    try:
        line = serial.Serial(port, 115200, timeout=0.2, exclusive=True)
    except serial.SerialException as error:
        code = Exit.BUSY if "lock" in str(error) else Exit.NO_DEVICE
        raise ToolError(f"{port}: {error}", code, "chargekeep boards lists what is connected")
    return line


def ask(port: str, name: str, *numbers: int, timeout: float = _ANSWER_S) -> Iterator[dict]:
    """Each answer of the charger at `port` to `?name numbers`, until it has said all.

    Raises BUSY where no charger answers. Nothing is sent that could stop it: no Ctrl-C.
    """
    line = _open(port)
    try:
        line.reset_input_buffer()
        line.write(b"\n?%s\n" % " ".join([name, *map(str, numbers)]).encode())
        deadline = time.monotonic() + timeout
        partial = b""
        while time.monotonic() < deadline:
            partial += line.readline()
            if not partial.endswith(b"\n"):
                continue
            text, partial = partial, b""
            try:
                answer = json.loads(text)
            except ValueError:
                continue  # what the charger prints for itself
            if not isinstance(answer, dict) or answer.pop("re", None) != name:
                continue
            if "error" in answer:
                what = " ".join((answer["error"], answer.get("detail", "")))
                code = Exit.DEVICE if answer["error"] == "failed" else Exit.BUSY
                raise ToolError(f"{port}: {what}", code, _HINT.get(answer["error"], ""))
            yield answer
            if name != "logs" or answer.get("end"):
                return
            deadline = time.monotonic() + timeout
    except serial.SerialException as error:
        raise ToolError(f"{port}: {error}", Exit.TRANSFER, "check the cable, run it again")
    finally:
        line.close()
    raise ToolError(
        f"{port}: no charger answers",
        Exit.BUSY,
        "is it running? its console is off where drivers type their codes over USB",
    )


_HINT = {
    "charging": "somebody charges; wait until the transaction has ended",
    "failed": "the charger goes on; please report this",
    "unknown": "the firmware on the board is older than this tool",
}


def logs(port: str, start: int = 0, count: int = 0) -> Iterator[dict[str, Any]]:
    """Records from slot `start` on, at most `count`; without `start` the newest, once."""
    left = count or 2**31
    following = start > 0
    while left > 0:
        end: dict[str, Any] = {}
        for answer in ask(port, "logs", *((start, min(left, 20)) if following else ())):
            if answer.get("end"):
                end = answer
            else:
                left -= 1
                yield answer
        if not following or end["next"] > end["head"] or end["next"] == start:
            return
        start = end["next"]


def make_quiet(port: str) -> bool:
    """Have a running charger restart into its REPL; False where none was running.

    Raises BUSY while somebody charges.
    """
    try:
        next(ask(port, "service", timeout=1.5))
    except ToolError as error:
        if "no charger" in str(error):
            return False
        raise
    deadline = time.monotonic() + _RESTART_S
    while True:  # a USB port goes away and comes back
        time.sleep(0.5)
        try:
            _open(port).close()
            return True
        except ToolError:
            if time.monotonic() > deadline:
                raise


PortArgument = Annotated[
    str, typer.Argument(help="Port, USB serial number, or auto: the only one.")
]

app = new_app("Ask a running charger over USB.")


def _one(port: str, name: str, as_json: bool) -> None:
    answer = next(ask(boards.resolve(port), name))
    show(answer, as_json, lambda: outline(answer))


@app.command("status")
def status_command(port: PortArgument = "auto", as_json: JsonOption = False) -> None:
    """Show the state of a running charger and why."""
    _one(port, "status", as_json)


def meter_command(port: PortArgument = "auto", as_json: JsonOption = False) -> None:
    """Show what the charger's meter says, and the health of its line."""
    _one(port, "meter", as_json)


@app.command("diagnose")
def diagnose_command(port: PortArgument = "auto", as_json: JsonOption = False) -> None:
    """Show error counts, log, counters and memory of a running charger."""
    _one(port, "diagnose", as_json)


@app.command("logs")
def logs_command(
    port: PortArgument = "auto",
    start: Annotated[int, typer.Option("--from", min=0, help="First slot; 0: the newest.")] = 0,
    count: Annotated[int, typer.Option(min=0, help="At most so many records; 0: all.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Print records of a running charger's log; with --json one a line."""
    for answer in logs(boards.resolve(port), start, count):
        if as_json:
            print(json.dumps(answer))
            continue
        moment, quality, boot, uptime, *body = answer["record"]
        when = utc(moment) if moment else f"boot {boot} + {uptime} s"
        print(
            f"{answer['seq']:6} {when:20} {'UIRS'[quality]}"
            f" {records.NAMES.get(answer['type'], answer['type'])}:"
            f" {records.spoken(records.named(answer['type'], body))}"
        )
