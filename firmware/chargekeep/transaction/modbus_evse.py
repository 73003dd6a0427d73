# EVSE controllers on Modbus RTU, as data: what to write to permit and withdraw, and where the
# state of the control pilot stands. They may share a bus with meters.

from micropython import const

from chargekeep.errors import ChargekeepError
from chargekeep.metering.modbus import (
    READ_HOLDING,
    READ_INPUT,
    WRITE_COIL,
    WRITE_REGISTER,
    WRITE_REGISTERS,
)
from chargekeep.transaction.remote import CHARGING, CONNECTED, NO_CAR, Remote

_ON = const(0xFF00)  # a coil (Modbus Application Protocol V1.1b3, section 6.5)

# A controller: its writes to permit and to withdraw, in this order, as (function, register, value)
# with AMPS for the current; then the state as (function, register) and the letters of its values.
AMPS = None

# SimpleEVSE-WB and EVSE DIN ("EVSE-WB/DIN Manual", Modbus registers): 1000 is the current in A, 0
# pauses; 1002 the vehicle status. Set 2000 (current after a start) to 0 when installing.
EVSE_DIN = (
    ((WRITE_REGISTERS, 1000, AMPS),),
    ((WRITE_REGISTERS, 1000, 0),),
    (READ_HOLDING, 1002),
    {1: NO_CAR, 2: CONNECTED, 3: CHARGING, 4: CHARGING},
)

# Phoenix Contact EV-CC-AC1-M ("EV Charge Control" user manual, register assignment): coil 20000
# enables charging, 22000 is the current in A, 24000 the vehicle status as a letter.
EV_CC = (
    ((WRITE_REGISTER, 22000, AMPS), (WRITE_COIL, 20000, _ON)),
    ((WRITE_COIL, 20000, 0),),
    (READ_INPUT, 24000),
    {ord("A"): NO_CAR, ord("B"): CONNECTED, ord("C"): CHARGING, ord("D"): CHARGING},
)


class ModbusEvse(Remote):
    """A `controller` (EVSE_DIN or EV_CC) at `address` on the bus of `master`."""

    def __init__(self, master, controller, health, address=1, max_a=16, phases=3, clock_ms=None):
        self._master = master
        self._permit, self._withdraw, self._status, self._letters = controller
        self._address = address
        self._writes = []
        self._started = False
        self._amps_now = 0
        super().__init__(health, max_a, phases, clock_ms=clock_ms)
        self.withdraw()

    def _tell(self, permitted, amps):
        self._writes = list(self._permit if permitted else self._withdraw)
        self._amps_now = amps
        return self._write()

    def _write(self):
        function, register, value = self._writes[0]
        value = self._amps_now if value is AMPS else value
        self._started = self._master.begin(self._address, function, register, value)
        if self._started:
            self._writes.pop(0)
        return self._started

    def _ask(self):
        self._started = self._master.begin(self._address, *self._status, 1)
        return self._started

    def _answered(self):
        if not self._started:  # the bus was taken between two writes
            self._write()
            return None
        try:
            if not self._master.poll():
                return None
        except ChargekeepError:
            return False
        if self._telling is not None:
            if not self._writes:
                return True
            self._write()
            return None
        m = self._master
        high, low = m.frame[m.start], m.frame[m.start + 1]
        self.pilot = self._letters.get(high or low)
        return True
