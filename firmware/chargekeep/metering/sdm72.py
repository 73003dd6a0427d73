# Eastron SDM72D-M, three phases. Registers: "SDM72D-M Modbus Protocol Implementation", input
# registers, each a float32. The first version has only total power and energy, so nothing more is
# asked for; the second version answers these as well.

from micropython import const

from chargekeep.metering.meter import ENERGY, ENERGY_EXPORT, F32, POWER

NAME = "SDM72"
FUNCTION = const(4)
ROLLOVER_WH = const(0)
RESOLUTION_WH = const(10)
IDENTITY = (3, 0xFC02, 1, (0x0084, 0x0089))  # meter code of the first and second version

BLOCKS = (
    (0x0034, 2, ((0, POWER, F32, 1),)),  # total system power, W
    (
        0x0048,
        4,
        (
            (0, ENERGY, F32, 1),  # total import, kWh
            (2, ENERGY_EXPORT, F32, 1),  # 0x004A total export, kWh
        ),
    ),
)
