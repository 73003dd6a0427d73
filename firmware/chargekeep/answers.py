# What the charger says when the host asks over the serial line (console.py), or by a command;
# loaded for one answer at a time. Nothing asked stops the charger but `?service`, and that only
# while nobody charges.

import gc
import json
import sys

from micropython import const

from chargekeep import __version__, errors
from chargekeep.ledger import record

_RECORDS = const(20)  # of the log in one answer
_FAULTS = const(3)  # in a diagnosis: the newest of the last
_SLOTS = const(30)


def answer(app, line):
    """Print what is asked for by `line` (bytes, without the question mark)."""
    words = line.split()
    name = words[0].decode() if words else ""
    try:
        function = _ANSWERS[name]
        numbers = [int(word) for word in words[1:]]
        if len(numbers) > 2:
            raise ValueError
    except (KeyError, ValueError):
        function, numbers = _unknown, ()
    try:
        for result in function(app, *numbers):
            result["re"] = name
            print(json.dumps(result))
    except Exception as e:  # a question must not cost more than its answer
        app.health.count(errors.UNEXPECTED, "?%s: %r" % (name, e))
        print(json.dumps({"re": name, "error": "failed", "detail": repr(e)}))


def _unknown(app, *numbers):
    yield {"error": "unknown", "known": sorted(_ANSWERS)}


def _status(app, *numbers):
    state, reasons = app.state()
    yield app.status(state, reasons)


def _meter(app, *numbers):
    sampler = app.sampler
    meter = sampler.meter
    yield {
        "family": meter.family.NAME,
        "register_wh": sampler.register_wh,
        "power_w": sampler.power_w,
        "age_ms": sampler.age_ms(),
        "samples": sampler.samples,
        "cycles": sampler.cycles,
        "requests": meter.master.requests,
        "replies": meter.master.replies,
        "strays": meter.master.strays,
        "echo": meter.master.echo,
        "frame": meter.frame().hex(),
        "values": meter.values,
    }


def _plain(value):
    # What JSON has no word for
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _logs(app, start=0, count=_RECORDS):
    # Records from seq `start` on; without it the last few.
    ledger = app.ledger
    if not start:
        start = max(1, ledger.head[0] - 2 * count)
    done = 0
    last = start - 1
    for seq, kind, payload in ledger.records(start):
        yield {"seq": seq, "type": kind, "record": _plain(payload)}
        last = seq
        done += 1
        if done >= min(count, _RECORDS):
            break
    yield {"end": True, "next": last + 1, "head": ledger.head[0]}


def _diagnose(app, *numbers):
    yield diagnosis(app)


def diagnosis(app):
    """What a technician asks first; as JSON less than 1,900 bytes, which a message can hold."""
    ledger, sampler = app.ledger, app.sampler
    master = sampler.meter.master
    faults = [
        [seq] + _plain(body)[:7]  # a meter's doubtful reply, which may follow, is for the log
        for seq, kind, body in ledger.records(max(1, ledger.head[0] - _SLOTS))
        if kind == record.FAULT
    ]
    gc.collect()
    return {
        "firmware": __version__,
        "micropython": ".".join([str(part) for part in sys.implementation[1][:3]]),
        "board": app.board.name,
        "unique_id": app.board.unique_id().hex(),
        "station": app.identity.station,
        "site": app.identity.site,
        "boot": app.timebase.boot_id,
        "reset_cause": app.board.reset_cause(),
        "errors": {str(code): n for code, n in app.health.errors.items()},
        "last_error": app.health.last,
        "faults": faults[-_FAULTS:],
        "stalled": app.supervisor.stalled,
        "connected": app.client.connected,
        "connections": app.client.session,
        "batches": [app.outbox.batches, app.outbox.resent, app.outbox.acknowledgements],
        "objects": app.inbox.accepted,
        "meter": {
            "samples": sampler.samples,
            "cycles": sampler.cycles,
            "requests": master.requests,
            "replies": master.replies,
            "strays": master.strays,
        },
        "versions": app.versions(),
        "log": {
            "sectors": ledger.sectors,
            "free_slots": ledger.free_slots,
            "backlog": ledger.backlog,
            "acknowledged": ledger.acknowledged,
            "head": ledger.head[0],
            "damage": len(ledger.damage),
            "erases": ledger.erases,
        },
        "counters": [ledger.counter(i) for i in range(11)],
        "heap_free": gc.mem_free(),
        "heap_used": gc.mem_alloc(),
    }


def _service(app, *numbers):
    # Restart into a REPL without charger and watchdog: for updates and new settings.
    if app.machine.transaction:
        yield {"error": "charging"}
        return
    with open("service", "w"):
        pass
    yield {"restarting": True}
    app.board.reset()


_ANSWERS = {
    "status": _status,
    "meter": _meter,
    "logs": _logs,
    "diagnose": _diagnose,
    "service": _service,
}
