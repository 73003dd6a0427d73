# Where a stock image leaves room in the flash of an RP2040, and whether flash works there. Loaded
# once a boot, and once when a ledger is first made.

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


def gap(flash, peek, blocks):
    """Address of `blocks` blocks below the file system. Raises BOARD, see `GapFlash`."""
    end, storage = firmware_end(peek)
    base = storage - blocks * _BLOCK
    if blocks < 2 or end is None or base < end:
        raise ChargekeepError(errors.BOARD, "ledger does not fit below the file system")
    first = bytearray(_PAGE)
    flash.readblocks(0, first, 0)
    if first != peek(storage, _PAGE):
        raise ChargekeepError(errors.BOARD, "file system is not where the image says")
    return base


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


def self_test(device, peek):
    """`GapFlash.self_test`."""
    page = bytearray(_PAGE)
    for block in range(device.blocks):
        if not _is_blank(device, block, page):
            continue
        before = _neighbours(device, peek)
        device.ioctl(6, block)
        blank = _is_blank(device, block, page)
        for i in range(_PAGE):
            page[i] = (i * 31 + block) & 0xFF
        device.writeblocks(block, page, _PAGE)
        mapped = peek(device.base + block * _BLOCK + _PAGE, _PAGE)
        kept = bytes(page)
        device.readblocks(block, page, _PAGE)
        good = blank and page == kept and mapped == kept and _neighbours(device, peek) == before
        device.ioctl(6, block)
        if not good or not _is_blank(device, block, page):
            raise ChargekeepError(errors.BOARD, "flash below the file system fails")
        return


def _is_blank(device, block, page):
    for offset in range(0, _BLOCK, _PAGE):
        device.readblocks(block, page, offset)
        if page != b"\xff" * _PAGE:
            return False
    return True


def _neighbours(device, peek):
    # The firmware's last page and the file system's first.
    return peek(device.base - _PAGE, _PAGE), peek(device.base + device.blocks * _BLOCK, _PAGE)
