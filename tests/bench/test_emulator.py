"""The emulated board is worth its name: its time, its flash, its serial lines, its power."""

import random

import pytest

from chargekeep_tools.bench.peers import Meter, crc16
from chargekeep_tools.bench.rp2040 import filesystem

# Block -8 lies between firmware and file system.
ERASE = "import rp2; f = rp2.Flash(); f.ioctl(6, -8)"
PROGRAM = "b = bytearray(256)\nfor i in range(16): f.writeblocks(-8, b, 256 * i)"


@pytest.mark.parametrize("name", ["RPI_PICO", "RPI_PICO_W"])
def test_a_file_system_reads_back(name):
    files = {"main.py": b"print(1)", "a/b/c.mpy": bytes(5000), "empty": b""}
    flash = bytes(filesystem.start(name)) + filesystem.make(name, files)
    assert filesystem.read(name, flash) == files
    changed = filesystem.write(name, flash, {"main.py": b"print(2)"})
    assert filesystem.read(name, changed) == files | {"main.py": b"print(2)"}


def test_a_meter_answers_what_is_addressed_to_it_and_intact():
    meter, sent, now = Meter(wh=1000), [], [0]
    meter.attach(sent.append, lambda: now[0])
    request = bytes([1, 4, 0, 0x48, 0, 2])
    meter.received(request + crc16(request))
    assert crc16(bytes.fromhex("010400000002")).hex() == "71cb"  # a frame of many a manual
    reply = bytes.fromhex("0104043f800000")
    assert sent.pop() == reply + crc16(reply)
    meter.power_w, now[0] = 3600, 10**9
    assert meter.wh == pytest.approx(1001)
    for bad in (request + b"\0\0", request[:5], b"\x02" + request[1:] + crc16(request)):
        meter.received(bad)
    assert not sent


def test_an_hour_asleep_is_an_hour(emulated):
    before = emulated.now_s
    emulated.exec("import time; time.sleep(3600)", timeout_s=4000)
    assert emulated.now_s - before == pytest.approx(3600, abs=1)


def test_flash_takes_its_time(emulated):
    emulated.exec("import rp2; f = rp2.Flash()")
    took = emulated.exec(
        "import time; t = time.ticks_us(); f.ioctl(6, -8); print(time.ticks_us() - t)"
    )
    assert 45_000 < int(took) < 60_000


@pytest.mark.parametrize("seed", range(3))
def test_power_lost_in_a_flash_operation_leaves_it_half_done(emulated, seed):
    board = emulated
    board.exec(ERASE + "\n" + PROGRAM)
    board.transport().exec_raw_no_follow("f.ioctl(6, -8)\n" + PROGRAM)
    board.run(0.2, lambda: board.chip.flash.busy_ns > 0)
    board.chip.run_instructions(random.Random(seed).randrange(20_000))
    board.power_cut()
    if board.torn:
        found = board.flash[board.torn.address : board.torn.address + len(board.torn.before)]
        assert all(f & b == b and f | a == a for f, b, a in zip(found, *both(board.torn)))
    assert board.exec("print('alive')") == "alive\n"


def both(torn):
    """Its contents before and after, the one with fewer bits set first."""
    return sorted((torn.before, torn.after), key=lambda data: sum(map(int.bit_count, data)))
