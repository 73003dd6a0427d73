"""`chargekeep flash`: stock images onto boards, around the log of a station."""

import json
import os
import struct
from pathlib import Path

import pytest
from esp_rom import EspRom

from chargekeep_tools import esp32_image, flash, rp2_image
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.programs import firmware_root
from chargekeep_tools.sim.board import SimBoard

ROOT = firmware_root()
NO_LINES = ("--before=no-reset", "--after=no-reset", "--no-stub")  # of a pseudo-terminal


def esp_program(chip_id: int) -> bytes:
    """A program as an ESP32's boot loader takes it: one segment of one word, and a checksum."""
    header = struct.pack("<BBBBI", 0xE9, 1, 2, 0x20, 0x40080000)
    more = struct.pack("<B3sHBHH4xB", 0xEE, bytes(3), chip_id, 0, 0, 0, 0)
    data = b"\x01\x02\x03\x04"
    body = header + more + struct.pack("<II", 0x3FFB0000, len(data)) + data
    return body + bytes(15 - len(body) % 16) + bytes([0xEF ^ 1 ^ 2 ^ 3 ^ 4])


def esp_image(chip: str = "esp32", chip_id: int | None = None) -> bytes:
    """A MicroPython image in upstream's layout: boot loader, stock table, padding, program."""
    start, own_id = esp32_image.CHIPS[chip]
    program = esp_program(own_id if chip_id is None else chip_id)
    image = program.ljust(0x10000 - start, b"\xff")
    return image + program + os.urandom(5000)


def table(board: str) -> esp32_image.PartitionTable:
    return esp32_image.partition_table(ROOT / "boards" / board / "partitions.csv")


def uf2(flash: bytes, family: int = 0xE48BFF56) -> bytes:
    blocks = range(0, len(flash), 256)
    return b"".join(
        struct.pack(
            "<8I476sI",
            *(0x0A324655, 0x9E5D5157, 0x2000, 0x10000000 + at, 256, i, len(blocks), family),
            flash[at : at + 256],
            0x0AB16F30,
        )
        for i, at in enumerate(blocks)
    )


def rp2_flash(end: int, storage: int) -> bytes:
    """Firmware of `end` bytes that names its end and its file system in binary info."""
    flash = bytearray(end)
    xip = 0x10000000
    struct.pack_into("<5I", flash, 0x120, 0x7188EBF2, xip + 0x400, xip + 0x408, xip, 0xE71AA390)
    struct.pack_into("<2I", flash, 0x400, xip + 0x500, xip + 0x600)
    struct.pack_into("<HHII", flash, 0x500, 5, 0x5052, 0x68F465DE, xip + end)
    struct.pack_into("<HHII", flash, 0x600, 7, 0x5052, 0, xip + storage)
    return bytes(flash)


def refused(code: Exit, call, *args) -> None:
    with pytest.raises(ToolError) as caught:
        call(*args)
    assert caught.value.exit_code == code, caught.value


# ESP32


@pytest.mark.parametrize("board", ["ESP32_GENERIC", "ESP32_GENERIC_S3", "ESP32_GENERIC_C3"])
def test_partition_tables_leave_room_for_the_log_and_check(board):
    made = table(board)
    ledger = made.by_name("ledger")
    assert ledger.size == rp2_image.LEDGER_BLOCKS * 4096
    assert esp32_image.PartitionTable.from_bytes(made.to_bytes()) == made


def test_writes_an_image_with_our_partitions_and_leaves_settings_alone():
    image = esp_image()
    with EspRom() as rom:
        rom.flash[0x9000:0xF000] = settings = os.urandom(0x6000)
        rom.flash[0x200000:0x240000] = log = os.urandom(0x40000)
        flash.write_esp32(rom.port, image, "ESP32_GENERIC", options=NO_LINES)
        assert rom.flash[0x10000:].startswith(image[0xF000:])
        assert rom.flash[0x8000:0x9000] == table("ESP32_GENERIC").to_bytes()
        assert rom.flash[0x1000:].startswith(esp_program(0))
        assert rom.flash[0x9000:0xF000] == settings
        assert rom.flash[0x200000:0x240000] == log


def test_never_moves_the_log_of_a_station():
    moved = table("ESP32_GENERIC")
    moved[3] = moved[3]._replace(offset=moved[3].offset + 0x1000)
    with EspRom() as rom:
        rom.flash[0x8000:0x9000] = moved.to_bytes()
        before = bytes(rom.flash)
        refused(
            Exit.REFUSED,
            flash.write_esp32,
            rom.port,
            esp_image(),
            "ESP32_GENERIC",
            False,
            NO_LINES,
        )
        assert rom.flash == before and not rom.erased


@pytest.mark.parametrize(
    "image, code",
    [
        (b"", Exit.VERIFY),
        (bytes(0x20000), Exit.VERIFY),
        (esp_image()[: 0x10000 - 0x1000], Exit.VERIFY),
        (esp_image(chip_id=9), Exit.WRONG_BOARD),
        (esp_image() + bytes(0x1F0000), Exit.NO_SPACE),
    ],
)
def test_refuses_what_is_no_image_for_the_board(image, code):
    refused(code, esp32_image.segments, image, "esp32", table("ESP32_GENERIC"))


def test_says_what_to_do_when_the_chip_does_not_answer(tmp_path):
    nobody = tmp_path / "nobody"
    refused(Exit.TRANSFER, flash.write_esp32, str(nobody), esp_image(), "ESP32_GENERIC")


# RP2040


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    (tmp_path / "INFO_UF2.TXT").write_text("UF2 Bootloader v3.0\nBoard-ID: RPI-RP2\n")
    return tmp_path


def test_copies_an_image_to_the_drive(drive):
    image = uf2(rp2_flash(0x50000, 0xA0000))
    flash.write_rp2(str(drive), image)
    assert (drive / "firmware.uf2").read_bytes() == image


def test_takes_a_folder_for_no_drive(tmp_path):
    image = uf2(rp2_flash(0x50000, 0xA0000))
    refused(Exit.NO_DEVICE, flash.write_rp2, str(tmp_path), image)


def test_sends_a_running_board_to_its_boot_rom_first(drive, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(flash, "_DRIVES", (str(drive),))
    image = uf2(rp2_flash(0x50000, 0xA0000))
    folder = tmp_path_factory.mktemp("board")
    (folder / "machine.py").write_text("def bootloader():\n open('asked', 'w').close()\n")
    with SimBoard(folder) as board:
        flash.write_rp2(board.port, image)
        assert flash.wait_for(board.port)["platform"] == "linux"
    assert (folder / "asked").exists()
    assert (drive / "firmware.uf2").read_bytes() == image
    monkeypatch.setattr(flash, "_DRIVES", (str(folder),))
    refused(Exit.NO_DEVICE, flash._drive, 0.1)


@pytest.mark.parametrize(
    "data, code",
    [
        (b"", Exit.VERIFY),
        (b"UF2\n" * 128, Exit.VERIFY),
        (uf2(rp2_flash(0x50000, 0xA0000), family=0xE48BFF59), Exit.WRONG_BOARD),
        (uf2(bytes(0x50000)), Exit.VERIFY),
        (uf2(rp2_flash(0x60001, 0xA0000)), Exit.NO_SPACE),
    ],
)
def test_refuses_what_is_no_image_with_room_for_a_log(drive, data, code):
    refused(code, flash.write_rp2, str(drive), data)
    assert not (drive / "firmware.uf2").exists()


@pytest.mark.parametrize(
    "end, storage, code",
    [
        (0x60000, 0xA0000, None),
        (0x60100, 0xA0000, Exit.REFUSED),  # it would run into the log
        (0x60000, 0xA1000, Exit.REFUSED),  # the firmware would look for the log elsewhere
    ],
)
def test_looks_where_a_station_keeps_its_log(end, storage, code):
    image = uf2(rp2_flash(end, storage))
    log = (0x60000, 64)
    if code is None:
        flash.check_rp2(image, log)
    else:
        refused(code, flash.check_rp2, image, log)


@pytest.mark.parametrize("variable", ["CHARGEKEEP_RP2_IMAGE", "CHARGEKEEP_RP2_W_IMAGE"])
def test_reads_the_layout_of_real_images(variable):
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} names no image")
    flash.check_rp2(Path(path).read_bytes(), None)


# Command


def test_boards_name_their_chips():
    for folder in (ROOT / "boards").iterdir():
        if (folder / "partitions.csv").exists():
            assert json.loads((folder / "board.json").read_text())["mcu"] in esp32_image.CHIPS
    refused(Exit.USAGE, flash.mcu_of, "NOTHING")
