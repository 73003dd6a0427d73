"""Updates a station's firmware: staged, proven on the device, then on trial. This is the way over
USB, and the command; rollout.py is the way over MQTT.

Only files that differ cross the line. The ledger, the keys and the counters are not touched.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools import boards, keys, live, rollout, upload, wire
from chargekeep_tools import bundle as bundles
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.device import Device, DeviceError, opened
from chargekeep_tools.home import Home
from chargekeep_tools.options import (
    HomeOption,
    JsonOption,
    new_app,
    progress_lines,
    seconds,
    show,
)
from chargekeep_tools.publish import ALL, BrokerOption

EXITS = {
    113: Exit.VERIFY,
    114: Exit.VERIFY,
    115: Exit.VERIFY,
    116: Exit.VERIFY,
    118: Exit.VERIFY,
    213: Exit.REFUSED,
    217: Exit.WRONG_BOARD,
    800: Exit.WRONG_BOARD,
    801: Exit.WRONG_ABI,
    802: Exit.VERIFY,
    803: Exit.NO_SPACE,
    804: Exit.BUSY,
}
"""Error codes of the firmware to exit codes."""

_HASHING_S = 60


def call(device: Device, code: str, timeout: int = _HASHING_S) -> dict[str, Any]:
    """`Device.call` of update/usb.py, its errors with exit codes of their own."""
    try:
        return device.call(f"usb.run({code})", timeout)
    except DeviceError as error:
        error.exit_code = EXITS.get(error.code, error.exit_code)
        raise


def stage(
    device: Device,
    bundle: bundles.Bundle,
    *,
    dry_run: bool = False,
    progress: upload.Progress = lambda name, size: None,
) -> dict[str, Any]:
    """Bring `bundle` into the slot that does not run and put it on trial from the next boot on.

    Returns version, slot, files and bytes sent; `current` is true where it runs already. A dry run
    checks everything but sends nothing.
    """
    device.run("from chargekeep.update import usb")
    facts = call(device, "'hello'")
    sent = _send(device, facts, "manifest", bundle.manifest)
    sent += _send(device, facts, "files", bundles.file_list(bundle.files))
    begun = call(device, "'begin'")
    result = {"version": begun["version"], "current": begun["current"], "files": 0, "bytes": sent}
    if begun["current"]:
        return result
    paths = sorted(bundle.files)
    result |= {"slot": begun["slot"], "needed": [paths[index] for index in begun["needed"]]}
    if dry_run:
        return result
    for index in begun["needed"]:
        result["bytes"] += upload.send(
            device,
            f"usb.run('put', {index}, ",
            paths[index],
            bundle.files[paths[index]],
            facts["deflate"],
            progress,
        )
        result["files"] += 1
    return result | call(device, "'finish'")


def restart(device: Device) -> None:
    """Restart the board: its connection ends here."""
    device.leave("usb.run('restart')")


def adopt(device: Device, bundle: bundles.Bundle) -> dict[str, Any]:
    """Have a new station prove the firmware that was uploaded before it could verify anything."""
    device.run("from chargekeep.update import usb")
    _send(device, call(device, "'hello'"), "manifest", bundle.manifest)
    return call(device, "'adopt'")


def _send(device: Device, facts: dict[str, Any], name: str, data: bytes) -> int:
    put = f"usb.run('offer', {name!r}, "
    return upload.send(device, put, name, data, facts["deflate"], lambda *_: None)


app = new_app("Update a station's firmware over USB or MQTT.")


@app.command("update")
def update_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PORT|STATION|all",
            help="Serial port or USB serial number; a station, or all, over MQTT.",
        ),
    ],
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="From `bundle build`.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, change nothing that runs.")
    ] = False,
    broker: BrokerOption = None,
    wait: Annotated[
        str, typer.Option(help="Over MQTT: how long to wait for verdicts, as 90s or 2h.")
    ] = "30m",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stage BUNDLE on a board, prove it there, and start it on trial.

    Over USB at a port; over MQTT for a station of this home or for all of the bundle's site and
    board: those load it while they charge and start it when nobody does.
    """
    bundle = bundles.load(path)
    the_home = Home(home)
    if target == ALL or the_home.has_station(target):
        _over_mqtt(the_home, bundle, target, broker, seconds(wait), dry_run, as_json)
    else:
        _over_usb(target, bundle, dry_run, as_json)


def _over_mqtt(
    home: Home,
    bundle: bundles.Bundle,
    target: str,
    broker: str | None,
    patience_s: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    if not broker:
        raise ToolError("which broker?", Exit.USAGE, "--broker mqtt://user:password@host:port")
    wire.open_sign1(bundle.manifest, wire.FIRMWARE, keys.key_for(home))
    names = rollout.meant(home, bundle, target)
    if dry_run:
        show(names, as_json, lambda: print(f"would update {', '.join(names)}"))
        return
    with progress_lines(not as_json) as line:
        total = len(bundle.stream)
        lines = {name: line(name, total) for name in names}

        def progress(name: str, state: dict[str, Any]) -> None:
            lines[name]("loading", total - state.get("left", total))
            lines[name](state["state"], 0)

        states = rollout.roll_out(home, broker, bundle, names, patience_s, progress)
    codes = {name: rollout.exit_code(state, EXITS) for name, state in states.items()}
    records = [
        {"station": name, "exit_code": int(codes[name])} | state for name, state in states.items()
    ]

    def human() -> None:
        for name, state in states.items():
            print(f"{name} {rollout.sentence(state)}")

    show(records, as_json, human)
    raise typer.Exit(next((code for code in codes.values() if code), Exit.OK))


def _over_usb(port: str, bundle: bundles.Bundle, dry_run: bool, as_json: bool) -> None:
    port = boards.resolve(port)
    live.make_quiet(port)
    with opened(port) as device:
        result = stage(device, bundle, dry_run=dry_run)
        if not dry_run and not result["current"]:
            restart(device)
    if result["current"]:
        text = f"version {bundle.listed[14]} runs already"
    elif dry_run:
        text = f"would send {len(result['needed'])} files into slot {result['slot']}"
    else:
        text = (
            f"{bundle.listed[14]} is on trial in slot {result['slot']}: "
            f"{result['files']} files, {result['bytes']:,} bytes sent"
        )
    show(result, as_json, lambda: print(text))
