"""Sends files to a board over its REPL: deflated, in large pieces, proven by hash, resumable.

mpremote's `cp` sends 256 bytes a round trip, each byte written out as Python text, and leaves half
a file when it is cut. Here a piece of 4 KiB is one round trip, deflated and in base64.
"""

import hashlib
import json
import zlib
from binascii import b2a_base64
from collections.abc import Callable
from typing import Any

from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.device import Device

PIECE = 4096
_SPARE = 32768  # bytes of the board's file system that stay free
_WINDOW_BITS = 12

Progress = Callable[[str, int], None]
"""Called with a path and how many of its bytes have arrived."""

# What a board without our firmware needs to take files: three functions, gone after a restart.
_BOOTSTRAP = """
import io, json, os, sys
from hashlib import sha256
from binascii import a2b_base64
try:
    from deflate import RAW, DeflateIO
except ImportError:
    DeflateIO = None
def _hello():
    u = os.statvfs(os.getcwd())
    try:
        with open('slot') as f: slot = f.read()
    except OSError: slot = ''
    v = sys.implementation
    print(json.dumps({'mpy': getattr(v, '_mpy', 0), 'deflate': DeflateIO is not None,
        'version': v[1][:3], 'machine': getattr(v, '_machine', ''), 'platform': sys.platform,
        'block': u[0], 'free': u[0] * u[3], 'slot': slot}))
def _hashes(names):
    found = {}
    for name in names:
        h = sha256()
        try:
            with open(name, 'rb') as f:
                while True:
                    b = f.read(512)
                    if not b: break
                    h.update(b)
            found[name] = h.digest().hex()
        except OSError: pass
    print(json.dumps(found))
def _put(name, size, offset, data, packed):
    data = a2b_base64(data)
    if packed: data = DeflateIO(io.BytesIO(data), RAW, 12).read()
    at = name.find('/')
    while at >= 0 and not offset:
        try: os.mkdir(name[:at])
        except OSError as e:
            if e.errno != 17: raise
        at = name.find('/', at + 1)
    with open(name + '.new', 'ab' if offset else 'wb') as f: f.write(data)
    offset += len(data)
    if offset == size: os.rename(name + '.new', name)
    print(json.dumps({'next': offset}))
"""


def deflated(data: bytes) -> bytes:
    """`data` as raw DEFLATE with a window a board can afford."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -_WINDOW_BITS)
    return packer.compress(data) + packer.flush()


def pieces(data: bytes, deflate: bool) -> list[tuple[int, int, bytes, bool]]:
    """`(offset, bytes of the file, what to send, whether it is deflated)` of each piece."""
    found = []
    for offset in range(0, max(len(data), 1), PIECE):
        piece = data[offset : offset + PIECE]
        packed = deflated(piece) if deflate else piece
        if len(packed) < len(piece):
            found.append((offset, len(piece), packed, True))
        else:
            found.append((offset, len(piece), piece, False))
    return found


def send(
    device: Device, put: str, name: str, data: bytes, deflate: bool, progress: Progress
) -> int:
    """Send a file by the call that `put` begins, as `_put('a', 9, `; how many bytes it took.

    The device's function takes offset, data (base64) and whether it is deflated, and answers
    with the next offset.
    """
    sent = 0
    for offset, size, piece, packed in pieces(data, deflate):
        text = b2a_base64(piece, newline=False)
        code = f"{put}{offset}, {text!r}, {packed})"
        answer = device.call(code, 30)
        if answer["next"] != offset + size:
            raise ToolError(f"{name}: {answer}", Exit.TRANSFER, "run it again")
        sent += len(code)
        progress(name, offset + size)
    return sent


def hello(device: Device) -> dict[str, Any]:
    """What the board runs: `mpy`, `deflate`, `version`, `machine`, `platform`, `block` and `free`
    bytes of its file system, `slot`."""
    device.run(_BOOTSTRAP)
    return device.call("_hello()")


def upload(
    device: Device, files: dict[str, bytes], progress: Progress = lambda name, size: None
) -> int:
    """Bring `files` (path to content) onto a board that `hello` was said to.

    Skips what is there already; each file appears whole or not at all, and is read back. Returns
    the bytes that crossed the line.
    """
    facts = device.call("_hello()")
    wanted = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    here = hashes(device, list(files))
    missing = [name for name in files if here.get(name) != wanted[name]]
    size = sum(_space(len(files[name]), facts["block"]) for name in missing)
    if facts["free"] < size + _SPARE:
        raise ToolError(
            f"{device.port}: {facts['free']:,} bytes free, {size:,} needed",
            Exit.NO_SPACE,
            "remove files from the board, or erase it",
        )
    sent = 0
    for name in missing:
        put = f"_put({name!r}, {len(files[name])}, "
        sent += send(device, put, name, files[name], facts["deflate"], progress)
    here = hashes(device, missing)
    for name in missing:
        if here.get(name) != wanted[name]:
            raise ToolError(
                f"{device.port}: {name} does not read back as sent",
                Exit.VERIFY,
                "run it again; if it stays, the board's flash is worn",
            )
    return sent


def _space(size: int, block: int) -> int:
    # Whole blocks, or a share of its folder's where small: littlefs, 4 KiB blocks
    return block // 4 if size <= block // 8 else -(-size // block) * block


def hashes(device: Device, names: list[str]) -> dict[str, str]:
    """SHA-256 (hex) of each file that is on the board."""
    found: dict[str, str] = {}
    for start in range(0, len(names), 16):
        text = json.dumps(names[start : start + 16])
        found |= device.call(f"_hashes({text})", 60)
    return found
