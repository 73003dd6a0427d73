# The device's side of `chargekeep update`: called by the host over the REPL while the charger does
# not run. Each call prints one line of JSON.

import asyncio
import io
import json
import os
import sys
from binascii import a2b_base64

from chargekeep import board, errors
from chargekeep.core import Core
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError
from chargekeep.update import manifest, slots
from chargekeep.update.stage import Stage

try:
    from deflate import RAW, DeflateIO
except ImportError:
    DeflateIO = None

_OFFERED = "%s.new"  # manifest and list of files, as they come

_stage = None
_core = None


def _open():
    global _core
    if _core is None:
        _core = Core(board.open_board())
        asyncio.run(_core.objects.load())
    return _core


def _verified():
    # A Stage of the manifest that was offered, proven to be signed for this station and board.
    here = _open()
    name = _OFFERED % slots.MANIFEST
    data = slots.read(name, "rb")
    os.remove(name)
    listed = manifest.Manifest(
        cose.open_sign1(data, cose.FIRMWARE_MANIFEST, here.objects.trust.key_for)
    )
    manifest.check(listed, here)
    return listed, data


def hello():
    """What the host has to know before it sends anything."""
    return {
        "mpy": getattr(sys.implementation, "_mpy", 0),
        "deflate": DeflateIO is not None,
        "running": slots.running(),
        "on_trial": slots.on_trial(),
    }


def offer(name, offset, data, packed):
    """Bytes (base64, deflated if `packed`) of "manifest" or "files", the list, that `begin` or
    `adopt` is to take."""
    data = _unpack(data, packed)
    with open(_OFFERED % name, "ab" if offset else "wb") as f:
        f.write(data)
    return {"next": offset + len(data)}


def _unpack(data, packed):
    data = a2b_base64(data)
    return DeflateIO(io.BytesIO(data), RAW, 12).read() if packed else data


def _all(steps):
    for _ in steps:
        pass


def begin():
    """Verify the manifest that was offered and say which files to send."""
    global _stage
    if slots.on_trial():
        raise ChargekeepError(errors.UPDATE_TRIAL)  # the other slot is what it falls back to
    listed, data = _verified()
    result = {"version": listed.version, "current": slots.installed() == data}
    if not result["current"]:
        manifest.check_newer(listed, _open())
        _stage = Stage(listed, data)
        _take_list(_stage)
        _all(_stage.prepare())
        result["slot"] = _stage.slot
        result["needed"] = _stage.needed
    return result


def _take_list(stage):
    if not stage.has_list():
        stage.take_list(_OFFERED % slots.LIST)


def put(index, offset, data, packed):
    """Bytes (base64, deflated if `packed`) of file `index` at `offset`."""
    data = _unpack(data, packed)
    for path, size, _ in _stage.files():
        if not index:
            _stage.put(path, size, offset, data)
        index -= 1
    return {"next": offset + len(data)}


def finish():
    """Prove the slot and put it on trial from the next boot on."""
    _all(_stage.finish())
    slots.switch(_stage.slot)
    return {"slot": _stage.slot, "trial": True}


def adopt():
    """Prove the running slot, which was uploaded before there was a station to verify it."""
    listed, data = _verified()
    stage = Stage(listed, data, slots.running())
    _take_list(stage)
    _all(stage.finish())
    return {"slot": stage.slot, "version": listed.version}


def restart():
    """Restart the board; does not return."""
    board.open_board().reset()


def run(what, *arguments):
    """For the REPL: one of the functions above by name. Prints one line of JSON."""
    try:
        result = globals()[what](*arguments)
    except ChargekeepError as e:
        result = {"error": e.code, "detail": str(e.detail)}
    except OSError as e:
        code = errors.UPDATE_SPACE if e.errno == 28 else errors.UNEXPECTED
        result = {"error": code, "detail": repr(e)}
    print(json.dumps(result))
