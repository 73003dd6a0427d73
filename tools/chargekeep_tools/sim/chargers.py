"""EVSE controllers that a station speaks to, with a car: OpenEVSE over RAPI, and Modbus ones.

Each sets the load of its meter: what the car takes while charging is permitted.
"""

from pathlib import Path
from typing import Protocol

from pymodbus.constants import ExcCodes
from pymodbus.simulator import DataType, SimData, SimDevice

from chargekeep_tools.sim.line import Peer, xor


class Load(Protocol):
    power_w: int


class Car:
    """A car of `demand_w` at a charger that measures by `meter`."""

    def __init__(self, meter: Load, demand_w: int = 11_000):
        self.meter = meter
        self.demand_w = demand_w
        self.plugged_in = True
        self.permitted = False
        self.amps = 16

    def follow(self) -> None:
        """The load after anything has changed."""
        charging = self.permitted and self.plugged_in
        self.meter.power_w = self.demand_w if charging else 0

    @property
    def pilot(self) -> str:
        if not self.plugged_in:
            return "A"
        return "C" if self.permitted and self.demand_w else "B"


class SimOpenEvse(Peer):
    """An OpenEVSE's serial line at 115,200 baud: RAPI with check sums, and its own messages."""

    def __init__(self, car: Car, link: Path | None = None):
        super().__init__(link)
        self.car = car
        self.commands: list[str] = []

    def play(self) -> None:
        buffer = b""
        while not self.stopped.is_set():
            buffer += self.receive(0.02)
            while b"\r" in buffer:
                line, _, buffer = buffer.partition(b"\r")
                self._command(line)

    def _command(self, line: bytes) -> None:
        body, _, check = line.partition(b"^")
        if not body.startswith(b"$") or check != b"%02X" % xor(body):
            self.send(b"$NK^21\r", 115_200)
            return
        words = body[1:].decode().split(" ")
        self.commands = [*self.commands[-19:], words[0]]
        answer, car = "OK", self.car
        if words[0] in ("FE", "FS"):
            car.permitted = words[0] == "FE"
            car.follow()
            self.send(b"$ST 0%d\r" % (3 if car.permitted else 1), 115_200)
        elif words[0] == "SC":
            car.amps = int(words[1])
        elif words[0] == "GS":
            state = {"A": 1, "B": 2, "C": 3}[car.pilot] if car.permitted else 254
            answer = f"OK {state:x} 0"
        else:
            answer = "NK"
        body = b"$" + answer.encode()
        self.send(body + b"^%02X\r" % xor(body), 115_200)


class SimController:
    """A Modbus controller at `address` of a SimMeter's bus: `evse_din` or `ev_cc`."""

    def __init__(self, car: Car, kind: str, address: int = 2):
        self.car = car
        self.kind = kind
        self.address = address

    def device(self) -> SimDevice:
        if self.kind == "evse_din":
            registers = [SimData(1000, count=3, datatype=DataType.REGISTERS)]
            return SimDevice(self.address, simdata=registers, action=self._evse_din)
        blocks = (
            [SimData(20_000, values=False, datatype=DataType.BITS)],
            [SimData(20_000, values=False, datatype=DataType.BITS)],
            [SimData(22_000, datatype=DataType.REGISTERS)],
            [SimData(24_000, datatype=DataType.REGISTERS)],
        )
        return SimDevice(self.address, simdata=blocks, action=self._ev_cc)

    def _permit(self, permitted: bool) -> None:
        self.car.permitted = permitted
        self.car.follow()

    async def _evse_din(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        if values is None:
            registers[1002 - start] = {"A": 1, "B": 2, "C": 3}[self.car.pilot]
        elif address == 1000 and function == 16:
            self.car.amps = int(values[0]) or self.car.amps  # 0 is a pause
            self._permit(values[0] > 0)
        else:
            return ExcCodes.ILLEGAL_ADDRESS
        return None

    async def _ev_cc(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        if function == 4:
            registers[24_000 - start] = ord(self.car.pilot) << 8
        elif (function, address) not in ((5, 20_000), (6, 22_000)):
            return ExcCodes.ILLEGAL_FUNCTION
        elif values and function == 6:
            self.car.amps = int(values[0])
        elif values:  # None when it looks before it writes
            self._permit(bool(values[0]))
        return None
