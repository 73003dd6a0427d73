# The ledger's flash on an RP2040 with a stock image: the space between the end of the firmware and
# the file system, which the image's own _boot.py formats whenever a mount fails. rp2.Flash reaches
# it with negative block numbers, checks no bounds and reports no errors, so this checks both.

import struct

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_BLOCK = const(4096)
_PAGE = const(256)
_XIP = const(0x10000000)  # where flash is in memory, RP2040 datasheet section 2.2
_XIP_END = const(0x11000000)
# Pico SDK, pico/binary_info/defs.h and structure.h
_SEARCH_AT = const(0x10000100)  # after the second-stage boot loader
_SEARCH_WORDS = const(64)
_MARKER_START = 0x7188EBF2
_MARKER_END = 0xE71AA390
_ID_AND_INT = const(5)
_BLOCK_DEVICE = const(7)
_ID_BINARY_END = 0x68F465DE
_MAX_ENTRIES = const(256)


class GapFlash:
    """`blocks` x 4,096 bytes right below the file system, in the extended block protocol.

    flash: `rp2.Flash()`. peek: `peek(address, length) -> bytes` of the memory map.
    Raises BOARD where the image does not tell its end or the gap is too small.
    """

    program_size = 256  # the RP2040 programs whole aligned pages; ones change nothing

    def __init__(self, flash, peek, blocks):
        self._flash = flash
        self._peek = peek
        self.blocks = blocks
        end, storage = firmware_end(peek)
        self.base = storage - blocks * _BLOCK  # address
        if blocks < 2 or end is None or self.base < end:
            raise ChargekeepError(errors.BOARD, "ledger does not fit below the file system")
        first = bytearray(_PAGE)
        flash.readblocks(0, first, 0)
        if first != peek(storage, _PAGE):
            raise ChargekeepError(errors.BOARD, "file system is not where the image says")

    def ioctl(self, request, argument):
        if request == 4:
            return self.blocks
        if request == 5:
            return _BLOCK
        if request == 6:
            return self._flash.ioctl(6, self._number(argument, 0, _BLOCK))
        return 0

    def readblocks(self, block, buffer, offset=0):
        self._flash.readblocks(self._number(block, offset, len(buffer)), buffer, offset)

    def writeblocks(self, block, buffer, offset=None):
        """Programs; never erases. A whole number of pages, page-aligned."""
        if offset is None or offset % _PAGE or len(buffer) % _PAGE:
            raise ChargekeepError(errors.LEDGER_PROGRAM, "alignment")
        self._flash.writeblocks(self._number(block, offset, len(buffer)), buffer, offset)

    def _number(self, block, offset, length):
        # Negative numbers count down from the file system's first block.
        if not 0 <= block < self.blocks or offset < 0 or offset + length > _BLOCK:
            raise ChargekeepError(errors.LEDGER_RANGE, "block %d" % block)
        return block - self.blocks

    def self_test(self):
        """Before the first format: does flash here erase, program and read back, and only here?

        Uses the first blank block and leaves it blank. Raises BOARD; without a blank block there
        is nothing to test on and nothing is touched.
        """
        page = bytearray(_PAGE)
        for block in range(self.blocks):
            if not self._is_blank(block, page):
                continue
            before = self._neighbours()
            self.ioctl(6, block)
            blank = self._is_blank(block, page)
            for i in range(_PAGE):
                page[i] = (i * 31 + block) & 0xFF
            self.writeblocks(block, page, _PAGE)
            mapped = self._peek(self.base + block * _BLOCK + _PAGE, _PAGE)
            kept = bytes(page)
            self.readblocks(block, page, _PAGE)
            good = blank and page == kept and mapped == kept and self._neighbours() == before
            self.ioctl(6, block)
            if not good or not self._is_blank(block, page):
                raise ChargekeepError(errors.BOARD, "flash below the file system fails")
            return

    def _is_blank(self, block, page):
        for offset in range(0, _BLOCK, _PAGE):
            self.readblocks(block, page, offset)
            if page != b"\xff" * _PAGE:
                return False
        return True

    def _neighbours(self):
        # The firmware's last page and the file system's first.
        return self._peek(self.base - _PAGE, _PAGE), self._peek(
            self.base + self.blocks * _BLOCK, _PAGE
        )


def firmware_end(peek):
    """`(end, storage)`: address after the firmware, and of the file system, from the image.

    The image's binary info says both (Pico SDK, pico/binary_info). Raises BOARD without it.
    """
    words = struct.unpack("<%dI" % _SEARCH_WORDS, peek(_SEARCH_AT, 4 * _SEARCH_WORDS))
    end = storage = None
    for i in range(_SEARCH_WORDS - 4):
        start, stop = words[i + 1], words[i + 2]
        if words[i] != _MARKER_START or words[i + 4] != _MARKER_END:
            continue
        if not _XIP <= start <= stop < _XIP_END or stop - start > 4 * _MAX_ENTRIES:
            break
        for at in range(start, stop, 4):
            entry = struct.unpack("<I", peek(at, 4))[0]
            if not _XIP <= entry < _XIP_END - 16:
                continue
            kind, _, first, second = struct.unpack("<HHII", peek(entry, 12))
            if kind == _ID_AND_INT and first == _ID_BINARY_END:
                end = second
            elif kind == _BLOCK_DEVICE and (storage is None or second > storage):
                storage = second  # a ROMFS lies below the file system
    if end is None or storage is None or storage % _BLOCK or not _XIP < end <= storage:
        raise ChargekeepError(errors.BOARD, "no binary info in the image")
    return end, storage


def ledger_device(wiring):
    """The ledger's flash as config.json says: `blocks` in the gap (64 where it is silent).

    An image of our own that keeps the file system out of a part of rp2.Flash names that part by
    `start` (bytes into rp2.Flash), and no gap is used.
    """
    import rp2
    import uctypes

    blocks = wiring.get("blocks", 64)
    if "start" in wiring:
        return PageFlash(rp2.Flash(start=wiring["start"], len=blocks * _BLOCK))
    return GapFlash(rp2.Flash(), uctypes.bytes_at, blocks)


class PageFlash:
    """A part of rp2.Flash that is ours by the image: only the page size has to be told."""

    program_size = 256

    def __init__(self, flash):
        self.ioctl = flash.ioctl
        self.readblocks = flash.readblocks
        self.writeblocks = flash.writeblocks
