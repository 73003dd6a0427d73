# What a firmware bundle says of itself, signed: for which board and bytecode it is, its version,
# and the hash of the list of its files. Nothing in it is believed before its signature is
# verified, nothing in the list before its hash is. The list stays in flash and is read by lines.

import sys
from binascii import hexlify, unhexlify

from micropython import const

from chargekeep import errors
from chargekeep.authorization import form
from chargekeep.errors import ChargekeepError
from chargekeep.update import slots

PRODUCT = "chargekeep"

_PRODUCT = const(10)  # keys of the payload
_BOARD = const(11)
_ABI = const(12)
_LIST = const(13)
_TEXT = const(14)

_MAX_LIST = const(20480)
_MAX_FILES = const(128)
_MAX_SIZE = const(65536)
_MAX_PATH = const(64)
_PATH_CHARS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_."
_BYTECODE = const(0xFF)  # bits of sys.implementation._mpy that plain bytecode depends on


def _path(text):
    # Below its slot, and nothing a file system or a later import could take otherwise.
    form.text(text, _MAX_PATH)
    for part in text.split("/"):
        if part.strip(".") == "" or not all(c in _PATH_CHARS for c in part):
            form.fail("path")
    if text in slots.OWN:
        form.fail("path")
    return text


class Manifest(form.Object):
    """`board`, `abi`, `text`, and `size` and `digest` (SHA-256) of the list of files."""

    def __init__(self, payload):
        super().__init__(payload, (_PRODUCT, _BOARD, _ABI, _LIST, _TEXT))
        body = self.body
        if body[_PRODUCT] != PRODUCT:
            raise ChargekeepError(errors.UPDATE_BOARD, "product")
        self.board = form.text(body[_BOARD], form.NAME)
        self.abi = form.uint(body[_ABI])
        self.text = form.text(body[_TEXT], form.NAME)
        self.size, self.digest = form.array(body[_LIST], 2, 2)
        form.uint(self.size, _MAX_LIST, 1)
        form.octets(self.digest, 32)


def files(name):
    """Each `(path, size, SHA-256)` of the list in the file `name`. Raises OBJECT_FORM, OSError."""
    before = ""
    count = 0
    with open(name, "rb") as f:
        for line in f:
            try:
                digest, size, path = str(line, "utf-8").split(" ")
                path = _path(path[:-1])
                size = form.uint(int(size), _MAX_SIZE)
                digest = form.octets(unhexlify(digest), 32)
            except ValueError:
                form.fail("list")
            if line != b"%s %d %s\n" % (hexlify(digest), size, path.encode()):
                form.fail("list")
            count += 1
            if path <= before or count > _MAX_FILES:
                form.fail("order")  # sorted, so none is named twice
            before = path
            yield path, size, digest


def check(listed, here):
    """Raise OBJECT_SITE, UPDATE_BOARD or UPDATE_ABI for a bundle that is not for `here`, a Core or
    an App."""
    here.objects.check_addressee(listed)
    if listed.board != here.board.name:
        raise ChargekeepError(errors.UPDATE_BOARD, listed.board)
    ours = getattr(sys.implementation, "_mpy", 0)
    # Native code is bound to the architecture as well; bytecode to its version only.
    if listed.abi != (ours if listed.abi > _BYTECODE else ours & _BYTECODE):
        raise ChargekeepError(errors.UPDATE_ABI, "%d, not %d" % (listed.abi, ours))


def check_newer(listed, here):
    """Raise VERSION_ROLLBACK unless it is newer than all that has run."""
    floor = here.ledger.counter(slots.COUNTER)
    if listed.version <= floor:
        raise ChargekeepError(errors.VERSION_ROLLBACK, "%d, here %d" % (listed.version, floor))
