# The actuator that config.json names. Only its own modules are loaded.

from chargekeep.errors import CONFIG, ChargekeepError


def open_actuator(board, meter, health):
    """The actuator of `board`: a relay, unless its wiring has `evse` with a `type` of rapi (on a
    UART of its own) or evse_din or ev_cc (at `address` on the bus of the Modbus `meter`), and
    `max_a` and `phases`.

    Raises CONFIG for a type that there is not, or not with this meter.
    """
    wiring = board.wiring.get("evse")
    if not wiring:
        from chargekeep.transaction.relay import Relay

        return Relay(board.pin("relay"), board.pin("feedback"))
    kind = wiring.get("type")
    max_a = wiring.get("max_a", 16)
    phases = wiring.get("phases", 1)
    if kind == "rapi":
        from chargekeep.transaction.rapi import Rapi

        return Rapi(board.uart("evse"), health, max_a, phases)
    if kind in ("evse_din", "ev_cc"):
        if not hasattr(meter, "master"):
            raise ChargekeepError(CONFIG, "%s needs a Modbus meter's bus" % kind)
        from chargekeep.transaction import modbus_evse

        controller = modbus_evse.EVSE_DIN if kind == "evse_din" else modbus_evse.EV_CC
        address = wiring.get("address", 2)
        return modbus_evse.ModbusEvse(meter.master, controller, health, address, max_a, phases)
    raise ChargekeepError(CONFIG, "evse type %s" % kind)
