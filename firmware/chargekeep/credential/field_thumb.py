# The field machine in ARMv6-M assembly: `Machine` as in field.py, its programs run without a
# return to Python. It takes the same time for all numbers: branches and addresses depend on
# the program, SELECT's address also on the digits (SRAM has no cache).

import micropython
from micropython import const

from chargekeep.credential.invert_thumb import invert
from chargekeep.credential.product_thumb import address

_P = const(0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFED)

_HEAD = const(96)  # bytes before the registers: see _run
_REGISTERS = const(19)
_SCALAR = const(16)
_SCALAR_SIZE = const(36)


class Machine:
    """As `field.Machine`. A register holds 32 bytes, little-endian, below 2^256 - 38."""

    COLUMNS = 7  # that a run should do at most, a divisor of 42: 2 ms

    def __init__(self, tables=(), scalars=()):
        self._state = bytearray(_HEAD + 32 * _REGISTERS)
        self._state[8:12] = address().to_bytes(4, "little")
        self._tables = tables
        for i, scalar in enumerate(scalars):
            at = _SCALAR + _SCALAR_SIZE * i
            self._state[at : at + _SCALAR_SIZE] = scalar.to_bytes(_SCALAR_SIZE, "little")

    def __getitem__(self, register):
        at = _HEAD + 32 * register
        return int.from_bytes(self._state[at : at + 32], "little") % _P

    def __setitem__(self, register, value):
        at = _HEAD + 32 * register
        self._state[at : at + 32] = (value % _P).to_bytes(32, "little")

    def load(self, register, count, buffer, offset):
        """Set `count` registers from `register` on from the 32 bytes each at `offset`."""
        at = _HEAD + 32 * register
        self._state[at : at + 32 * count] = memoryview(buffer)[offset : offset + 32 * count]

    def store(self, register, count, buffer, offset):
        """Write `count` registers from `register` on to `offset`; `load` reads them back."""
        at = _HEAD + 32 * register
        buffer[offset : offset + 32 * count] = memoryview(self._state)[at : at + 32 * count]

    def invert(self, d, a):
        """Register d = 1 / register a; 0 for 0."""
        self[d] = self[a]
        at = _HEAD + 32 * d
        invert(memoryview(self._state)[at : at + 32])

    def run(self, program, top=0, times=1):
        """Run `program` `times` over; SELECT takes column `top`, then the one below, and so on."""
        state = self._state
        state[0] = top
        state[4] = times
        tables = self._tables
        first = tables[0] if tables else state
        _run(state, program, first, tables[1] if len(tables) == 2 else first)


# State: 0 column and 4 times (a byte each), 8 address of the product, 16 two scalars of 36 bytes,
# 96 registers.
# A program ends with the zero that MicroPython puts after all bytes.
# Frame: 0 program counter, 4 state, 8 program, 12 two tables, 20 registers, 24 product, 28 count
# and 32 destination of SQR.
@micropython.asm_thumb
def _run(r0, r1, r2, r3):
    mov(r4, r8)
    mov(r5, r9)
    mov(r6, r10)
    mov(r7, r11)
    push({r4, r5, r6, r7})
    data(2, 0xB089)  # sub sp, #36
    data(2, 0x9001)  # str r0, [sp, #4]
    data(2, 0x9102)  # str r1, [sp, #8]
    data(2, 0x9203)  # str r2, [sp, #12]
    data(2, 0x9304)  # str r3, [sp, #16]
    ldr(r1, [r0, 8])
    data(2, 0x9106)  # str r1, [sp, #24]
    add(r0, 96)
    data(2, 0x9005)  # str r0, [sp, #20]

    label(again)
    data(2, 0x9F02)  # ldr r7, [sp, #8]
    b(step)

    label(next)
    data(2, 0x9F00)  # ldr r7, [sp, #0]

    label(step)
    ldrb(r3, [r7, 0])  # operation
    ldrb(r0, [r7, 1])  # destination
    ldrb(r1, [r7, 2])  # operands
    ldrb(r2, [r7, 3])
    add(r7, 4)
    data(2, 0x9700)  # str r7, [sp, #0]
    data(2, 0x9C05)  # ldr r4, [sp, #20]; r4: the registers
    lsl(r0, r0, 5)  # r0: address of the destination
    add(r0, r0, r4)
    lsl(r1, r1, 5)  # r1: address of the first operand
    add(r1, r1, r4)
    lsl(r3, r3, 1)
    data(2, 0x449F)  # add pc, r3
    nop()
    b(done)  # 0
    b(multiply)  # 1
    b(square)  # 2
    b(plus)  # 3
    b(minus)  # 4
    b(select)  # 5

    label(multiply)
    lsl(r2, r2, 5)
    add(r2, r2, r4)
    data(2, 0x9B06)  # ldr r3, [sp, #24]
    data(2, 0x4798)  # blx r3
    b(next)

    label(square)
    data(2, 0x9008)  # str r0, [sp, #32]

    label(square_again)
    data(2, 0x9207)  # str r2, [sp, #28]
    mov(r2, r1)
    data(2, 0x9B06)  # ldr r3, [sp, #24]
    data(2, 0x4798)  # blx r3
    data(2, 0x9808)  # ldr r0, [sp, #32]
    mov(r1, r0)
    data(2, 0x9A07)  # ldr r2, [sp, #28]
    sub(r2, 1)
    bne(square_again)
    b(next)

    # a + b; bit 255 and the carry go to the bottom, times 19: below 2^255 + 58

    label(plus)
    lsl(r2, r2, 5)
    add(r2, r2, r4)
    mov(r12, r0)
    data(2, 0xC978)  # ldmia r1!, {r3-r6}
    data(2, 0xCA81)  # ldmia r2!, {r0, r7}
    add(r3, r3, r0)
    adc(r4, r7)
    data(2, 0xCA81)  # ldmia r2!, {r0, r7}
    adc(r5, r0)
    adc(r6, r7)
    mov(r8, r3)
    mov(r9, r4)
    mov(r10, r5)
    mov(r11, r6)
    data(2, 0xC978)  # ldmia r1!, {r3-r6}
    data(2, 0xCA81)  # ldmia r2!, {r0, r7}
    adc(r3, r0)
    adc(r4, r7)
    data(2, 0xCA81)  # ldmia r2!, {r0, r7}
    adc(r5, r0)
    adc(r6, r7)
    mov(r0, 0)
    adc(r0, r0)
    lsl(r6, r6, 1)
    adc(r0, r0)
    lsr(r6, r6, 1)
    mov(r7, 19)
    mul(r0, r7)
    mov(r7, r12)
    mov(r1, r8)
    add(r1, r1, r0)
    mov(r2, r9)
    mov(r0, 0)
    adc(r2, r0)
    data(2, 0xC706)  # stmia r7!, {r1, r2}
    mov(r1, r10)
    adc(r1, r0)
    mov(r2, r11)
    adc(r2, r0)
    data(2, 0xC706)  # stmia r7!, {r1, r2}
    adc(r3, r0)
    adc(r4, r0)
    adc(r5, r0)
    adc(r6, r0)
    data(2, 0xC778)  # stmia r7!, {r3-r6}
    b(next)

    # a - b, and - 38 where that borrows 2^256

    label(minus)
    lsl(r2, r2, 5)
    add(r2, r2, r4)
    mov(r12, r0)
    data(2, 0xC978)  # ldmia r1!, {r3-r6}
    data(2, 0xCA81)  # ldmia r2!, {r0, r7}
    sub(r3, r3, r0)
    sbc(r4, r7)
    data(2, 0xCA81)  # ldmia r2!, {r0, r7}
    sbc(r5, r0)
    sbc(r6, r7)
    mov(r8, r3)
    mov(r9, r4)
    mov(r10, r5)
    mov(r11, r6)
    data(2, 0xC978)  # ldmia r1!, {r3-r6}
    data(2, 0xCA81)  # ldmia r2!, {r0, r7}
    sbc(r3, r0)
    sbc(r4, r7)
    data(2, 0xCA81)  # ldmia r2!, {r0, r7}
    sbc(r5, r0)
    sbc(r6, r7)
    sbc(r0, r0)
    mov(r7, 38)
    and_(r0, r7)
    mov(r7, r12)
    mov(r1, r8)
    sub(r1, r1, r0)
    mov(r2, r9)
    mov(r0, 0)
    sbc(r2, r0)
    data(2, 0xC706)  # stmia r7!, {r1, r2}
    mov(r1, r10)
    sbc(r1, r0)
    mov(r2, r11)
    sbc(r2, r0)
    data(2, 0xC706)  # stmia r7!, {r1, r2}
    sbc(r3, r0)
    sbc(r4, r0)
    sbc(r5, r0)
    sbc(r6, r0)
    data(2, 0xC778)  # stmia r7!, {r3-r6}
    b(next)

    # The six digits of this column, then their entry: y + x, y - x, 2dxy; for a negative one the
    # first two change places and the third its sign.

    label(select)
    data(2, 0x9C01)  # ldr r4, [sp, #4]
    mov(r3, 36)
    mul(r3, r2)
    add(r5, r4, r3)
    add(r5, 16)  # r5: scalar
    lsl(r2, r2, 2)
    data(2, 0x446A)  # add r2, sp
    ldr(r6, [r2, 12])  # r6: table
    ldrb(r4, [r4, 0])
    add(r4, 215)  # r4: bit number, column + 43 * 5
    mov(r2, 0)

    label(digit)
    lsr(r3, r4, 3)
    data(2, 0x5CEB)  # ldrb r3, [r5, r3]
    mov(r1, 7)
    and_(r1, r4)
    add(r1, 1)
    lsr(r3, r1)
    adc(r2, r2)
    sub(r4, 43)
    bpl(digit)
    lsr(r3, r2, 5)  # 1: positive
    neg(r4, r3)
    eor(r2, r4)
    mov(r5, 31)
    and_(r2, r5)
    mov(r5, 96)
    mul(r2, r5)
    add(r6, r6, r2)  # r6: entry
    sub(r3, 1)  # r3: -1 where negative
    mov(r5, 32)
    and_(r5, r3)
    add(r1, r6, r5)
    data(2, 0xC994)  # ldmia r1!, {r2, r4, r7}
    data(2, 0xC094)  # stmia r0!, {r2, r4, r7}
    data(2, 0xC994)  # ldmia r1!, {r2, r4, r7}
    data(2, 0xC094)  # stmia r0!, {r2, r4, r7}
    data(2, 0xC914)  # ldmia r1!, {r2, r4}
    data(2, 0xC014)  # stmia r0!, {r2, r4}
    add(r6, 32)
    sub(r1, r6, r5)
    data(2, 0xC994)  # ldmia r1!, {r2, r4, r7}
    data(2, 0xC094)  # stmia r0!, {r2, r4, r7}
    data(2, 0xC994)  # ldmia r1!, {r2, r4, r7}
    data(2, 0xC094)  # stmia r0!, {r2, r4, r7}
    data(2, 0xC914)  # ldmia r1!, {r2, r4}
    data(2, 0xC014)  # stmia r0!, {r2, r4}
    add(r6, 32)
    mov(r5, 37)  # -v is (2^256 - 1 - v) - 37
    and_(r5, r3)
    mov(r1, 0)
    data(2, 0xCE14)  # ldmia r6!, {r2, r4}
    eor(r2, r3)
    eor(r4, r3)
    sub(r2, r2, r5)
    sbc(r4, r1)
    data(2, 0xC014)  # stmia r0!, {r2, r4}
    data(2, 0xCE14)  # ldmia r6!, {r2, r4}
    eor(r2, r3)
    eor(r4, r3)
    sbc(r2, r1)
    sbc(r4, r1)
    data(2, 0xC014)  # stmia r0!, {r2, r4}
    data(2, 0xCE14)  # ldmia r6!, {r2, r4}
    eor(r2, r3)
    eor(r4, r3)
    sbc(r2, r1)
    sbc(r4, r1)
    data(2, 0xC014)  # stmia r0!, {r2, r4}
    data(2, 0xCE14)  # ldmia r6!, {r2, r4}
    eor(r2, r3)
    eor(r4, r3)
    sbc(r2, r1)
    sbc(r4, r1)
    data(2, 0xC014)  # stmia r0!, {r2, r4}
    b(next)

    label(done)
    data(2, 0x9C01)  # ldr r4, [sp, #4]
    ldrb(r0, [r4, 0])
    sub(r0, 1)
    strb(r0, [r4, 0])
    ldrb(r0, [r4, 4])
    sub(r0, 1)
    strb(r0, [r4, 4])
    beq(finish)
    b(again)

    label(finish)
    data(2, 0xB009)  # add sp, #36
    pop({r4, r5, r6, r7})
    mov(r8, r4)
    mov(r9, r5)
    mov(r10, r6)
    mov(r11, r7)
