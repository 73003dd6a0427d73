# The device's side of `chargekeep update`: called by the host over the REPL while the charger does
# not run. Each call prints one line of JSON.

import io
import json
import sys
from binascii import a2b_base64

from chargekeep import board, errors, identity
from chargekeep.authorization.trust import Trust
from chargekeep.errors import ChargekeepError
from chargekeep.ledger.ring import Ledger
from chargekeep.store import Store
from chargekeep.timebase import Timebase
from chargekeep.update import manifest, slots
from chargekeep.update.stage import Stage

try:
    from deflate import RAW, DeflateIO
except ImportError:
    DeflateIO = None

_stage = None
_listed = None
_mounted = None


def _station():
    """`(identity, trust, ledger, timebase, board)` of the station this board is."""
    global _mounted
    if _mounted is None:
        from chargekeep.authorization import trust as trust_list
        from chargekeep.credential import cose

        the_board = board.open_board()
        store = Store(the_board.storage())
        here = identity.load(store)
        if here is None:
            raise ChargekeepError(errors.SECRET, "no station yet")
        timebase = Timebase()
        ledger = Ledger(the_board.ledger_device(), None, timebase, store)
        ledger.mount()
        timebase.start(ledger.counter(0), ledger.counter(2))
        trust = Trust(here.root_key, timebase)
        data = store.read("trust")
        if data is not None:
            trust.use(trust_list.parse(cose.open_sign1(data, cose.TRUST_LIST, trust.key_for)))
        _mounted = here, trust, ledger, the_board
    return _mounted


def hello():
    """What the host has to know before it sends anything."""
    return {
        "mpy": getattr(sys.implementation, "_mpy", 0),
        "deflate": DeflateIO is not None,
        "running": slots.running(),
        "on_trial": slots.on_trial(),
    }


def begin(data):
    """Verify the manifest `data` (base64) and say which files to send."""
    global _stage, _listed
    if slots.on_trial():
        raise ChargekeepError(errors.UPDATE_TRIAL)  # the other slot is what it falls back to
    here, trust, ledger, the_board = _station()
    data = a2b_base64(data)
    _listed = manifest.open_signed(data, trust.key_for)
    manifest.check(_listed, here.site, here.station, the_board.name)
    floor = ledger.counter(manifest.COUNTER)
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
    data = a2b_base64(data)
    if packed:
        data = DeflateIO(io.BytesIO(data), RAW, 12).read()
    _stage.put(index, offset, data)
    return {"next": offset + len(data)}


def finish():
    """Prove the slot and put it on trial from the next boot on."""
    _stage.finish()
    slots.switch(_stage.slot)
    return {"slot": _stage.slot, "version": _listed.version, "trial": True}


def adopt(data):
    """Prove the running slot, which was uploaded before there was a station to verify it."""
    here, trust, _, the_board = _station()
    data = a2b_base64(data)
    listed = manifest.open_signed(data, trust.key_for)
    manifest.check(listed, here.site, here.station, the_board.name)
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
