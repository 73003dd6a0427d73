"""Images of MicroPython for ESP32 boards: what of one goes where in flash, around our partitions.

An image as upstream publishes it is boot loader, partition table and program in one piece, with
padding over the settings in between. It is taken apart, so that the padding erases nothing, and
gets the partition table of the board, which has a row for the ledger.
"""

import csv
import struct
from pathlib import Path

from mp_image_tool_esp32.partition_table import (
    NAME_TO_TYPE,
    PART_MAGIC,
    PART_NAME_LEN,
    SUBTYPES,
    PartitionEntry,
    PartitionError,
    PartitionTable,
)

from chargekeep_tools.codes import Exit, ToolError

TABLE_AT = 0x8000
TABLE_SIZE = 0x1000
# MicroPython's ports/esp32/boards: where an image begins; chip id of the image header, from
# ESP-IDF's esp_chip_id_t.
CHIPS = {"esp32": (0x1000, 0), "esp32s3": (0, 9), "esp32c3": (0, 5)}

_IMAGE_MAGIC = 0xE9
_CHIP_ID_AT = 12
_UNDEFINED = 0x06  # subtype of data, ESP-IDF's esp_partition_subtype_t


def partition_table(rows: Path) -> PartitionTable:
    """The table that a `partitions.csv` describes."""
    table = PartitionTable()
    with rows.open(newline="") as f:
        for row in csv.reader(line for line in f if not line.startswith("#")):
            name, kind, subtype, offset, size = (cell.strip() for cell in row[:5])
            number = SUBTYPES[subtype][1] if subtype in SUBTYPES else _UNDEFINED
            label = name.encode().ljust(PART_NAME_LEN, b"\0")
            where = int(offset, 0), int(size, 0)
            table.append(PartitionEntry(PART_MAGIC, NAME_TO_TYPE[kind], number, *where, label, 0))
    return table


def segments(image: bytes, chip: str, table: PartitionTable) -> dict[int, bytes]:
    """Flash offset to what is written there. Raises WRONG_BOARD, VERIFY or NO_SPACE."""
    start, chip_id = CHIPS[chip]
    if len(image) < TABLE_AT + TABLE_SIZE or image[0] != _IMAGE_MAGIC:
        raise ToolError(
            "this is no whole image of MicroPython for ESP32",
            Exit.VERIFY,
            "take the .bin of micropython.org, not the .app-bin",
        )
    (found,) = struct.unpack_from("<H", image, _CHIP_ID_AT)
    if found != chip_id:
        raise ToolError(
            f"the image is for another chip (id {found}) than {chip} (id {chip_id})",
            Exit.WRONG_BOARD,
            "take the image of this board",
        )
    program = table.by_subtype("factory")
    code = image[program.offset - start :]
    if code[:1] != bytes([_IMAGE_MAGIC]):
        raise ToolError("the image's program is not where it should be", Exit.VERIFY)
    if len(code) > program.size:
        raise ToolError(
            f"the program has {len(code)} bytes, its partition {program.size}",
            Exit.NO_SPACE,
            "this image needs another partitions.csv",
        )
    return {
        start: image[: TABLE_AT - start].rstrip(b"\xff"),
        TABLE_AT: table.to_bytes(),
        program.offset: code,
    }


def ledger_moves(before: bytes, table: PartitionTable) -> bool:
    """Whether flash with the partition table `before` has a ledger where `table` has none."""
    try:
        old = PartitionTable.from_bytes(before).find("ledger")
    except PartitionError:
        return False
    new = table.by_name("ledger")
    return old is not None and (old.offset, old.size) != (new.offset, new.size)
