"""Updates a station's firmware over USB: staged, proven on the device, then on trial.

Only files that differ cross the line. The ledger, the keys and the counters are not touched.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools import boards, live, upload
from chargekeep_tools import bundle as bundles
from chargekeep_tools.codes import Exit
from chargekeep_tools.device import Device, DeviceError, opened
from chargekeep_tools.options import JsonOption, new_app, show

# Error codes of the firmware to exit codes.
_EXITS = {
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
_HASHING_S = 60


def call(device: Device, code: str, timeout: int = _HASHING_S) -> dict[str, Any]:
    """`Device.call` of update/usb.py, its errors with exit codes of their own."""
    try:
        return device.call(f"usb.run({code})", timeout)
    except DeviceError as error:
        error.exit_code = _EXITS.get(error.code, error.exit_code)
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
    facts = _offer(device, bundle)
    begun = call(device, "'begin'")
    result = {"version": begun["version"], "current": begun["current"], "files": 0, "bytes": 0}
    if begun["current"]:
        return result
    paths = [path for path, _, _ in bundle.listed[13]]
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
    _offer(device, bundle)
    return call(device, "'adopt'")


def _offer(device: Device, bundle: bundles.Bundle) -> dict[str, Any]:
    facts = call(device, "'hello'")
    put = "usb.run('offer', "
    upload.send(device, put, "manifest", bundle.manifest, facts["deflate"], lambda *_: None)
    return facts


app = new_app("Update a station's firmware over USB.")


@app.command("update")
def update_command(
    port: Annotated[str, typer.Argument(help="Serial port, as /dev/ttyACM0.")],
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="From `bundle build`.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, change nothing that runs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Stage BUNDLE on the board at PORT, prove it there, and start it on trial."""
    bundle = bundles.load(path)
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
