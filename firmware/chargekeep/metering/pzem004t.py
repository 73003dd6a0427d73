# Peacefair PZEM-004T v3, one phase, 100 A transformer. Registers: "PZEM-004T V3.0 User Manual",
# section 2.3: input registers, 32-bit values low word first. The energy register starts over
# after 9,999.99 kWh. The module cannot tell what it is.

from micropython import const

from chargekeep.metering.meter import CURRENT, ENERGY, FREQUENCY, POWER, U16, U32W, VOLTAGE

NAME = "PZEM-004T"
FUNCTION = const(4)
ROLLOVER_WH = const(10000000)
RESOLUTION_WH = const(1)
IDENTITY = None

BLOCKS = (
    (
        0x0000,
        8,
        (
            (0, VOLTAGE, U16, 100),  # 0.1 V
            (1, CURRENT, U32W, 1),  # 0.001 A
            (3, POWER, U32W, 100),  # 0.1 W
            (5, ENERGY, U32W, 1),  # 1 Wh
            (7, FREQUENCY, U16, 100),  # 0.1 Hz
        ),
    ),
)
