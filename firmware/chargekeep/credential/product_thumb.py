# The 256-bit product of field_thumb for ARMv6-M, which multiplies 32 x 32 bits to 32 only: three
# levels of Karatsuba's method down to 32 bits, then a reduction modulo 2^255 - 19. Branches and
# addresses do not depend on the numbers.

import micropython


@micropython.asm_thumb
def address():
    """The address of the routine below, for BLX."""
    mov(r0, pc)
    add(r0, 3)  # to `product`, thumb bit set
    pop({r1, r4, r5, r6, r7, pc})

    # r0: 8 words out, r1 and r2: 8 words in; all little-endian, all may be the same. The result is
    # below 2^255 + 2^11. Keeps only sp.
    # Frame: 0 L (8 words), 32 H (8), 64 M (8), 96 |a - a'|, 112 |b - b'|, 128 sign of M, 132 r0-r2

    label(product)
    push({r0, r1, r2, lr})
    data(2, 0xB0A1)  # sub sp, #132
    cmp(r1, r2)
    beq(square)

    # |a0..3 - a4..7| and its sign
    data(2, 0xC9F0)  # ldmia r1!, {r4-r7}
    data(2, 0xC909)  # ldmia r1!, {r0, r3}
    sub(r4, r4, r0)
    sbc(r5, r3)
    data(2, 0xC909)  # ldmia r1!, {r0, r3}
    sbc(r6, r0)
    sbc(r7, r3)
    sbc(r0, r0)
    eor(r4, r0)
    eor(r5, r0)
    eor(r6, r0)
    eor(r7, r0)
    sub(r4, r4, r0)
    sbc(r5, r0)
    sbc(r6, r0)
    sbc(r7, r0)
    data(2, 0xAB18)  # add r3, sp, #96
    data(2, 0xC3F0)  # stmia r3!, {r4-r7}
    mov(r1, r0)
    # |b0..3 - b4..7| and its sign
    data(2, 0xCAF0)  # ldmia r2!, {r4-r7}
    data(2, 0xCA09)  # ldmia r2!, {r0, r3}
    sub(r4, r4, r0)
    sbc(r5, r3)
    data(2, 0xCA09)  # ldmia r2!, {r0, r3}
    sbc(r6, r0)
    sbc(r7, r3)
    sbc(r0, r0)
    eor(r4, r0)
    eor(r5, r0)
    eor(r6, r0)
    eor(r7, r0)
    sub(r4, r4, r0)
    sbc(r5, r0)
    sbc(r6, r0)
    sbc(r7, r0)
    data(2, 0xAB1C)  # add r3, sp, #112
    data(2, 0xC3F0)  # stmia r3!, {r4-r7}
    eor(r1, r0)
    mvn(r1, r1)  # -1: the middle product is subtracted
    data(2, 0x9120)  # str r1, [sp, #128]

    mov(r0, sp)  # L = a0..3 * b0..3
    data(2, 0x9922)  # ldr r1, [sp, #136]
    data(2, 0x9A23)  # ldr r2, [sp, #140]
    bl(mul128)
    data(2, 0xA808)  # add r0, sp, #32; H = a4..7 * b4..7
    data(2, 0x9922)  # ldr r1, [sp, #136]
    data(2, 0x9A23)  # ldr r2, [sp, #140]
    add(r1, 16)
    add(r2, 16)
    bl(mul128)
    data(2, 0xA810)  # add r0, sp, #64; M
    data(2, 0xA918)  # add r1, sp, #96
    data(2, 0xAA1C)  # add r2, sp, #112
    bl(mul128)
    b(reduce)

    label(square)
    data(2, 0xC9F0)  # ldmia r1!, {r4-r7}
    data(2, 0xC909)  # ldmia r1!, {r0, r3}
    sub(r4, r4, r0)
    sbc(r5, r3)
    data(2, 0xC909)  # ldmia r1!, {r0, r3}
    sbc(r6, r0)
    sbc(r7, r3)
    sbc(r0, r0)
    eor(r4, r0)
    eor(r5, r0)
    eor(r6, r0)
    eor(r7, r0)
    sub(r4, r4, r0)
    sbc(r5, r0)
    sbc(r6, r0)
    sbc(r7, r0)
    data(2, 0xAB18)  # add r3, sp, #96
    data(2, 0xC3F0)  # stmia r3!, {r4-r7}
    mov(r0, 0)
    mvn(r0, r0)
    data(2, 0x9020)  # str r0, [sp, #128]
    mov(r0, sp)
    mov(r1, r2)
    bl(sqr128)
    data(2, 0xA808)  # add r0, sp, #32
    data(2, 0x9922)  # ldr r1, [sp, #136]
    add(r1, 16)
    bl(sqr128)
    data(2, 0xA810)  # add r0, sp, #64
    data(2, 0xA918)  # add r1, sp, #96
    bl(sqr128)

    # The product is L + (L + H +- M) 2^128 + H 2^256. In quarters of 128 bits, with T = L1 + H0:
    # w0 = L0, w1 = T + L0 +- M0, w2 = T + H1 +- M1, w3 = H1; then w0, w1 += 38 * (w2, w3).

    label(reduce)
    data(2, 0xA804)  # add r0, sp, #16; T
    data(2, 0xC8F0)  # ldmia r0!, {r4-r7}
    data(2, 0xC806)  # ldmia r0!, {r1, r2}
    add(r4, r4, r1)
    adc(r5, r2)
    data(2, 0xC806)  # ldmia r0!, {r1, r2}
    adc(r6, r1)
    adc(r7, r2)
    mov(r3, 0)
    adc(r3, r3)  # T's carry
    mov(r8, r4)
    mov(r9, r5)
    mov(r10, r6)
    mov(r11, r7)
    mov(r12, r3)
    mov(r0, sp)  # w1
    data(2, 0xC806)  # ldmia r0!, {r1, r2}
    add(r4, r4, r1)
    adc(r5, r2)
    data(2, 0xC806)  # ldmia r0!, {r1, r2}
    adc(r6, r1)
    adc(r7, r2)
    mov(r1, 0)
    adc(r3, r1)  # what w2 gets from below
    data(2, 0x9A20)  # ldr r2, [sp, #128]
    data(2, 0xA910)  # add r1, sp, #64
    add(r0, r2, r2)  # carry: M is subtracted
    data(2, 0xC901)  # ldmia r1!, {r0}
    eor(r0, r2)
    adc(r4, r0)
    data(2, 0xC901)  # ldmia r1!, {r0}
    eor(r0, r2)
    adc(r5, r0)
    data(2, 0xC901)  # ldmia r1!, {r0}
    eor(r0, r2)
    adc(r6, r0)
    data(2, 0xC901)  # ldmia r1!, {r0}
    eor(r0, r2)
    adc(r7, r0)
    mov(r0, 0)
    adc(r3, r0)
    data(2, 0xA804)  # add r0, sp, #16
    data(2, 0xC0F0)  # stmia r0!, {r4-r7}
    mov(r4, r8)  # w2
    mov(r5, r9)
    mov(r6, r10)
    mov(r7, r11)
    mov(r0, 0)
    add(r4, r4, r3)
    adc(r5, r0)
    adc(r6, r0)
    adc(r7, r0)
    mov(r3, r12)
    adc(r3, r0)  # what w3 gets from below
    data(2, 0xC901)  # ldmia r1!, {r0}
    eor(r0, r2)
    add(r4, r4, r0)
    data(2, 0xC901)  # ldmia r1!, {r0}
    eor(r0, r2)
    adc(r5, r0)
    data(2, 0xC901)  # ldmia r1!, {r0}
    eor(r0, r2)
    adc(r6, r0)
    data(2, 0xC901)  # ldmia r1!, {r0}
    eor(r0, r2)
    adc(r7, r0)
    adc(r3, r2)  # with the sign of M
    data(2, 0xA80C)  # add r0, sp, #48
    data(2, 0xC806)  # ldmia r0!, {r1, r2}
    add(r4, r4, r1)
    adc(r5, r2)
    data(2, 0xC806)  # ldmia r0!, {r1, r2}
    adc(r6, r1)
    adc(r7, r2)
    mov(r2, 0)
    adc(r3, r2)
    mov(r12, r3)
    mov(r0, sp)  # w0 += 38 w2
    mov(r8, r2)
    bl(fold)
    mov(r8, r7)
    data(2, 0xA80C)  # add r0, sp, #48; w3
    data(2, 0xC8F0)  # ldmia r0!, {r4-r7}
    mov(r3, r12)
    asr(r1, r3, 31)
    add(r4, r4, r3)
    adc(r5, r1)
    adc(r6, r1)
    adc(r7, r1)
    data(2, 0xA804)  # add r0, sp, #16; w1 += 38 w3
    bl(fold)

    # 2^255 is 19: the top bit and the carry go to the bottom, times 19
    lsl(r7, r7, 1)
    lsl(r1, r1, 1)
    adc(r7, r2)
    lsr(r1, r1, 1)
    mov(r3, 19)
    mul(r7, r3)
    mov(r0, sp)
    data(2, 0xC878)  # ldmia r0!, {r3-r6}
    add(r3, r3, r7)
    adc(r4, r2)
    adc(r5, r2)
    adc(r6, r2)
    data(2, 0x9F21)  # ldr r7, [sp, #132]
    data(2, 0xC778)  # stmia r7!, {r3-r6}
    data(2, 0xC838)  # ldmia r0!, {r3-r5}
    adc(r3, r2)
    adc(r4, r2)
    adc(r5, r2)
    adc(r1, r2)
    mov(r6, r1)
    data(2, 0xC778)  # stmia r7!, {r3-r6}
    data(2, 0xB024)  # add sp, #144
    pop({pc})

    # The four words at r0 += 38 * (r4 to r7) + r8. Carry out in r7, the last word in r1, r2 = 0.

    label(fold)
    mov(r2, 0)
    mov(r3, 38)
    data(2, 0xB2A1)  # uxth r1, r4
    lsr(r4, r4, 16)
    mul(r1, r3)
    mul(r4, r3)
    data(2, 0x4441)  # add r1, r8
    lsl(r3, r4, 16)
    lsr(r4, r4, 16)
    add(r1, r1, r3)
    adc(r4, r2)
    ldr(r3, [r0, 0])
    add(r1, r1, r3)
    adc(r4, r2)
    str(r1, [r0, 0])
    mov(r3, 38)
    data(2, 0xB2A9)  # uxth r1, r5
    lsr(r5, r5, 16)
    mul(r1, r3)
    mul(r5, r3)
    add(r1, r1, r4)
    lsl(r3, r5, 16)
    lsr(r5, r5, 16)
    add(r1, r1, r3)
    adc(r5, r2)
    ldr(r3, [r0, 4])
    add(r1, r1, r3)
    adc(r5, r2)
    str(r1, [r0, 4])
    mov(r3, 38)
    data(2, 0xB2B1)  # uxth r1, r6
    lsr(r6, r6, 16)
    mul(r1, r3)
    mul(r6, r3)
    add(r1, r1, r5)
    lsl(r3, r6, 16)
    lsr(r6, r6, 16)
    add(r1, r1, r3)
    adc(r6, r2)
    ldr(r3, [r0, 8])
    add(r1, r1, r3)
    adc(r6, r2)
    str(r1, [r0, 8])
    mov(r3, 38)
    data(2, 0xB2B9)  # uxth r1, r7
    lsr(r7, r7, 16)
    mul(r1, r3)
    mul(r7, r3)
    add(r1, r1, r6)
    lsl(r3, r7, 16)
    lsr(r7, r7, 16)
    add(r1, r1, r3)
    adc(r7, r2)
    ldr(r3, [r0, 12])
    add(r1, r1, r3)
    adc(r7, r2)
    str(r1, [r0, 12])
    bx(lr)

    # r0: 8 words out, r1 and r2: 4 words in. As above, with halves of 64 bits.

    label(mul128)
    push({r0, r1, r2, lr})
    data(2, 0xC91B)  # ldmia r1, {r0, r1, r3, r4}
    sub(r0, r0, r3)
    sbc(r1, r4)
    sbc(r7, r7)
    eor(r0, r7)
    eor(r1, r7)
    sub(r0, r0, r7)
    sbc(r1, r7)
    data(2, 0xCA3C)  # ldmia r2, {r2, r3, r4, r5}
    sub(r2, r2, r4)
    sbc(r3, r5)
    sbc(r6, r6)
    eor(r2, r6)
    eor(r3, r6)
    sub(r2, r2, r6)
    sbc(r3, r6)
    eor(r7, r6)
    mvn(r7, r7)
    push({r7})
    # M = (r0, r1) * (r2, r3) to r0, r5, r6, r7
    mov(r8, r0)
    mov(r9, r1)
    mov(r10, r2)
    mov(r11, r3)
    sub(r0, r0, r1)
    sbc(r4, r4)
    eor(r0, r4)
    sub(r0, r0, r4)
    sub(r3, r3, r2)
    sbc(r7, r7)
    eor(r3, r7)
    sub(r3, r3, r7)
    eor(r7, r4)  # -1: M is subtracted
    data(2, 0xB285)  # uxth r5, r0; M = r0 * r3, in r5 and r6
    lsr(r0, r0, 16)
    lsr(r2, r3, 16)
    data(2, 0xB29B)  # uxth r3, r3
    mov(r6, r0)
    mul(r0, r3)
    mul(r6, r2)
    mul(r2, r5)
    mul(r5, r3)
    lsl(r4, r0, 16)
    lsr(r0, r0, 16)
    add(r5, r5, r4)
    adc(r6, r0)
    lsl(r4, r2, 16)
    lsr(r2, r2, 16)
    add(r5, r5, r4)
    adc(r6, r2)
    eor(r5, r7)
    eor(r6, r7)
    mov(r0, r8)  # L = r8 * r10, in r8 and r10
    mov(r2, r10)
    data(2, 0xB281)  # uxth r1, r0
    lsr(r0, r0, 16)
    lsr(r3, r2, 16)
    data(2, 0xB292)  # uxth r2, r2
    mov(r4, r0)
    mul(r0, r2)
    mul(r4, r3)
    mul(r3, r1)
    mul(r1, r2)
    lsl(r2, r0, 16)
    lsr(r0, r0, 16)
    add(r1, r1, r2)
    adc(r4, r0)
    lsl(r2, r3, 16)
    lsr(r3, r3, 16)
    add(r1, r1, r2)
    adc(r4, r3)
    mov(r8, r1)
    mov(r10, r4)
    mov(r0, r9)  # H = r9 * r11, in r1 and r4
    mov(r2, r11)
    data(2, 0xB281)  # uxth r1, r0
    lsr(r0, r0, 16)
    lsr(r3, r2, 16)
    data(2, 0xB292)  # uxth r2, r2
    mov(r4, r0)
    mul(r0, r2)
    mul(r4, r3)
    mul(r3, r1)
    mul(r1, r2)
    lsl(r2, r0, 16)
    lsr(r0, r0, 16)
    add(r1, r1, r2)
    adc(r4, r0)
    lsl(r2, r3, 16)
    lsr(r3, r3, 16)
    add(r1, r1, r2)
    adc(r4, r3)
    mov(r2, r10)  # T = L1 + H0
    add(r2, r2, r1)
    mov(r3, 0)
    adc(r3, r3)
    mov(r0, r8)
    add(r1, r7, r7)  # carry: M is subtracted
    adc(r5, r0)
    adc(r6, r4)
    mov(r1, 0)
    adc(r7, r1)
    add(r5, r5, r2)
    adc(r6, r2)
    adc(r7, r4)
    add(r6, r6, r3)
    adc(r7, r3)
    # end of M
    data(2, 0x9900)  # ldr r1, [sp, #0]
    eor(r0, r1)
    eor(r5, r1)
    eor(r6, r1)
    eor(r7, r1)
    push({r0, r5, r6, r7})
    data(2, 0x9C06)  # ldr r4, [sp, #24]
    data(2, 0x9E07)  # ldr r6, [sp, #28]
    data(2, 0xCC03)  # ldmia r4!, {r0, r1}
    data(2, 0xCE0C)  # ldmia r6!, {r2, r3}
    # L = (r0, r1) * (r2, r3) to r0, r5, r6, r7
    mov(r8, r0)
    mov(r9, r1)
    mov(r10, r2)
    mov(r11, r3)
    sub(r0, r0, r1)
    sbc(r4, r4)
    eor(r0, r4)
    sub(r0, r0, r4)
    sub(r3, r3, r2)
    sbc(r7, r7)
    eor(r3, r7)
    sub(r3, r3, r7)
    eor(r7, r4)  # -1: M is subtracted
    data(2, 0xB285)  # uxth r5, r0; M = r0 * r3, in r5 and r6
    lsr(r0, r0, 16)
    lsr(r2, r3, 16)
    data(2, 0xB29B)  # uxth r3, r3
    mov(r6, r0)
    mul(r0, r3)
    mul(r6, r2)
    mul(r2, r5)
    mul(r5, r3)
    lsl(r4, r0, 16)
    lsr(r0, r0, 16)
    add(r5, r5, r4)
    adc(r6, r0)
    lsl(r4, r2, 16)
    lsr(r2, r2, 16)
    add(r5, r5, r4)
    adc(r6, r2)
    eor(r5, r7)
    eor(r6, r7)
    mov(r0, r8)  # L = r8 * r10, in r8 and r10
    mov(r2, r10)
    data(2, 0xB281)  # uxth r1, r0
    lsr(r0, r0, 16)
    lsr(r3, r2, 16)
    data(2, 0xB292)  # uxth r2, r2
    mov(r4, r0)
    mul(r0, r2)
    mul(r4, r3)
    mul(r3, r1)
    mul(r1, r2)
    lsl(r2, r0, 16)
    lsr(r0, r0, 16)
    add(r1, r1, r2)
    adc(r4, r0)
    lsl(r2, r3, 16)
    lsr(r3, r3, 16)
    add(r1, r1, r2)
    adc(r4, r3)
    mov(r8, r1)
    mov(r10, r4)
    mov(r0, r9)  # H = r9 * r11, in r1 and r4
    mov(r2, r11)
    data(2, 0xB281)  # uxth r1, r0
    lsr(r0, r0, 16)
    lsr(r3, r2, 16)
    data(2, 0xB292)  # uxth r2, r2
    mov(r4, r0)
    mul(r0, r2)
    mul(r4, r3)
    mul(r3, r1)
    mul(r1, r2)
    lsl(r2, r0, 16)
    lsr(r0, r0, 16)
    add(r1, r1, r2)
    adc(r4, r0)
    lsl(r2, r3, 16)
    lsr(r3, r3, 16)
    add(r1, r1, r2)
    adc(r4, r3)
    mov(r2, r10)  # T = L1 + H0
    add(r2, r2, r1)
    mov(r3, 0)
    adc(r3, r3)
    mov(r0, r8)
    add(r1, r7, r7)  # carry: M is subtracted
    adc(r5, r0)
    adc(r6, r4)
    mov(r1, 0)
    adc(r7, r1)
    add(r5, r5, r2)
    adc(r6, r2)
    adc(r7, r4)
    add(r6, r6, r3)
    adc(r7, r3)
    # end of L
    data(2, 0x9905)  # ldr r1, [sp, #20]
    data(2, 0xC1E1)  # stmia r1!, {r0, r5, r6, r7}
    data(2, 0x9C06)  # ldr r4, [sp, #24]
    data(2, 0x9E07)  # ldr r6, [sp, #28]
    ldr(r0, [r4, 8])
    ldr(r1, [r4, 12])
    ldr(r2, [r6, 8])
    ldr(r3, [r6, 12])
    # H = (r0, r1) * (r2, r3) to r0, r5, r6, r7
    mov(r8, r0)
    mov(r9, r1)
    mov(r10, r2)
    mov(r11, r3)
    sub(r0, r0, r1)
    sbc(r4, r4)
    eor(r0, r4)
    sub(r0, r0, r4)
    sub(r3, r3, r2)
    sbc(r7, r7)
    eor(r3, r7)
    sub(r3, r3, r7)
    eor(r7, r4)  # -1: M is subtracted
    data(2, 0xB285)  # uxth r5, r0; M = r0 * r3, in r5 and r6
    lsr(r0, r0, 16)
    lsr(r2, r3, 16)
    data(2, 0xB29B)  # uxth r3, r3
    mov(r6, r0)
    mul(r0, r3)
    mul(r6, r2)
    mul(r2, r5)
    mul(r5, r3)
    lsl(r4, r0, 16)
    lsr(r0, r0, 16)
    add(r5, r5, r4)
    adc(r6, r0)
    lsl(r4, r2, 16)
    lsr(r2, r2, 16)
    add(r5, r5, r4)
    adc(r6, r2)
    eor(r5, r7)
    eor(r6, r7)
    mov(r0, r8)  # L = r8 * r10, in r8 and r10
    mov(r2, r10)
    data(2, 0xB281)  # uxth r1, r0
    lsr(r0, r0, 16)
    lsr(r3, r2, 16)
    data(2, 0xB292)  # uxth r2, r2
    mov(r4, r0)
    mul(r0, r2)
    mul(r4, r3)
    mul(r3, r1)
    mul(r1, r2)
    lsl(r2, r0, 16)
    lsr(r0, r0, 16)
    add(r1, r1, r2)
    adc(r4, r0)
    lsl(r2, r3, 16)
    lsr(r3, r3, 16)
    add(r1, r1, r2)
    adc(r4, r3)
    mov(r8, r1)
    mov(r10, r4)
    mov(r0, r9)  # H = r9 * r11, in r1 and r4
    mov(r2, r11)
    data(2, 0xB281)  # uxth r1, r0
    lsr(r0, r0, 16)
    lsr(r3, r2, 16)
    data(2, 0xB292)  # uxth r2, r2
    mov(r4, r0)
    mul(r0, r2)
    mul(r4, r3)
    mul(r3, r1)
    mul(r1, r2)
    lsl(r2, r0, 16)
    lsr(r0, r0, 16)
    add(r1, r1, r2)
    adc(r4, r0)
    lsl(r2, r3, 16)
    lsr(r3, r3, 16)
    add(r1, r1, r2)
    adc(r4, r3)
    mov(r2, r10)  # T = L1 + H0
    add(r2, r2, r1)
    mov(r3, 0)
    adc(r3, r3)
    mov(r0, r8)
    add(r1, r7, r7)  # carry: M is subtracted
    adc(r5, r0)
    adc(r6, r4)
    mov(r1, 0)
    adc(r7, r1)
    add(r5, r5, r2)
    adc(r6, r2)
    adc(r7, r4)
    add(r6, r6, r3)
    adc(r7, r3)
    # end of H
    data(2, 0x9905)  # ldr r1, [sp, #20]
    data(2, 0xC91E)  # ldmia r1, {r1, r2, r3, r4}
    add(r3, r3, r0)  # T = L1 + H0
    adc(r4, r5)
    mov(r0, 0)
    adc(r0, r0)
    add(r1, r1, r3)  # w1 = T + L0
    adc(r2, r4)
    adc(r3, r6)  # w2 = T + H1
    adc(r4, r7)
    mov(r5, 0)
    adc(r6, r5)
    adc(r7, r5)
    add(r3, r3, r0)  # the carry of T, at w2 and w3
    adc(r4, r5)
    adc(r6, r0)
    adc(r7, r5)
    data(2, 0x9804)  # ldr r0, [sp, #16]
    add(r0, r0, r0)  # +- M
    pop({r0, r5})
    adc(r1, r0)
    adc(r2, r5)
    pop({r0, r5})
    adc(r3, r0)
    adc(r4, r5)
    pop({r0, r5})
    adc(r6, r0)
    adc(r7, r0)
    add(r5, 8)
    data(2, 0xC51E)  # stmia r5!, {r1-r4}
    data(2, 0xC5C0)  # stmia r5!, {r6, r7}
    pop({r0, r1, pc})

    # r0: 8 words out, r1: 4 words in

    label(sqr128)
    push({r0, r1, lr})
    data(2, 0xC90F)  # ldmia r1, {r0, r1, r2, r3}
    sub(r0, r0, r2)
    sbc(r1, r3)
    sbc(r4, r4)
    eor(r0, r4)
    eor(r1, r4)
    sub(r0, r0, r4)
    sbc(r1, r4)
    # M = (r0, r1) squared, to r2 to r5
    data(2, 0xB282)  # uxth r2, r0
    lsr(r3, r0, 16)
    data(2, 0xB28C)  # uxth r4, r1
    lsr(r5, r1, 16)
    mov(r8, r2)
    mov(r0, r2)  # the cross product, in r0 and r7
    mul(r0, r4)
    mov(r1, r2)
    mul(r1, r5)
    mov(r6, r3)
    mul(r6, r4)
    mov(r7, r3)
    mul(r7, r5)
    lsl(r2, r1, 16)
    lsr(r1, r1, 16)
    add(r0, r0, r2)
    adc(r7, r1)
    lsl(r2, r6, 16)
    lsr(r6, r6, 16)
    add(r0, r0, r2)
    adc(r7, r6)
    add(r0, r0, r0)  # twice
    adc(r7, r7)
    mov(r1, 0)
    adc(r1, r1)
    mov(r6, r4)  # r1 squared, in r4 and r5
    mul(r6, r5)
    mul(r4, r4)
    mul(r5, r5)
    lsl(r2, r6, 17)
    lsr(r6, r6, 15)
    add(r4, r4, r2)
    adc(r5, r6)
    add(r5, r5, r1)
    mov(r2, r8)  # r0 squared, in r2 and r3
    mov(r6, r2)
    mul(r6, r3)
    mul(r2, r2)
    mul(r3, r3)
    lsl(r1, r6, 17)
    lsr(r6, r6, 15)
    add(r2, r2, r1)
    adc(r3, r6)
    add(r3, r3, r0)
    adc(r4, r7)
    mov(r0, 0)
    adc(r5, r0)
    # end of M
    push({r2, r3, r4, r5})
    data(2, 0x9805)  # ldr r0, [sp, #20]
    data(2, 0xC803)  # ldmia r0, {r0, r1}
    # L = (r0, r1) squared, to r2 to r5
    data(2, 0xB282)  # uxth r2, r0
    lsr(r3, r0, 16)
    data(2, 0xB28C)  # uxth r4, r1
    lsr(r5, r1, 16)
    mov(r8, r2)
    mov(r0, r2)  # the cross product, in r0 and r7
    mul(r0, r4)
    mov(r1, r2)
    mul(r1, r5)
    mov(r6, r3)
    mul(r6, r4)
    mov(r7, r3)
    mul(r7, r5)
    lsl(r2, r1, 16)
    lsr(r1, r1, 16)
    add(r0, r0, r2)
    adc(r7, r1)
    lsl(r2, r6, 16)
    lsr(r6, r6, 16)
    add(r0, r0, r2)
    adc(r7, r6)
    add(r0, r0, r0)  # twice
    adc(r7, r7)
    mov(r1, 0)
    adc(r1, r1)
    mov(r6, r4)  # r1 squared, in r4 and r5
    mul(r6, r5)
    mul(r4, r4)
    mul(r5, r5)
    lsl(r2, r6, 17)
    lsr(r6, r6, 15)
    add(r4, r4, r2)
    adc(r5, r6)
    add(r5, r5, r1)
    mov(r2, r8)  # r0 squared, in r2 and r3
    mov(r6, r2)
    mul(r6, r3)
    mul(r2, r2)
    mul(r3, r3)
    lsl(r1, r6, 17)
    lsr(r6, r6, 15)
    add(r2, r2, r1)
    adc(r3, r6)
    add(r3, r3, r0)
    adc(r4, r7)
    mov(r0, 0)
    adc(r5, r0)
    # end of L
    data(2, 0x9804)  # ldr r0, [sp, #16]
    data(2, 0xC03C)  # stmia r0!, {r2-r5}
    data(2, 0x9905)  # ldr r1, [sp, #20]
    ldr(r0, [r1, 8])
    ldr(r1, [r1, 12])
    # H = (r0, r1) squared, to r2 to r5
    data(2, 0xB282)  # uxth r2, r0
    lsr(r3, r0, 16)
    data(2, 0xB28C)  # uxth r4, r1
    lsr(r5, r1, 16)
    mov(r8, r2)
    mov(r0, r2)  # the cross product, in r0 and r7
    mul(r0, r4)
    mov(r1, r2)
    mul(r1, r5)
    mov(r6, r3)
    mul(r6, r4)
    mov(r7, r3)
    mul(r7, r5)
    lsl(r2, r1, 16)
    lsr(r1, r1, 16)
    add(r0, r0, r2)
    adc(r7, r1)
    lsl(r2, r6, 16)
    lsr(r6, r6, 16)
    add(r0, r0, r2)
    adc(r7, r6)
    add(r0, r0, r0)  # twice
    adc(r7, r7)
    mov(r1, 0)
    adc(r1, r1)
    mov(r6, r4)  # r1 squared, in r4 and r5
    mul(r6, r5)
    mul(r4, r4)
    mul(r5, r5)
    lsl(r2, r6, 17)
    lsr(r6, r6, 15)
    add(r4, r4, r2)
    adc(r5, r6)
    add(r5, r5, r1)
    mov(r2, r8)  # r0 squared, in r2 and r3
    mov(r6, r2)
    mul(r6, r3)
    mul(r2, r2)
    mul(r3, r3)
    lsl(r1, r6, 17)
    lsr(r6, r6, 15)
    add(r2, r2, r1)
    adc(r3, r6)
    add(r3, r3, r0)
    adc(r4, r7)
    mov(r0, 0)
    adc(r5, r0)
    # end of H
    data(2, 0x9E04)  # ldr r6, [sp, #16]
    data(2, 0xCEC3)  # ldmia r6, {r0, r1, r6, r7}
    add(r6, r6, r2)  # T
    adc(r7, r3)
    mov(r2, 0)
    adc(r2, r2)
    mov(r3, 0)
    add(r0, r0, r6)  # w1
    adc(r1, r7)
    adc(r6, r4)  # w2
    adc(r7, r5)
    adc(r4, r3)
    adc(r5, r3)
    add(r6, r6, r2)
    adc(r7, r3)
    adc(r4, r2)
    adc(r5, r3)
    pop({r2, r3})  # - M
    sub(r0, r0, r2)
    sbc(r1, r3)
    pop({r2, r3})
    sbc(r6, r2)
    sbc(r7, r3)
    mov(r2, 0)
    sbc(r4, r2)
    sbc(r5, r2)
    pop({r2, r3})
    add(r2, 8)
    data(2, 0xC2C3)  # stmia r2!, {r0, r1, r6, r7}
    data(2, 0xC230)  # stmia r2!, {r4, r5}
    pop({pc})
