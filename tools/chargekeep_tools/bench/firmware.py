"""The firmware as files for a board without an operating system: compiled, in slot a, unsigned."""

import functools

from chargekeep_tools import bundle
from chargekeep_tools.programs import firmware_root

_SLOT = "a"


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
    found["slot"] = _SLOT.encode()
    found["config.json"] = (root / "boards" / board / "config.json").read_bytes()
    return found
