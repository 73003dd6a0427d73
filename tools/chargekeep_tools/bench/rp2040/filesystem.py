"""The file system of an rp2 image as bytes: made and read on the host, without the board.

littlefs with the parameters of MicroPython's rp2 port (ports/rp2/modules/_boot.py).
"""

from littlefs import LittleFS
from littlefs.context import UserContext

FLASH_BYTES = 2 * 1024 * 1024
_BLOCK = 4096
# MICROPY_HW_FLASH_STORAGE_BYTES of the image, at the end of the flash; by upstream board name
_BLOCKS = {"RPI_PICO": 1408 * 1024 // _BLOCK, "RPI_PICO_W": 848 * 1024 // _BLOCK}


def _littlefs(board: str, data: bytes | None) -> LittleFS:
    blocks = _BLOCKS[board]
    context = UserContext(blocks * _BLOCK)
    if data is not None:
        context.buffer[:] = data
    fs = LittleFS(
        context=context,
        block_size=_BLOCK,
        block_count=blocks,
        read_size=32,
        prog_size=256,
        cache_size=1024,
        lookahead_size=32,
        mount=False,  # it would format what does not mount
    )
    if data is None:
        fs.format()
    fs.mount()
    return fs


def start(board: str) -> int:
    """Offset of the file system in the flash."""
    return FLASH_BYTES - _BLOCKS[board] * _BLOCK


def _fill(fs: LittleFS, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        folder = path.rpartition("/")[0]
        if folder:
            fs.makedirs(folder, exist_ok=True)
        with fs.open(path, "wb") as file:
            file.write(content)


def _store(fs: LittleFS, files: dict[str, bytes]) -> bytes:
    _fill(fs, files)
    fs.unmount()
    return bytes(fs.context.buffer)


def blocks(board: str, files: dict[str, bytes]) -> int:
    """How many blocks `files` take in a file system of `board`."""
    fs = _littlefs(board, None)
    empty = fs.used_block_count
    _fill(fs, files)
    return fs.used_block_count - empty


def make(board: str, files: dict[str, bytes]) -> bytes:
    """A file system of `files` (path to content) for `board`."""
    return _store(_littlefs(board, None), files)


def write(board: str, flash: bytes, files: dict[str, bytes]) -> bytes:
    """`flash` (the whole chip) with `files` written to its file system."""
    at = start(board)
    return flash[:at] + _store(_littlefs(board, flash[at:FLASH_BYTES]), files)


def read(board: str, flash: bytes) -> dict[str, bytes]:
    """All files in the file system of `flash` (the whole chip), by path."""
    fs = _littlefs(board, flash[start(board) : FLASH_BYTES])
    files = {}
    for folder, _, names in fs.walk("/"):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}"
            with fs.open(path, "rb") as file:
                files[path.lstrip("/")] = file.read()
    return files
