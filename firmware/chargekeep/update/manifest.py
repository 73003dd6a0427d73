# What a firmware bundle says of itself, signed: for which board and bytecode it is, its version,
# and size and hash of every file. Nothing in it is believed before its signature is verified.

import sys

from micropython import const

from chargekeep import errors
from chargekeep.authorization import form
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError

PRODUCT = "chargekeep"

_PRODUCT = const(10)  # keys of the payload
_BOARD = const(11)
_ABI = const(12)
_FILES = const(13)
_TEXT = const(14)

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
    return text


class Manifest(form.Object):
    """`board`, `abi`, `text` and `files`: sorted [path, size, SHA-256]."""

    def __init__(self, payload):
        super().__init__(payload, (_PRODUCT, _BOARD, _ABI, _FILES, _TEXT))
        body = self.body
        if body[_PRODUCT] != PRODUCT:
            raise ChargekeepError(errors.UPDATE_BOARD, "product")
        self.board = form.text(body[_BOARD], form.NAME)
        self.abi = form.uint(body[_ABI])
        self.text = form.text(body[_TEXT], form.NAME)
        self.files = form.array(body[_FILES], _MAX_FILES, 1)
        before = ""
        for item in self.files:
            path, size, digest = form.array(item, 3, 3)
            if _path(path) <= before:
                form.fail("order")  # sorted, so none is named twice
            before = path
            form.uint(size, _MAX_SIZE)
            form.octets(digest, 32)


def check(listed, site, station, board):
    """Raise OBJECT_SITE, UPDATE_BOARD or UPDATE_ABI for a bundle that is not for us."""
    if listed.site != site or listed.station not in (None, station):
        raise ChargekeepError(errors.OBJECT_SITE)
    if listed.board != board:
        raise ChargekeepError(errors.UPDATE_BOARD, listed.board)
    ours = getattr(sys.implementation, "_mpy", 0)
    # Native code is bound to the architecture as well; bytecode to its version only.
    if listed.abi != (ours if listed.abi > _BYTECODE else ours & _BYTECODE):
        raise ChargekeepError(errors.UPDATE_ABI, "%d, not %d" % (listed.abi, ours))


def open_signed(data, key_for):
    """The `Manifest` in the COSE_Sign1 `data`."""
    return Manifest(cose.open_sign1(data, cose.FIRMWARE_MANIFEST, key_for))
