# The ledger's flash on an RP2040 with a stock image: the space between the end of the firmware and
# the file system, which the image's own _boot.py formats whenever a mount fails. rp2.Flash reaches
# it with negative block numbers, checks no bounds and reports no errors, so this checks both.

from micropython import const

from chargekeep import borrow, errors
from chargekeep.errors import ChargekeepError

_BLOCK = const(4096)
_PAGE = const(256)


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
        self.base = borrow("rp2_layout").gap(flash, peek, blocks)  # address

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
        borrow("rp2_layout").self_test(self, self._peek)


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
