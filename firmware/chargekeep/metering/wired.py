# The meter that config.json names. Only its own modules are loaded.

from micropython import const

from chargekeep.errors import CONFIG, ChargekeepError

_BAUDRATE = const(9600)  # where the wiring names none, as boards open the UART


def open_meter(board):
    """The meter of `board`, for a Sampler. Its wiring: `family` (a module of this folder,
    sdm630 if absent), `address`, `baudrate`; `direction` is the RS-485 transceiver's pin. A pulse
    meter has no UART but an input, `per_kwh`, and `register_wh` to begin with.

    Raises CONFIG for a family that there is not.
    """
    wiring = board.wiring.get("meter")
    if wiring is None:
        raise ChargekeepError(CONFIG, "no meter")
    name = wiring.get("family", "sdm630")
    if name == "pulse":
        from chargekeep.metering.pulse import PulseMeter

        counter = board.counter("meter")
        return PulseMeter(counter, wiring.get("per_kwh", 1000), wiring.get("register_wh", 0))
    uart = board.uart("meter")
    if name == "sml":
        from chargekeep.metering.sml import SmlMeter

        return SmlMeter(uart)
    if name == "iec62056":
        from chargekeep.metering.iec62056 import Iec62056Meter

        return Iec62056Meter(uart, lambda rate: uart.init(baudrate=rate))
    try:
        family = __import__("chargekeep.metering." + name, None, None, ["NAME"])
    except (ImportError, ValueError):
        family = None
    if not hasattr(family, "BLOCKS"):
        raise ChargekeepError(CONFIG, "meter family %s" % name)
    from chargekeep.metering.meter import ModbusMeter
    from chargekeep.metering.modbus import Master

    pin = board.pin("direction")
    master = Master(uart, wiring.get("baudrate", _BAUDRATE), direction=pin and pin.value)
    return ModbusMeter(master, family, wiring.get("address", 1))
