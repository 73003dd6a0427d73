# NOR flash in memory that refuses what real parts refuse and fails as they fail: cuts that leave
# an operation undone, half done or with bits that read differently each time, stuck bits, worn
# sectors. Counts every erase, program and byte. Runs on MicroPython and on CPython.

BLOCK = 4096
PAGE = 256
UNIT = 16
OUTCOMES = ("nothing", "all", "early", "prefix", "bits", "bytes", "weak", "zeroed")
ERASE = None  # as `data` of an operation


class PowerCut(Exception):
    pass


class RuleBroken(Exception):
    """The caller did what no real part allows. Never caught by the ledger."""


class Chance:
    """A small generator of its own, so that a seed means the same on every interpreter."""

    def __init__(self, seed):
        self.state = seed * 2654435761 % 0xFFFFFFFF or 1

    def next(self):
        x = self.state
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        self.state = x
        return x

    def below(self, n):
        return self.next() % n


class NorSim:
    """`blocks` x 4,096 bytes. `hook(block, offset, data)` is called before each operation.

    page_program: take only whole 256-byte pages, as the RP2040 does; ones there change nothing.
    """

    def __init__(self, blocks, seed=1, page_program=False):
        self.blocks = blocks
        self.data = bytearray(b"\xff" * (blocks * BLOCK))
        self.used = bytearray(blocks * BLOCK // UNIT)  # units programmed since their erase
        self.chance = Chance(seed)
        self.weak = {}  # block: {address: mask of bits that read differently each time}
        self.stuck = {}  # address: (mask, value) of bits that no longer change
        self.worn = ()  # blocks whose erase leaves bits behind
        self.hook = None
        self.cut_in = -1  # operations until the power goes
        self.outcome = "nothing"
        self.program_size = PAGE if page_program else UNIT
        self.operations = self.programs = self.program_bytes = self.read_bytes = 0
        self.erases = [0] * blocks

    def copy(self, seed=1):
        other = NorSim(0, seed)
        other.blocks = self.blocks
        other.data = bytearray(self.data)
        other.used = bytearray(self.used)
        other.weak = {block: dict(self.weak[block]) for block in self.weak}
        other.stuck = self.stuck
        other.worn = self.worn
        other.program_size = self.program_size
        other.erases = [0] * self.blocks
        return other

    # The extended block protocol

    def ioctl(self, request, argument):
        if request == 4:
            return self.blocks
        if request == 5:
            return BLOCK
        if request == 6:
            self._operate(argument, 0, ERASE)
        return 0

    def readblocks(self, block, buffer, offset=0):
        start = self._address(block, offset, len(buffer))
        self.read_bytes += len(buffer)
        buffer[:] = memoryview(self.data)[start : start + len(buffer)]
        if block in self.weak:
            for address, mask in self.weak[block].items():
                if start <= address < start + len(buffer):
                    buffer[address - start] ^= mask & self.chance.next()

    def writeblocks(self, block, buffer, offset=None):
        if offset is None:
            raise RuleBroken("erase by write")
        if offset % self.program_size or len(buffer) % self.program_size:
            raise RuleBroken("program of %d at %d" % (len(buffer), offset))
        if offset // PAGE != (offset + len(buffer) - 1) // PAGE:
            raise RuleBroken("program across pages")
        self._operate(block, offset, buffer)

    def _address(self, block, offset, length):
        if not 0 <= block < self.blocks or offset < 0 or offset + length > BLOCK:
            raise RuleBroken("block %d offset %d length %d" % (block, offset, length))
        return block * BLOCK + offset

    def _operate(self, block, offset, data):
        self._address(block, offset, BLOCK if data is None else len(data))
        if self.hook:
            self.hook(block, offset, data)
        self.operations += 1
        if data is None:
            self.erases[block] += 1
        else:
            self.programs += 1
            self.program_bytes += len(data)
        if self.cut_in == 0:
            self.cut(block, offset, data, self.outcome)
            raise PowerCut
        self.cut_in -= 1
        self.cut(block, offset, data, "all")

    # What an operation leaves

    def cut(self, block, offset, data, outcome):
        """Leave `outcome` of one program (`data`) or erase (None)."""
        start = self._address(block, offset, 0)
        length = BLOCK if data is None else len(data)
        if data is not None:
            self._refuse_second_program(start, data)
        elif outcome != "nothing":
            self.used[start // UNIT : (start + BLOCK) // UNIT] = bytes(BLOCK // UNIT)
            self.weak.pop(block, None)
        if outcome == "nothing":
            return
        flash = self.data
        if outcome == "all" and not self.stuck and block not in self.worn:
            if data is None:
                flash[start : start + BLOCK] = b"\xff" * BLOCK
                return
            if not self.weak and self.program_size == UNIT:
                flash[start : start + length] = data  # it was blank
                for unit in range(0, length, UNIT):
                    self.used[(start + unit) // UNIT] = 1
                return
        reach = length
        if outcome == "early":
            reach = UNIT if data is not None else PAGE
        elif outcome == "prefix":
            reach = self.chance.below(length)
        faint = self._faint(length) if outcome == "weak" else {}
        for i in range(length):
            old = flash[start + i]
            new = 0xFF if data is None else old & data[i]
            change = old ^ new
            if outcome == "zeroed":
                new = 0 if data is None or data[i] != 0xFF else old
            elif i >= reach:
                new = old
            elif outcome == "bits":
                new = old ^ change & self.chance.next()
            elif outcome == "bytes":
                new = new if self.chance.next() & 1 else old
            elif outcome == "weak":
                # Nearly undone, nearly done or anything between, but for bits that are faint.
                new = (old, new, old ^ change & self.chance.next())[faint[-1]]
                mask = change & faint.get(i, 0)
                if mask:
                    self.weak.setdefault(block, {})[start + i] = mask
                    self.used[(start + i) // UNIT] = 1
            if data is None and block in self.worn and i % 97 == 5:
                new &= 0xEF
            flash[start + i] = new
            if data is not None and new != old:
                self.used[(start + i) // UNIT] = 1
        for address in self.stuck:
            if start <= address < start + length:
                mask, value = self.stuck[address]
                flash[address] = flash[address] & ~mask | value & mask

    def _faint(self, length):
        """Masks by offset of one to five bits that may be weak, and at -1 how the rest is."""
        masks = {-1: self.chance.below(3)}
        for _ in range(1 + self.chance.below(5)):
            at = self.chance.below(length)
            masks[at] = masks.get(at, 0) | 1 << self.chance.below(8)
        return masks

    def _refuse_second_program(self, start, data):
        # Each unit is programmed once per erase; what a cut did not touch stays fresh.
        for unit in range(0, len(data), UNIT):
            if self.used[(start + unit) // UNIT] and data[unit : unit + UNIT] != b"\xff" * UNIT:
                raise RuleBroken("unit at %d programmed twice" % (start + unit))


class Clock:
    """Stands in for timebase.py where time does not matter."""

    def stamp(self):
        return [1_800_000_000, 3, 7, 1234]


class MemoryStore:
    """Stands in for the board's file storage (store.py): atomic files, power cuts included."""

    def __init__(self, files=None):
        self.files = dict(files or {})
        self.hook = None

    def read(self, name):
        return self.files.get(name)

    def write(self, name, data):
        if self.hook:
            self.hook(name, data)
        self.files[name] = bytes(data)


LOG = b"0123456789abcdef"


def fresh(sectors, page_program=False):
    """`(device, store, ledger)`: an empty ledger."""
    from chargekeep.ledger.ring import Ledger

    device = NorSim(sectors, 1, page_program)
    store = MemoryStore()
    Ledger.format(device, LOG, bytes(32), store)
    return device, store, mounted(device, store)


def mounted(device, store):
    """The ledger as a restart finds it."""
    from chargekeep.ledger.ring import Ledger

    ledger = Ledger(device, None, Clock(), store)
    ledger.mount()
    return ledger
