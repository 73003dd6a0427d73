# Eastron SDM120-Modbus, one phase. Registers: "SDM120-Modbus Smart Meter Modbus Protocol
# Implementation V2.4", input registers, each a float32. Registers between those named read as 0.
# As delivered: 2400 baud, no parity.

from micropython import const

from chargekeep.metering.meter import (
    CURRENT,
    ENERGY,
    ENERGY_EXPORT,
    F32,
    FREQUENCY,
    POWER,
    VOLTAGE,
)

NAME = "SDM120"
FUNCTION = const(4)
ROLLOVER_WH = const(0)
RESOLUTION_WH = const(1)
IDENTITY = (3, 0xFC02, 1, (0x0020,))  # meter code

BLOCKS = (
    (
        0x0000,
        14,
        (
            (0x00, VOLTAGE, F32, 1),  # V
            (0x06, CURRENT, F32, 1),  # A
            (0x0C, POWER, F32, 1),  # W
        ),
    ),
    (
        0x0046,
        6,
        (
            (0, FREQUENCY, F32, 1),  # Hz
            (2, ENERGY, F32, 1),  # 0x0048 total import, kWh
            (4, ENERGY_EXPORT, F32, 1),  # 0x004A total export, kWh
        ),
    ),
)
