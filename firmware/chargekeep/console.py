# Answers the host over the board's own serial line (USB on most) while the charger runs. A line
# `?name arguments` gets lines of JSON whose `re` is the name; everything else is left alone.
# Nothing asked here stops the charger but `?service`, and that only while nobody charges.

import asyncio
import gc
import json
import select
import sys

from micropython import const

from chargekeep import errors

_POLL_MS = const(50)
_LINE = const(64)  # bytes of a request
_RECORDS = const(20)  # of the log in one answer


class Service:
    """`app` is the App that is asked; reads `stdin`, prints answers."""

    def __init__(self, app, stdin=None):
        self._app = app
        self._in = stdin or sys.stdin.buffer
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)
        self._line = bytearray()
        self._skip = False

    async def run(self):
        """Serve until the line is closed."""
        while True:
            while self._poll.poll(0):
                byte = self._in.read(1)
                if not byte:
                    while True:  # nobody can come back on a closed line
                        await asyncio.sleep(3600)
                self._take(byte[0])
            await asyncio.sleep_ms(_POLL_MS)

    def _take(self, byte):
        if byte in b"\r\n":
            line, self._line = bytes(self._line), bytearray()
            skip, self._skip = self._skip, False
            if line[:1] == b"?" and not skip:
                self.answer(line[1:])
        elif len(self._line) < _LINE:
            self._line.append(byte)
        else:
            self._skip = True

    def answer(self, line):
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
            for result in function(self._app, *numbers):
                result["re"] = name
                print(json.dumps(result))
        except Exception as e:  # a question must not cost more than its answer
            self._app.health.count(errors.UNEXPECTED, "?%s: %r" % (name, e))
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
    ledger = app.ledger
    gc.collect()
    yield {
        "board": app.board.name,
        "unique_id": app.board.unique_id().hex(),
        "station": app.identity.station,
        "site": app.identity.site,
        "boot": app.timebase.boot_id,
        "reset_cause": app.board.reset_cause(),
        "errors": {str(code): n for code, n in app.health.errors.items()},
        "last_error": app.health.last,
        "stalled": app.supervisor.stalled,
        "connected": app.client.connected,
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
