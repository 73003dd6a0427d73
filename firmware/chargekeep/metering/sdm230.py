# Eastron SDM230-Modbus, one phase. Registers: "SDM230-Modbus Smart Meter Modbus Protocol
# Implementation V1.3": the ones we use lie where the SDM120 has them.

from micropython import const

from chargekeep.metering import sdm120

NAME = "SDM230"
FUNCTION = const(4)
ROLLOVER_WH = const(0)
RESOLUTION_WH = const(1)
IDENTITY = (3, 0xFC02, 1, (0x002B,))  # meter code
BLOCKS = sdm120.BLOCKS
