"""Opcodes of the ARMv6-M instructions that MicroPython's inline assembler lacks."""

import re

REGISTERS = {f"r{i}": i for i in range(13)} | {"sp": 13, "lr": 14, "pc": 15}


def assemble(text):
    """The opcode of one instruction in GNU syntax, for instance `ldmia r0!, {r1-r4}`."""
    name, _, rest = text.partition(" ")
    if name in ("ldmia", "stmia"):
        base, _, registers = rest.partition(",")
        mask = _mask(registers)
        written_back = base.endswith("!")
        number = REGISTERS[base.rstrip("!")]
        in_list = bool(mask >> number & 1)
        if (name == "ldmia" and written_back == in_list) or (name == "stmia" and in_list):
            raise ValueError(text)
        return (0xC800 if name == "ldmia" else 0xC000) | number << 8 | mask
    args = [arg.strip() for arg in re.split(r",(?![^\[]*\])", rest)]
    first = REGISTERS[args[0]]
    if name in ("uxth", "blx"):
        if name == "blx":
            return 0x4780 | first << 3
        return 0xB280 | REGISTERS[args[1]] << 3 | first
    if name == "cmp":
        return _high(0x4500, first, REGISTERS[args[1]])
    if name == "ldrb":
        base, index = (REGISTERS[arg.strip()] for arg in args[1].strip("[]").split(","))
        return 0x5C00 | index << 6 | base << 3 | first
    if name in ("ldr", "str"):
        base, _, offset = args[1].strip("[]").partition(",")
        if base != "sp":
            raise ValueError(text)
        return (0x9800 if name == "ldr" else 0x9000) | first << 8 | _words(offset)
    if name in ("add", "sub") and args[0] == "sp":
        return (0xB000 if name == "add" else 0xB080) | _words(args[1])
    if name == "add" and len(args) == 3 and args[1] == "sp":
        return 0xA800 | first << 8 | _words(args[2])
    if name == "add":
        return _high(0x4400, first, REGISTERS[args[1]])
    raise ValueError(text)


def _mask(registers):
    mask = 0
    for part in registers.strip(" {}").split(","):
        low, _, high = part.strip().partition("-")
        for number in range(REGISTERS[low], REGISTERS[high or low] + 1):
            mask |= 1 << number
    return mask


def _words(text):
    value = int(text.strip().lstrip("#"))
    if value % 4:
        raise ValueError(text)
    return value // 4


def _high(opcode, first, second):
    return opcode | (first >> 3) << 7 | second << 3 | first & 7
