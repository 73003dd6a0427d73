# Keeps the station's network interface associated, whatever the access point does, without ever
# blocking: it asks, looks, and backs off with jitter. It is handed its interface (network.WLAN or
# alike), so it runs anywhere.

import asyncio
import random

from micropython import const

from chargekeep import errors

_LOOK_MS = const(250)
# Failures in a row until the radio is switched off and on. A Pico W does nothing else for 352 ms
# then, and whoever wants to charge waits: soon only where the interface itself fails.
_RESET_WEDGED = const(3)
_RESET_DEAF = const(30)


class Wifi:
    """interface: `active([bool])`, `connect(ssid, password)`, `disconnect()`, `isconnected()`.

    count: `count(code, detail)` is told of every failure (health.py).
    timeout_ms: for one association with DHCP; backoff_ms: (first, longest).
    """

    def __init__(
        self, interface, ssid, password, count, timeout_ms=20_000, backoff_ms=(1_000, 60_000)
    ):
        self.interface = interface
        self.ssid = ssid
        self.password = password
        self.count = count
        self.timeout_ms = timeout_ms
        self.backoff_ms = backoff_ms
        self.failures = 0

    async def run(self):
        first, longest = self.backoff_ms
        delay = first
        reset_after = _RESET_DEAF
        while True:
            try:
                up = await self._join(reset_after)
                reset_after = _RESET_DEAF
                detail = "no association with %s" % self.ssid
            except OSError as e:  # a driver that is wedged says so here
                up, detail, reset_after = False, str(e), _RESET_WEDGED
            if up:
                self.failures = 0
                delay = first
                while self.interface.isconnected():
                    await asyncio.sleep_ms(_LOOK_MS)
                continue
            self.failures += 1
            self.count(errors.SYNC_CONNECT, detail)
            # Half to one and a half: a fleet must not come back in step after a power cut.
            await asyncio.sleep_ms(delay // 2 + random.getrandbits(16) * delay // 65536)
            delay = min(2 * delay, longest)

    async def _join(self, reset_after):
        if self.failures and self.failures % reset_after == 0:
            self.interface.active(False)
            await asyncio.sleep_ms(_LOOK_MS)
        if not self.interface.active():
            self.interface.active(True)
        if self.interface.isconnected():
            return True
        self.interface.connect(self.ssid, self.password)
        for _ in range(self.timeout_ms // _LOOK_MS):
            await asyncio.sleep_ms(_LOOK_MS)
            if self.interface.isconnected():
                return True
        self.interface.disconnect()
        return False
