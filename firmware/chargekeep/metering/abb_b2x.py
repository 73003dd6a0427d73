# ABB B21 (one phase), B23 and B24 (three phases). Registers: "B23/B24 User Manual", document
# 2CMC485003M0201, section 9.4: holding registers, high word first; a value that is not measured
# has all bits set (signed: 0x7FFF...). As delivered: 19,200 baud, even parity (section 5.4.1).

from micropython import const

from chargekeep.metering.meter import ENERGY, ENERGY_EXPORT, FREQUENCY, POWER, S32, U16, U64

NAME = "ABB B21/B23"
FUNCTION = const(3)
ROLLOVER_WH = const(0)
RESOLUTION_WH = const(10)
IDENTITY = (3, 0x8960, 6, b"B2")  # type designation, ASCII

BLOCKS = (
    (
        0x5000,
        8,
        (
            (0, ENERGY, U64, 10),  # active import, 0.01 kWh
            (4, ENERGY_EXPORT, U64, 10),  # 0x5004 active export, 0.01 kWh
        ),
    ),
    (0x5B14, 2, ((0, POWER, S32, 10),)),  # active power total, 0.01 W
    (0x5B2C, 1, ((0, FREQUENCY, U16, 10),)),  # 0.01 Hz
)
