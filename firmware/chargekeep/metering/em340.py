# Carlo Gavazzi EM330, EM340, ET330 and ET340, three phases. Registers: "EM300 Series, ET300 Series
# Communication Protocol", table 2.3: 32-bit values low word first. Energy comes in steps of
# 0.1 kWh.

from micropython import const

from chargekeep.metering.meter import ENERGY, ENERGY_EXPORT, FREQUENCY, POWER, S16, S32W

NAME = "EM340"
FUNCTION = const(4)
ROLLOVER_WH = const(0)
RESOLUTION_WH = const(100)
IDENTITY = (4, 0x000B, 1, (330, 331, 332, 333, 334, 335, 340, 341, 342, 343, 344, 345))

BLOCKS = (
    (0x0028, 2, ((0, POWER, S32W, 100),)),  # system active power, 0.1 W
    (
        0x0033,
        3,
        (
            (0, FREQUENCY, S16, 100),  # 0.1 Hz
            (1, ENERGY, S32W, 100),  # 0x0034 kWh (+) total, 0.1 kWh
        ),
    ),
    (0x004E, 4, ((0, ENERGY_EXPORT, S32W, 100),)),  # kWh (-) total, 0.1 kWh
)
