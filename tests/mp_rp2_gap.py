# The ledger below the file system of a stock RP2040 image, on a fake of rp2.Flash that checks no
# bounds, reports no errors and programs ones over anything, like the real one.
# also: cpython
# heap: 2048k

import struct

from mptest import raises
from rp2_gap import GapFlash
from rp2_layout import firmware_end

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger.ring import Ledger

XIP = 0x10000000
STORAGE = 0x20000  # offset of the file system
SIZE = 0x28000


class Flash:
    def __init__(self, end=0x9000, storage=STORAGE):
        self.data = bytearray(b"\xff" * SIZE)
        self.dead = ()
        info = (
            (struct.pack("<HHIi", 5, 0x5052, 0x68F465DE, XIP + end)),
            (struct.pack("<HHIII", 7, 0x504D, XIP, XIP + storage, 0x8000)),
        )
        table = [XIP + 0x300 + 32 * i for i in range(len(info))]
        header = (0x7188EBF2, XIP + 0x200, XIP + 0x200 + 4 * len(table), 0, 0xE71AA390)
        self.data[0x100:end] = b"\x55" * (end - 0x100)
        self.data[0x110:0x124] = struct.pack("<5I", *header)
        for i in range(len(table)):
            self.data[0x200 + 4 * i : 0x204 + 4 * i] = struct.pack("<I", table[i])
            self.data[0x300 + 32 * i : 0x300 + 32 * i + len(info[i])] = info[i]
        self.data[STORAGE : STORAGE + 8] = b"littlefs"

    def peek(self, address, length):
        return bytes(self.data[address - XIP : address - XIP + length])

    def ioctl(self, request, argument):
        if request == 6 and argument not in self.dead:
            start = STORAGE + argument * 4096
            self.data[start : start + 4096] = b"\xff" * 4096
        return 0

    def readblocks(self, block, buffer, offset=0):
        start = STORAGE + block * 4096 + offset
        buffer[:] = self.data[start : start + len(buffer)]

    def writeblocks(self, block, buffer, offset):
        start = STORAGE + block * 4096 + offset
        assert start % 256 == 0 and len(buffer) % 256 == 0
        for i in range(len(buffer)):
            self.data[start + i] &= buffer[i]

    def mkfs(self):
        # What _boot.py does when a mount fails
        self.data[STORAGE:] = b"\xff" * (SIZE - STORAGE)
        self.data[STORAGE : STORAGE + 8] = b"littlefs"


class Clock:
    def stamp(self):
        return [None, 0, 1, 1]


def test_ends():
    flash = Flash()
    assert firmware_end(flash.peek) == (XIP + 0x9000, XIP + STORAGE)


def test_ledger_survives_mkfs_and_leaves_the_rest_alone():
    flash = Flash()
    firmware = bytes(flash.data[:0x10000])
    files = bytes(flash.data[STORAGE:])
    device = GapFlash(flash, flash.peek, 8)
    device.self_test()
    Ledger.format(device, bytes(16), bytes(32))
    for boot in range(3):
        ledger = Ledger(device, bytes(32), Clock())
        ledger.mount()
        for i in range(70):
            ledger.append(5, [boot, i, b"x" * (i % 50)])
        assert flash.data[:0x10000] == firmware
        assert flash.data[STORAGE:] == files
        flash.mkfs()
    ledger.mount()
    assert len([1 for _ in ledger.records()]) == 210


def test_refusals():
    # The firmware reaches into the ledger
    flash = Flash(end=STORAGE - 8 * 4096 + 1)
    assert raises(ChargekeepError, GapFlash, flash, flash.peek, 8).code == errors.BOARD
    GapFlash(flash, flash.peek, 7)
    # More blocks than there is flash, or next to none
    for blocks in (64, 1, 0, -3):
        flash = Flash()
        assert raises(ChargekeepError, GapFlash, flash, flash.peek, blocks).code == errors.BOARD
    # The image says another place for the file system, nonsense or nothing
    for place, value in ((None, None), (0x110, b"\0"), (0x114, b"\xff" * 4), (0x300, b"\0")):
        flash = Flash(storage=STORAGE - 4096) if place is None else Flash()
        if place:
            flash.data[place : place + len(value)] = value
        assert raises(ChargekeepError, GapFlash, flash, flash.peek, 8).code == errors.BOARD


def test_bounds():
    flash = Flash()
    device = GapFlash(flash, flash.peek, 8)
    before = bytes(flash.data)
    page = bytearray(256)
    for block, offset in ((-1, 0), (8, 0), (0, 4096), (7, 4097), (0, -256)):
        raises(ChargekeepError, device.writeblocks, block, page, offset)
        raises(ChargekeepError, device.readblocks, block, page, offset)
    raises(ChargekeepError, device.ioctl, 6, 8)
    raises(ChargekeepError, device.ioctl, 6, -1)
    raises(ChargekeepError, device.writeblocks, 0, page, 64)
    raises(ChargekeepError, device.writeblocks, 0, page)
    raises(ChargekeepError, device.writeblocks, 0, page[:64], 0)
    assert flash.data == before


def test_self_test_finds_flash_that_does_not_erase():
    flash = Flash()
    device = GapFlash(flash, flash.peek, 8)
    flash.dead = range(-8, 0)
    assert raises(ChargekeepError, device.self_test).code == errors.BOARD
    # In use from end to end: left alone
    flash = Flash()
    flash.data[STORAGE - 8 * 4096 : STORAGE] = b"\0" * (8 * 4096)
    before = bytes(flash.data)
    GapFlash(flash, flash.peek, 8).self_test()
    assert flash.data == before
