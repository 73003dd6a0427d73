# Makes a board a station: called by the host over the REPL, never loaded in operation. The device
# makes its own key from its randomness and the host's and shows only the public half. Every step
# is durable before the next, so a run that was cut is repeated and goes on, with the same key.

import asyncio
import hashlib
import json
import os
import sys
from binascii import a2b_base64

from micropython import const

from chargekeep import __version__, board, cbor, errors, identity
from chargekeep.credential import ed25519
from chargekeep.errors import ChargekeepError
from chargekeep.ledger.ring import Ledger
from chargekeep.sealed import SealedStore
from chargekeep.timebase import Timebase

# The request, a CBOR map
_SITE = const(1)
_STATION = const(2)
_EVSE_ID = const(3)
_ROOT_KEY = const(4)
_ENTROPY = const(5)  # at least 32 bytes from the host
_SITE_KEY = const(6)
_NETWORK = const(7)  # a map, kept as it is
_CHALLENGE = const(8)
_REPLACE = const(9)  # true: forget the station this board was, its key and its ledger

_SEAL = "commission.seal"  # first seal key of the ledger, until the host has it
_DONE = "commissioned"  # exists once the host has confirmed
_ENOSPC = const(28)
_PROOF = b"chargekeep commission\0"


def _derive(the_board, request, label):
    # No single source decides: the host cannot know the result, a weak RNG does not stand alone.
    mix = hashlib.sha256(label)
    mix.update(the_board.entropy(32))
    mix.update(request[_ENTROPY])
    mix.update(the_board.unique_id())
    return mix.digest()


def _identity(the_board, store, request):
    # The identity that is here, or a new one; never another key for the same station.
    # What is to be replaced need not be readable: it may have been sealed on another board
    here = None if request[_REPLACE] is True else identity.load(store)
    if here is not None:
        same = (here.site, here.station) == (request[_SITE], request[_STATION])
        if not same or here.root_key != request[_ROOT_KEY]:
            raise ChargekeepError(errors.COMMISSIONED, "%s/%s" % (here.site, here.station))
        return here
    store.remove(_DONE)
    for name in os.listdir(store.root):
        store.remove(name)
    here = identity.Identity(
        site=request[_SITE],
        station=request[_STATION],
        evse_id=request[_EVSE_ID],
        root_key=request[_ROOT_KEY],
        seed=_derive(the_board, request, b"seed"),
        site_key=request[_SITE_KEY],
        log_id=_derive(the_board, request, b"log id")[:16],
    )
    identity.save(store, here)
    return here


def _has_ledger(device, store, here):
    ledger = Ledger(device, None, Timebase(), store)
    try:
        ledger.mount()
    except ChargekeepError:
        return False
    return ledger.log_id == here.log_id


def _ledger(the_board, store, here, request):
    # Formats unless a run that was cut got this far: what is logged is never erased here.
    device = the_board.ledger_device()
    if store.read(_DONE) is None:
        key = store.read(_SEAL)
        if key is None:
            key = _derive(the_board, request, b"seal")
            store.write(_SEAL, key)
        if not _has_ledger(device, store, here):
            Ledger.format(device, here.log_id, key, store, request[_REPLACE] is True)
    return device


def commission(the_board, request):
    """Do what `request` (bytes, CBOR map) asks for; a dict for the host.

    Raises COMMISSIONED where the board is another station, OBJECT_FORM for a bad request, what
    `Ledger.format` raises.
    """
    try:
        request = cbor.loads(request)
        network = cbor.dumps(request[_NETWORK])
        if len(request[_ENTROPY]) < 32 or len(request[_CHALLENGE]) != 32:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ChargekeepError(errors.OBJECT_FORM, "request")
    store = SealedStore(the_board.storage(), the_board.secret())
    here = _identity(the_board, store, request)
    device = _ledger(the_board, store, here, request)
    store.write("network", network)
    seal = store.read(_SEAL)
    return {
        "site": here.site,
        "station": here.station,
        "evse_id": here.evse_id,
        "public_key": ed25519.public_key(here.seed).hex(),
        "log_id": here.log_id.hex(),
        "proof": ed25519.sign(here.seed, _PROOF + request[_CHALLENGE] + here.log_id).hex(),
        "seal_key": seal and seal.hex(),
        "board": the_board.name,
        "unique_id": the_board.unique_id().hex(),
        "firmware": __version__,
        "micropython": ".".join(str(part) for part in sys.implementation[1][:3]),
        "mpy": getattr(sys.implementation, "_mpy", 0),
        "ledger_blocks": device.ioctl(4, 0),
    }


def confirm(the_board):
    """The host has the record: what only it may know from now on is removed."""
    store = SealedStore(the_board.storage(), the_board.secret())
    store.write(_DONE, b"1")
    store.remove(_SEAL)
    return {}


class Installer:
    """Takes signed objects over USB as the inbox takes them from the network."""

    def __init__(self, the_board):
        from chargekeep.core import Core

        self._objects = Core(the_board).objects
        asyncio.run(self._objects.load())

    def _wanted(self, taken):
        return {"taken": taken, "wanted": self._objects.wanted()}

    def take(self, kind, data):
        """The signed object `data` (base64) of `kind`. Raises what `Objects.accept` raises."""
        return self._wanted(asyncio.run(self._objects.accept(kind, a2b_base64(data))))

    def take_chunk(self, version, n, data):
        """Chunk `n` (base64) of the allowlist `version`."""
        done = self._objects.accept_chunk(version, n, a2b_base64(data))
        return self._wanted(asyncio.run(done))


_installer = None


def run(what, *arguments):
    """For the REPL: "commission", "confirm", "selftest", "take" or "take_chunk".

    Prints one line of JSON.
    """
    global _installer
    try:
        if what == "commission":
            result = commission(board.open_board(), *arguments)
        elif what == "confirm":
            result = confirm(board.open_board())
        elif what == "selftest":
            from chargekeep import selftest

            result = selftest.run(board.open_board(), *arguments)
        else:
            if _installer is None:
                _installer = Installer(board.open_board())
            result = getattr(_installer, what)(*arguments)
    except ChargekeepError as e:
        result = {"error": e.code, "detail": str(e.detail)}
    except OSError as e:
        code = errors.UPDATE_SPACE if e.errno == _ENOSPC else errors.UNEXPECTED
        result = {"error": code, "detail": repr(e)}
    print(json.dumps(result))
