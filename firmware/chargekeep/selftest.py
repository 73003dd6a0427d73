# Tries every part of a newly wired board once, while the charger does not run. Nothing is written;
# the relay moves only when it is asked for, because a car may be plugged in.

import gc
import time

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_RELAY_MS = const(500)


def _meter(board):
    from chargekeep.metering.wired import open_meter

    meter = open_meter(board)
    started = time.ticks_ms()
    meter.begin()
    while not meter.poll():
        if time.ticks_diff(time.ticks_ms(), started) > 3 * meter.cycle_ms:
            raise ChargekeepError(errors.METER_TIMEOUT, "no reading")
        time.sleep_ms(meter.step_ms)
    return {"register_wh": meter.register_wh, "power_w": meter.power_w}


def _reader(board):
    uart = board.uart("reader")
    if uart is None:
        return None
    return {"waiting": uart.any()}


def _relay(board):
    # Withdrawn, permitted, withdrawn; where there is a feedback input it has to follow.
    pin, feedback = board.pin("relay"), board.pin("feedback")
    if pin is None:
        raise ChargekeepError(errors.CONFIG, "no relay")
    seen = []
    try:
        for level in (0, 1, 0):
            pin.value(level)
            time.sleep_ms(_RELAY_MS)
            seen.append(feedback.value() if feedback else level)
    finally:
        pin.value(0)
    if seen != [0, 1, 0]:
        raise ChargekeepError(errors.ACTUATOR_FEEDBACK, "feedback %s" % seen)
    return {"feedback": feedback is not None}


def _clock(board):
    return {"time": board.time_hint()}


def _network(board):
    interface = board.network()
    return None if interface is None else {"mac": interface.config("mac").hex()}


def _memory(board):
    gc.collect()
    return {"free": gc.mem_free()}


def run(board, relay=False):
    """Part to `{"ok": bool, ...}`; a part that the board does not have is left out."""
    parts = [("meter", _meter), ("reader", _reader), ("clock", _clock), ("network", _network)]
    if relay:
        parts.append(("relay", _relay))
    parts.append(("memory", _memory))
    results = {}
    for name, part in parts:
        try:
            found = part(board)
            if found is not None:
                found["ok"] = True
                results[name] = found
        except ChargekeepError as e:
            results[name] = {"ok": False, "error": e.code, "detail": str(e.detail)}
        except (OSError, KeyError, ValueError, AttributeError) as e:
            results[name] = {"ok": False, "error": errors.BOARD, "detail": repr(e)}
    return results
