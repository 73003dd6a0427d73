"""The firmware as files for a board that has MicroPython and no more: compiled, in slot a, not
signed; also as a package for its installer, `mpremote mip install` of a folder or URL."""

import json
from pathlib import Path

from chargekeep_tools import bundle
from chargekeep_tools.programs import firmware_root


def files(board: str) -> dict[str, bytes]:
    """Path on the board to content: all that makes `board` a charger but its identity."""
    root = firmware_root()
    found = {f"a/{path}": data for path, data in bundle.compile_files(board, root)[0].items()}
    for path, data in bundle.root_files(board, root).items():
        found[path.removeprefix("root/")] = data
    return found | {"slot": b"a"}


def write(board: str, folder: Path) -> int:
    """Write the files and their package.json into `folder`; how many."""
    found = files(board)
    listed = {
        "urls": [[path, path] for path in found],
        "deps": [],
        "version": bundle.firmware_version(firmware_root()),
    }
    found["package.json"] = json.dumps(listed, indent=1).encode() + b"\n"
    for path, data in found.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return len(found)
