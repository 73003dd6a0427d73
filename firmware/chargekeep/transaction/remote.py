# What EVSE controllers on a serial line have in common: permission is a command that the other
# side has to confirm, and its state is asked for twice a second. An EVSE that does not confirm a
# withdrawal is reported as closed, which the transaction machine treats as unsafe.

import time

from micropython import const

from chargekeep.errors import ACTUATOR_SILENT

_ASK_MS = const(500)
_CONFIRM_MS = const(1000)  # a withdrawal that takes longer is taken for failed
_SILENT_MS = const(3000)  # a state older than this is not known any more
_LEAST_A = const(6)  # IEC 61851-1, table A.8: less than 6 A cannot be signalled

# States of the control pilot (IEC 61851-1, annex A).
NO_CAR = "A"
CONNECTED = "B"
CHARGING = "C"


class Remote:
    """The actuator contract of relay.py for a controller that is asked and told.

    A subclass has `_tell(permitted, amps)` and `_ask()`, which start a command and return False
    where the line is busy, and `_answered()`: None while the answer is still to come, True or
    False for how it ended; an answer to `_ask` sets `pilot` (a letter above or None).
    Commands that fail are told to `health.count`. `max_a` is what the installation allows,
    `phases` how many a car may use.
    """

    def __init__(self, health, max_a=16, phases=3, volts=230, clock_ms=None):
        self.permitted = False
        self.pilot = None
        self._health = health
        self._ticks = clock_ms or time.ticks_ms
        self._max_a = self._amps = max_a
        self._watts_per_a = phases * volts
        self._told = None  # (permitted, amps) that the other side has confirmed
        self._telling = None
        self._busy = False
        now = self._ticks()
        self._changed_ms = now  # when another permission was asked for
        self._known_ms = now  # when `pilot` was told last
        self._asked_ms = time.ticks_add(now, -_ASK_MS)

    def _tell(self, permitted, amps):
        raise NotImplementedError

    def _ask(self):
        raise NotImplementedError

    def _answered(self):
        raise NotImplementedError

    def permit(self):
        self._want(True)

    def withdraw(self):
        self._want(False)

    def _want(self, permitted):
        if permitted != self.permitted:
            self.permitted = permitted
            self._changed_ms = self._ticks()
        self.poll()

    def limit(self, max_w):
        """Keep the car below `max_w` (0: what the installation allows). False if it cannot."""
        amps = max_w // self._watts_per_a if max_w else self._max_a
        self._amps = max(_LEAST_A, min(amps, self._max_a))
        return amps >= _LEAST_A

    def feedback(self):
        """True: current may flow, False: it may not, None: not known."""
        now = self._ticks()
        if time.ticks_diff(now, self._known_ms) > _SILENT_MS:
            pilot = None
        else:
            pilot = self.pilot
        if self.permitted:
            return True if pilot == CHARGING else None
        if self._told is not None and not self._told[0] and pilot in (NO_CAR, CONNECTED):
            return False
        late = time.ticks_diff(now, self._changed_ms) > _CONFIRM_MS
        if pilot == CHARGING or self._told is None or self._told[0]:
            return True if late else None
        return None

    def vehicle(self):
        if self.pilot is None or time.ticks_diff(self._ticks(), self._known_ms) > _SILENT_MS:
            return None
        return self.pilot != NO_CAR

    def poll(self):
        """Take what was answered and begin the next command. Never waits."""
        if self._busy:
            done = self._answered()
            if done is None:
                return
            self._busy = False
            if not done:
                self._health.count(ACTUATOR_SILENT, "")
            elif self._telling is not None:
                self._told = self._telling
            else:
                self._known_ms = self._ticks()
            self._telling = None
        wanted = (self.permitted, self._amps)
        if wanted != self._told:
            self._busy = self._tell(*wanted)
            self._telling = wanted if self._busy else None
        elif time.ticks_diff(self._ticks(), self._asked_ms) >= _ASK_MS:
            self._busy = self._ask()
            if self._busy:
                self._asked_ms = self._ticks()
