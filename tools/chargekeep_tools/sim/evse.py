"""An EVSE with a car: energy flows only while the station's relay permits it.

The station's pins are one-byte files, '0' or '1'. The simulated contactor follows the relay's
file, reports back through the feedback's file and switches the meter's load.
"""

import threading
from pathlib import Path

from chargekeep_tools.sim.meter import SimMeter


class SimEvse:
    """Follows `relay`, drives `feedback` (None: no such input) and `meter.power_w`.

    `demand_w` is what the car takes while plugged in. `stuck_closed` is a welded contactor.
    A context manager; without a station's process the relay has fallen off: `power_lost()`.
    """

    def __init__(
        self, relay: Path, feedback: Path | None, meter: SimMeter, demand_w: int = 11_000
    ):
        self.relay = relay
        self.feedback = feedback
        self.meter = meter
        self.demand_w = demand_w
        self.plugged_in = True
        self.stuck_closed = False
        self.closed = False
        self._fed_back: bool | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="sim evse")

    def __enter__(self) -> "SimEvse":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def power_lost(self) -> None:
        """The station lost its supply: its relay opens."""
        self.relay.write_text("0")
        self.step()

    def step(self) -> None:
        """Look at the relay once."""
        try:
            level = self.relay.read_text()[:1]
        except FileNotFoundError:
            level = "0"
        if level:  # empty for the instant in which the station writes it
            self.closed = level == "1" or self.stuck_closed
        if self.feedback and self._fed_back != self.closed:  # a file is empty while it is written
            self.feedback.write_text("1" if self.closed else "0")
            self._fed_back = self.closed
        power = self.demand_w if self.closed and self.plugged_in else 0
        if power != self.meter.power_w:
            self.meter.power_w = power

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.step()
