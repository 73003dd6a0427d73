# Eastron SDM630-Modbus, three phases. Registers: "SDM630Modbus Smart Meter Modbus Protocol
# Implementation V1.5", table of input registers (30001 + address), each a float32. One request
# of 24 registers covers power, frequency and energy (up to 80 are allowed), so all are of one
# instant. As delivered: 9600 baud, no parity, address 1.

from micropython import const

from chargekeep.metering.meter import ENERGY, ENERGY_EXPORT, F32, FREQUENCY, POWER

NAME = "SDM630"
FUNCTION = const(4)
ROLLOVER_WH = const(0)
RESOLUTION_WH = const(1)
IDENTITY = (3, 0xFC02, 1, (0x0070, 0x0079))  # meter code: V2, MCT

BLOCKS = (
    (
        0x0034,
        24,
        (
            (0x00, POWER, F32, 1),  # 0x0034 total system power, W
            (0x12, FREQUENCY, F32, 1),  # 0x0046 Hz
            (0x14, ENERGY, F32, 1),  # 0x0048 total import, kWh
            (0x16, ENERGY_EXPORT, F32, 1),  # 0x004A total export, kWh
        ),
    ),
)
