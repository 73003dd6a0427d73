# Finds out which meter answers at an address, for installers: asks for each family's identity
# register and, for families without one, whether its readings make sense. Not loaded in normal
# operation.

import asyncio
import json

from micropython import const

from chargekeep.board import open_board
from chargekeep.errors import METER_EXCEPTION, METER_NOT_A_NUMBER, METER_TIMEOUT, ChargekeepError
from chargekeep.metering.meter import FREQUENCY, VOLTAGE, ModbusMeter
from chargekeep.metering.modbus import Master

_REPLY_MS = const(120)  # 247 addresses are to be asked in about half a minute

FAMILIES = ("sdm630", "sdm72", "sdm120", "sdm230", "abb_b2x", "em340", "em24", "pzem004t")


def family(name):
    """The module that describes a family."""
    return __import__("chargekeep.metering." + name, None, None, ["x"])


async def identify(master, address, names=FAMILIES):
    """Name of the family at `address`, "" for a device that is none of them, None for silence.

    IDENTITY of a family is (function, register, count, what must stand there: some integers or
    the first bytes), or None: then frequency and voltage have to be those of a mains.
    """
    answered = False
    for name in names:
        try:
            if await _is(master, address, family(name)):
                return name
            answered = True
        except ChargekeepError as e:
            answered = answered or e.code in (METER_EXCEPTION, METER_NOT_A_NUMBER)
            if e.code == METER_TIMEOUT and not answered:
                return None  # nobody there
    return "" if answered else None


async def transfer(master, address, function, register, count):
    """One request, waiting its turn on the bus; a memoryview of the reply's data.

    Raises METER_* as `Master.poll`.
    """
    while not master.begin(address, function, register, count):
        await asyncio.sleep_ms(2)
    while not master.poll():
        await asyncio.sleep_ms(master.step_ms)
    return memoryview(master.frame)[master.start : master.start + master.size]


async def _is(master, address, described):
    identity = described.IDENTITY
    if identity:
        function, register, count, expected = identity
        found = bytes(await transfer(master, address, function, register, count))
        if isinstance(expected, bytes):
            return found.startswith(expected)
        return int.from_bytes(found, "big") in expected
    meter = await read(master, address, described)
    hertz = meter.values.get(FREQUENCY) or 0
    volts = meter.values.get(VOLTAGE) or 0
    return 45000 <= hertz <= 65000 and 80000 <= volts <= 300000


async def read(master, address, described):
    """One reading of the meter; raises METER_* as `ModbusMeter.poll`."""
    meter = ModbusMeter(master, described, address)
    meter.begin()
    while not meter.poll():
        await asyncio.sleep_ms(meter.step_ms)
    return meter


async def scan(master, found, addresses=range(1, 248), names=FAMILIES):
    """Call `found(address, family or "", register Wh or None, W or None)` for all who answer."""
    for address in addresses:
        name = await identify(master, address, names)
        if name is None:
            continue
        register = power = None
        if name:
            try:
                meter = await read(master, address, family(name))
                register, power = meter.register_wh, meter.power_w
            except ChargekeepError:
                pass  # it did answer a moment ago: shown without a reading
        found(address, name, register, power)


def run(first, last):
    """Scan the addresses `first` to `last` of this board's bus and print one JSON object."""
    board = open_board()
    wiring = board.wiring.get("meter") or {}
    uart = None if wiring.get("family") == "pulse" else board.uart("meter")
    rows = []
    if uart:
        master = Master(uart, wiring.get("baudrate", 9600), reply_ms=_REPLY_MS)
        asyncio.run(scan(master, lambda *row: rows.append(row), range(first, last + 1)))
    print(json.dumps({"wired": bool(uart), "found": rows}))
