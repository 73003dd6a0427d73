"""Writes an image of MicroPython onto a board: a new one, or a station that gets a newer image.

A station's log is never overwritten or lost sight of: an image that would move it is refused.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools import boards, rp2_image
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.device import opened
from chargekeep_tools.options import new_app
from chargekeep_tools.programs import firmware_root
from chargekeep_tools.upload import hello

# Where desktops mount the drive that an RP2040's boot ROM shows (datasheet section 2.8.4).
_DRIVES = ("/media/RPI-RP2", "/media/*/RPI-RP2", "/run/media/*/RPI-RP2", "/Volumes/RPI-RP2")
_DRIVE_MARK = "INFO_UF2.TXT"
_WAIT_S = 20
_BLOCK = 4096

# Where a station on an RP2040 keeps its log: offset into flash, blocks; nothing on other boards.
_FIND_LEDGER = """
import json
try:
    from chargekeep import board
    d = board.open_board().ledger_device()
    print(json.dumps({'ledger': [d.base - 0x10000000, d.blocks]}))
except Exception:
    print(json.dumps({'ledger': None}))
"""

app = new_app("Write MicroPython onto a board.")


def mcu_of(board: str) -> str:
    """The microcontroller of a folder of boards/: rp2040, esp32, esp32s3 or esp32c3."""
    path = firmware_root() / "boards" / board / "board.json"
    try:
        return json.loads(path.read_text())["mcu"]
    except OSError:
        raise ToolError(f"no board {board}", Exit.USAGE, "see the folders in boards/")


def check_rp2(data: bytes, ledger: tuple[int, int] | None) -> None:
    """Raise NO_SPACE or REFUSED where the image leaves no room for a log or hides the one there.

    ledger: offset into flash and blocks of the log that the board has.
    """
    end, storage = rp2_image.layout(rp2_image.flash_of(data))
    offset, blocks = ledger or (storage - rp2_image.LEDGER_BLOCKS * _BLOCK, 0)
    if blocks and offset + blocks * _BLOCK != storage:
        raise ToolError(
            "this image has its file system elsewhere: the station would lose its log",
            Exit.REFUSED,
            "take an image with the same flash layout",
        )
    if end > offset:
        raise ToolError(
            f"the image ends at {end:#x}, the log of a station begins at {offset:#x}",
            Exit.REFUSED if blocks else Exit.NO_SPACE,
            "take a smaller image",
        )


def write_rp2(port: str, data: bytes, wait_s: float = _WAIT_S) -> None:
    """Write a UF2 file to the board at `port`, or to the drive that it shows in BOOTSEL mode."""
    if Path(port).is_dir():
        check_rp2(data, None)
        _copy(Path(port), data)
        return
    with opened(port) as device:
        found = device.call(_FIND_LEDGER)["ledger"]
        check_rp2(data, found and tuple(found))
        device.leave("import machine\nmachine.bootloader()")
    _copy(_drive(wait_s), data)


def _drive(wait_s: float) -> Path:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        for pattern in _DRIVES:
            for path in Path("/").glob(pattern[1:]):
                if (path / _DRIVE_MARK).exists():
                    return path
        time.sleep(0.2)
    raise ToolError(
        "the board's drive RPI-RP2 is not mounted",
        Exit.NO_DEVICE,
        "mount it, then: chargekeep flash DRIVE IMAGE",
    )


def _copy(drive: Path, data: bytes) -> None:
    if not (drive / _DRIVE_MARK).exists():
        raise ToolError(f"{drive} is no board's drive", Exit.NO_DEVICE, "hold BOOTSEL, plug it in")
    try:
        with open(drive / "firmware.uf2", "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
    except OSError as error:
        raise ToolError(f"{drive}: {error}", Exit.TRANSFER, "run it again")


def write_esp32(
    port: str, image: bytes, board: str, erase: bool = False, options: tuple[str, ...] = ()
) -> None:
    """Write an image and the board's partition table with esptool.

    erase: the whole chip first. Without it, a log that the board has must stay where it is.
    options: for esptool. Raises TRANSFER when esptool fails.
    """
    from chargekeep_tools import esp32_image

    mcu = mcu_of(board)
    table = esp32_image.partition_table(firmware_root() / "boards" / board / "partitions.csv")
    parts = esp32_image.segments(image, mcu, table)
    with tempfile.TemporaryDirectory() as folder:
        esptool = _Esptool(mcu, port, options)
        if not erase:
            before = Path(folder, "before")
            esptool("read-flash", esp32_image.TABLE_AT, esp32_image.TABLE_SIZE, before)
            if esp32_image.ledger_moves(before.read_bytes(), table):
                raise ToolError(
                    "the board's log is elsewhere than this partition table has it",
                    Exit.REFUSED,
                    "read out the log first; --erase gives it up",
                )
        words: list[Any] = ["write-flash", *(["--erase-all"] if erase else [])]
        for offset, data in parts.items():
            path = Path(folder, f"{offset:x}")
            path.write_bytes(data)
            words += [hex(offset), path]
        esptool(*words)


class _Esptool:
    """esptool as a program of this environment."""

    def __init__(self, mcu: str, port: str, options: tuple[str, ...]) -> None:
        if shutil.which("esptool", path=Path(sys.executable).parent) is None:
            raise ToolError("no esptool", Exit.USAGE, "pip install 'chargekeep-tools[esp32]'")
        self.command = [sys.executable, "-m", "esptool", "--chip", mcu, "--port", port, *options]

    def __call__(self, *words: Any) -> None:
        if subprocess.run([*self.command, *map(str, words)], stdout=sys.stderr).returncode:
            raise ToolError(
                "esptool failed",
                Exit.TRANSFER,
                "hold the board's BOOT button while plugging it in, then run it again",
            )


def wait_for(port: str, wait_s: int = _WAIT_S) -> dict[str, Any]:
    """What the board at `port` runs once it has started; see `upload.hello`."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            with opened(port) as device:
                return hello(device)
        except ToolError as error:
            if time.monotonic() > deadline:
                raise ToolError(
                    f"{port}: written, but the board does not answer: {error}",
                    Exit.BUSY,
                    "unplug it and plug it in again",
                )
            time.sleep(0.5)


@app.command("flash")
def flash_command(
    port: Annotated[
        str, typer.Argument(help="Port, USB serial number, auto, or the drive RPI-RP2.")
    ],
    image: Annotated[Path, typer.Argument(help="Image of MicroPython: .uf2, or .bin for ESP32.")],
    board: Annotated[str, typer.Option("--board", help="Name of the board in boards/.")],
    erase: Annotated[
        bool, typer.Option("--erase", help="ESP32: erase all first, a station's key and log too.")
    ] = False,
    esptool: Annotated[
        list[str] | None, typer.Option(help="ESP32: an option for esptool, such as --no-stub.")
    ] = None,
) -> None:
    """Write an image of MicroPython onto a board; a station's log stays where it is."""
    try:
        data = image.read_bytes()
    except OSError as error:
        raise ToolError(f"{image}: {error}", Exit.USAGE)
    drive = Path(port).is_dir()
    port = port if drive else boards.resolve(port)
    if mcu_of(board) == "rp2040":
        write_rp2(port, data)
    else:
        write_esp32(port, data, board, erase, tuple(esptool or ()))
    if not drive:
        version = wait_for(port)["version"]
        print(f"{port} runs MicroPython {'.'.join(map(str, version))}")
