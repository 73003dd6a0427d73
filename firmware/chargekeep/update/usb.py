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
from chargekeep.errors import ChargekeepError
from chargekeep.update import manifest, slots
from chargekeep.update.stage import Stage

try:
    from deflate import RAW, DeflateIO
except ImportError:
    DeflateIO = None

_OFFERED = "manifest.new"

_stage = None
_listed = None
_core = None


def _open():
    global _core
    if _core is None:
        _core = Core(board.open_board())
        asyncio.run(_core.objects.load())
    return _core


def _verified(data):
    # The manifest, proven to be signed, and to be for this station and board.
    here = _open()
    listed = manifest.open_signed(data, here.objects.trust.key_for)
    manifest.check(listed, here.identity.site, here.identity.station, here.board.name)
    return listed


def hello():
    """What the host has to know before it sends anything."""
    return {
        "mpy": getattr(sys.implementation, "_mpy", 0),
        "deflate": DeflateIO is not None,
        "running": slots.running(),
        "on_trial": slots.on_trial(),
    }


def offer(offset, data, packed):
    """Bytes (base64, deflated if `packed`) of the manifest that `begin` or `adopt` is to take."""
    data = _unpack(data, packed)
    with open(_OFFERED, "ab" if offset else "wb") as f:
        f.write(data)
    return {"next": offset + len(data)}


def _offered():
    with open(_OFFERED, "rb") as f:
        data = f.read()
    os.remove(_OFFERED)
    return data


def _unpack(data, packed):
    data = a2b_base64(data)
    return DeflateIO(io.BytesIO(data), RAW, 12).read() if packed else data


def begin():
    """Verify the manifest that was offered and say which files to send."""
    global _stage, _listed
    if slots.on_trial():
        raise ChargekeepError(errors.UPDATE_TRIAL)  # the other slot is what it falls back to
    data = _offered()
    _listed = _verified(data)
    floor = _open().ledger.counter(slots.COUNTER)
    if _listed.version < floor:
        raise ChargekeepError(errors.VERSION_ROLLBACK, "%d < %d" % (_listed.version, floor))
    if _installed() == data:
        return {"current": True, "version": _listed.version}
    if _listed.version == floor:
        raise ChargekeepError(errors.VERSION_ROLLBACK, "another bundle of version %d" % floor)
    _stage = Stage(_listed, data)
    _stage.prepare()
    return {
        "current": False,
        "version": _listed.version,
        "floor": floor,
        "slot": _stage.slot,
        "needed": _stage.needed,
    }


def _installed():
    try:
        with open(slots.running() + "/" + slots.MANIFEST, "rb") as f:
            return f.read()
    except OSError:
        return None


def put(index, offset, data, packed):
    """Bytes (base64, deflated if `packed`) of file `index` at `offset`."""
    data = _unpack(data, packed)
    _stage.put(index, offset, data)
    return {"next": offset + len(data)}


def finish():
    """Prove the slot and put it on trial from the next boot on."""
    _stage.finish()
    slots.switch(_stage.slot)
    return {"slot": _stage.slot, "version": _listed.version, "trial": True}


def adopt():
    """Prove the running slot, which was uploaded before there was a station to verify it."""
    data = _offered()
    listed = _verified(data)
    Stage(listed, data, slots.running()).finish()
    return {"slot": slots.running(), "version": listed.version}


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
