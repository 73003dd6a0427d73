# The ledger and littlefs on the same simulated NOR, on the MicroPython VM: prints one JSON object.
# Run by bench_ledger.py with firmware/, boards/UNIX and tests/ on the path.

import gc
import json
import sys
import time

import vfs
from nor_sim import BLOCK, PAGE, Clock, NorSim

from chargekeep import cbor
from chargekeep.ledger import record
from chargekeep.ledger.ring import Ledger

SECTORS = 64
LOG = bytes(range(16))
KEY = bytes(32)


BODY = [bytes(range(35))]
RECORD = cbor.dumps(Clock().stamp() + BODY)  # 48 bytes, what littlefs gets as well


class Nor(NorSim):
    """NorSim without its checks of order, so that both sides pay the same small price."""

    def __init__(self, blocks):
        super().__init__(blocks, 1, True)

    def writeblocks(self, block, buffer, offset=None):
        if offset is None:
            self.ioctl(6, block)
            offset = 0
        start = block * BLOCK + offset
        self.programs += (len(buffer) + PAGE - 1) // PAGE
        self.program_bytes += len(buffer)
        self.data[start : start + len(buffer)] = buffer

    def readblocks(self, block, buffer, offset=0):
        start = block * BLOCK + offset
        self.read_bytes += len(buffer)
        buffer[:] = memoryview(self.data)[start : start + len(buffer)]

    def ioctl(self, request, argument):
        if request == 4:
            return self.blocks
        if request == 5:
            return BLOCK
        if request == 6:
            self.erases[argument] += 1
            self.data[argument * BLOCK : (argument + 1) * BLOCK] = b"\xff" * BLOCK
        return 0

    def reset(self):
        self.programs = self.program_bytes = self.read_bytes = 0
        self.erases = [0] * self.blocks


class LedgerNor(Nor):
    """Programs clear bits: whole pages with ones around the slots."""

    def writeblocks(self, block, buffer, offset=None):
        start = block * BLOCK + offset
        for i in range(0, len(buffer), 64):
            part = bytes(buffer[i : i + 64])
            if part != ONES:
                self.data[start + i : start + i + 64] = part
        self.programs += 1
        self.program_bytes += len(buffer)


ONES = b"\xff" * 64


def ledger(results):
    assert len(RECORD) == 48
    device = LedgerNor(SECTORS)
    Ledger.format(device, LOG, KEY)
    log = Ledger(device, KEY, Clock())
    log.mount()
    for name, group, count in (("single", 1, 10_000), ("batched", 12, 9_996)):
        device.reset()
        items = [(record.METER_VALUE, BODY)] * group
        started = time.ticks_us()
        for i in range(count // group):
            if group == 1:
                log.append(record.METER_VALUE, BODY)
            else:
                log.append_many(items)
            if i % (400 // group) == 0:
                log.acknowledge(LOG, *log.head)
        results["time_" + name] = time.ticks_diff(time.ticks_us(), started) / count
        results["wa_" + name] = device.program_bytes / (48 * count)
        results["programs_" + name] = device.programs / count
        results["erases_" + name] = sum(device.erases) / count
    results["append_heap"] = heap(log)


class Quiet:
    """Takes programs without allocating, so that what is left is the ledger's own."""

    program_size = PAGE

    def __init__(self):
        self.page = bytearray(PAGE)

    def writeblocks(self, block, buffer, offset):
        for i in range(PAGE):
            self.page[i] = buffer[i]

    def readblocks(self, block, buffer, offset):
        offset %= PAGE
        for i in range(len(buffer)):
            buffer[i] = self.page[offset + i]


def heap(log):
    while log._index > 40:
        log.append(record.METER_VALUE, BODY)
    log.device = Quiet()
    for _ in range(8):
        log.append(record.METER_VALUE, BODY)
    gc.collect()
    gc.disable()
    before = gc.mem_alloc()
    for _ in range(8):
        log.append(record.METER_VALUE, BODY)
    used = gc.mem_alloc() - before
    gc.enable()
    return used / 8


def spread(results, count):
    device = LedgerNor(SECTORS)
    Ledger.format(device, LOG, KEY)
    device.reset()
    log = Ledger(device, KEY, Clock())
    log.mount()
    items = [(record.METER_VALUE, BODY)] * 4
    for i in range(count // 4):
        log.append_many(items)
        if i % 100 == 0:
            log.acknowledge(LOG, *log.head)
    results["erase_spread"] = max(device.erases) / (sum(device.erases) / SECTORS)
    results["erase_max_over_min"] = max(device.erases) / min(device.erases)
    results["erases_in_spread"] = sum(device.erases) / count
    results["mount_bytes"] = mount_bytes(device)
    log.append_many(items * 3)
    log._open()  # and then the power went: the last operation is in the sector before
    results["mount_bytes_after_cut"] = mount_bytes(device)


def mount_bytes(device):
    device.reset()
    Ledger(device, KEY, Clock()).mount()
    return device.read_bytes


def littlefs(results):
    device = Nor(SECTORS)
    vfs.VfsLfs2.mkfs(device, progsize=256)
    fs = vfs.VfsLfs2(device, progsize=256)
    count = 10_000
    device.reset()
    started = time.ticks_us()
    file = None
    for i in range(count):
        if i % 1000 == 0:
            # A log that is kept in files of 1,000 records; the oldest of four goes.
            if file:
                file.close()
            file = fs.open("log%d" % (i // 1000), "wb")
            if i >= 4000:
                fs.remove("log%d" % (i // 1000 - 4))
        file.write(RECORD)
        file.flush()
    file.close()
    results["lfs_time"] = time.ticks_diff(time.ticks_us(), started) / count
    results["lfs_wa"] = device.program_bytes / (48 * count)
    results["lfs_programs"] = device.programs / count
    results["lfs_erases"] = sum(device.erases) / count
    results["lfs_spread"] = max(device.erases) / (sum(device.erases) / SECTORS)
    device.reset()
    vfs.VfsLfs2(device, progsize=256)
    results["lfs_mount_bytes"] = device.read_bytes


def flips(results):
    # Bits of records flipped in place: what comes back wrong without a word?
    device = LedgerNor(4)
    Ledger.format(device, LOG, KEY)
    log = Ledger(device, KEY, Clock())
    log.mount()
    for _ in range(100):
        log.append(record.METER_VALUE, BODY)
    good = [body for _, _, body in log.records()]
    silent = tried = lost = 0
    for bit in range(0, 8192 * 8, 37):
        device.data[bit >> 3] ^= 1 << (bit & 7)
        log = Ledger(device, KEY, Clock())
        log.mount()
        got = [body for _, _, body in log.records()]
        device.data[bit >> 3] ^= 1 << (bit & 7)
        tried += 1
        silent += any(body not in good for body in got)
        lost += len(got) < len(good)
    results["flip_silent"] = silent
    results["flip_lost"] = lost
    results["flip_tried"] = tried
    device = Nor(16)
    vfs.VfsLfs2.mkfs(device, progsize=256)
    fs = vfs.VfsLfs2(device, progsize=256)
    with fs.open("log", "wb") as file:
        for _ in range(200):
            file.write(RECORD)
    wrong = tried = 0
    at = device.data.find(RECORD * 8)
    for bit in range(at * 8, (at + 384) * 8, 5):
        device.data[bit >> 3] ^= 1 << (bit & 7)
        try:
            with vfs.VfsLfs2(device, progsize=256).open("log", "rb") as file:
                wrong += file.read() != RECORD * 200
        except OSError:
            pass  # noticed
        device.data[bit >> 3] ^= 1 << (bit & 7)
        tried += 1
    results["lfs_flip_silent_percent"] = 100 * wrong / tried


results = {}
ledger(results)
littlefs(results)
spread(results, int(sys.argv[1]))
flips(results)
print(json.dumps(results))
