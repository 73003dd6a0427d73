# Permission to charge through a relay or dry contact in the EVSE's enable loop, with an optional
# input that reports the contactor's state. It only permits: the EVSE keeps its own interlocks.


class Relay:
    """The actuator contract, on pins with value() and value(level) where 1 means active.

    `permit` and `withdraw` take effect before they return. `permitted` is what was asked for
    last, `feedback()` what the contactor says: True closed, False open, None not known.
    `vehicle()` says whether a car is there (None: this actuator cannot tell). `limit(w)` returns
    False: a relay cannot throttle. `poll()` is called at every tick; it has nothing to do here.
    """

    def __init__(self, pin, feedback=None):
        self._pin = pin
        self._feedback = feedback
        self.withdraw()

    def permit(self):
        self.permitted = True
        self._pin.value(1)

    def withdraw(self):
        self.permitted = False
        self._pin.value(0)

    def feedback(self):
        return bool(self._feedback.value()) if self._feedback else None

    def vehicle(self):
        return None

    def limit(self, max_w):
        return False

    def poll(self):
        pass
