# Carlo Gavazzi EM24-DIN, three phases. Registers: "EM24-DIN Communication Protocol", version 3,
# table 2.3: 32-bit values low word first. Energy comes in steps of 0.1 kWh.

from micropython import const

from chargekeep.metering.meter import ENERGY, ENERGY_EXPORT, FREQUENCY, POWER, S16, S32W

NAME = "EM24"
FUNCTION = const(4)
ROLLOVER_WH = const(0)
RESOLUTION_WH = const(100)
IDENTITY = (4, 0x000B, 1, (71, 72, 73))

BLOCKS = (
    (0x0028, 2, ((0, POWER, S32W, 100),)),  # system active power, 0.1 W
    (0x0037, 1, ((0, FREQUENCY, S16, 100),)),  # 0.1 Hz
    (0x003E, 4, ((0, ENERGY, S32W, 100),)),  # kWh (+) total, 0.1 kWh; kvarh follow
    (0x005C, 3, ((0, ENERGY_EXPORT, S32W, 100),)),  # kWh (-) total, 0.1 kWh
)
