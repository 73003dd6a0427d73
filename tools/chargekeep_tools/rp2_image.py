"""RP2040 flash as a UF2 file or a dump: where the firmware ends and the file system begins.

The image says both in its binary info (Pico SDK, pico/binary_info/defs.h and structure.h). A
station's log lies between the two, right below the file system. boards/rp2_layout.py reads the
same on the board, and needs MicroPython's modules for it: the host cannot import it.
"""

import struct

from chargekeep_tools.codes import Exit, ToolError

LEDGER_BLOCKS = 64
"""Blocks of 4,096 bytes that a station's log takes."""

_XIP = 0x10000000
_UF2 = struct.Struct("<8I476sI")
_UF2_MAGIC = (0x0A324655, 0x9E5D5157, 0x0AB16F30)
_NOT_MAIN_FLASH = 0x01
_RP2040 = 0xE48BFF56  # family id

_MARKER_START, _MARKER_END = 0x7188EBF2, 0xE71AA390
_SEARCH = range(0x100, 0x200 - 16, 4)  # after the second-stage boot loader
_ID_AND_INT, _BLOCK_DEVICE = 5, 7
_ID_BINARY_END = 0x68F465DE


def flash_of(uf2: bytes) -> bytes:
    """What flash holds after writing a UF2 file. Raises VERIFY or WRONG_BOARD.

    The format is Microsoft's (github.com/microsoft/uf2).
    """
    found = bytearray()
    if not uf2 or len(uf2) % _UF2.size:
        raise ToolError("this is no UF2 file", Exit.VERIFY, "take the .uf2 of micropython.org")
    for block in _UF2.iter_unpack(uf2):
        first, second, flags, address, size, _, _, family, data, last = block
        if (first, second, last) != _UF2_MAGIC or size > len(data):
            raise ToolError("this UF2 file is damaged", Exit.VERIFY, "download it again")
        if family != _RP2040:
            raise ToolError(
                f"the image is for another chip (family {family:#x}) than an RP2040",
                Exit.WRONG_BOARD,
                "take the image of this board",
            )
        if not flags & _NOT_MAIN_FLASH:
            at = address - _XIP
            if not 0 <= at < 1 << 24:
                raise ToolError("this UF2 file is not for flash", Exit.VERIFY)
            found.extend(b"\xff" * (at + size - len(found)))
            found[at : at + size] = data[:size]
    return bytes(found)


def layout(flash: bytes) -> tuple[int, int]:
    """`(end, storage)`: offsets into flash after the firmware, and of the file system."""

    def words(at: int, n: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{n}I", flash, at)

    try:
        for at in _SEARCH:
            marker, start, stop, _, end_marker = words(at, 5)
            if marker != _MARKER_START or end_marker != _MARKER_END:
                continue
            end = storage = 0
            for entry in words(start - _XIP, (stop - start) // 4):
                head, first, second = words(entry - _XIP, 3)
                if head & 0xFFFF == _ID_AND_INT and first == _ID_BINARY_END:
                    end = second - _XIP
                elif head & 0xFFFF == _BLOCK_DEVICE:
                    storage = max(storage, second - _XIP)  # a ROMFS lies below the file system
            if 0 < end <= storage:
                return end, storage
    except struct.error:
        pass  # it points out of the image
    raise ToolError(
        "no binary info in the image", Exit.VERIFY, "take an image of MicroPython for this board"
    )
