# The Wi-Fi supervisor on an interface that fails in the ways drivers fail.
import asyncio
import random
from time import ticks_diff, ticks_ms

from mqtt_broker import Counts, until

from chargekeep import errors
from chargekeep.sync.wifi import Wifi


class Interface:
    """An access point with moods: `joins` says after how many looks an attempt succeeds."""

    def __init__(self, joins):
        self.joins = joins
        self.calls = []
        self.on = self.up = False
        self.wedged = 0

    def active(self, on=None):
        if on is not None:
            self.calls.append(("active", on))
            self.on = on
        return self.on

    def connect(self, ssid, password):
        if self.wedged:
            self.wedged -= 1
            raise OSError("wedged")
        self.calls.append(("connect", ssid, password))
        self.looks = self.joins.pop(0) if self.joins else None

    def disconnect(self):
        self.calls.append(("disconnect",))

    def isconnected(self):
        if self.up:
            return True
        if getattr(self, "looks", None) is not None:
            self.looks -= 1
            self.up = self.looks <= 0
        return self.up

    def drop(self):
        self.up = False
        self.looks = None


def wifi_of(interface):
    return Wifi(interface, "net", "pw", Counts(), timeout_ms=750, backoff_ms=(10, 40))


async def test_joins_and_joins_again():
    interface = Interface([2, 1])
    wifi = wifi_of(interface)
    task = asyncio.create_task(wifi.run())
    await until(lambda: interface.up)
    interface.drop()
    await until(lambda: interface.up)
    joins = [call for call in interface.calls if call[0] == "connect"]
    assert joins == [("connect", "net", "pw")] * 2
    assert not wifi.count.errors
    task.cancel()


async def test_no_access_point_is_no_reason_to_restart_the_radio_soon():
    interface = Interface([None, None, None, 1])
    wifi = wifi_of(interface)
    task = asyncio.create_task(wifi.run())
    await until(lambda: interface.up, 8000)
    assert wifi.count.errors == {errors.SYNC_CONNECT: 3}
    assert ("active", False) not in interface.calls
    assert interface.calls.count(("disconnect",)) == 3
    await until(lambda: wifi.failures == 0)
    task.cancel()


async def test_the_radio_is_restarted_in_the_end():
    interface = Interface([])
    wifi = Wifi(interface, "net", "pw", Counts(), timeout_ms=0, backoff_ms=(1, 1))
    task = asyncio.create_task(wifi.run())
    await until(lambda: ("active", False) in interface.calls)
    assert wifi.failures == 30
    task.cancel()


async def test_back_off_is_spread():
    random.seed(1)
    interface = Interface([])
    interface.wedged = 100
    wifi = Wifi(interface, "net", "pw", Counts(), backoff_ms=(80, 80))
    times = []
    wifi.count = lambda code, detail: times.append(ticks_ms())
    task = asyncio.create_task(wifi.run())
    await until(lambda: len(times) == 13)
    task.cancel()
    gaps = [ticks_diff(times[i + 1], times[i]) for i in range(12)]
    assert min(gaps) < 72, gaps
    assert max([gap for gap in gaps if gap < 250]) > 88, gaps  # without restarts of the radio


async def test_a_wedged_interface_is_restarted():
    interface = Interface([1])
    interface.wedged = 3
    wifi = wifi_of(interface)
    task = asyncio.create_task(wifi.run())
    await until(lambda: interface.up, 5000)
    assert wifi.count.errors == {errors.SYNC_CONNECT: 3}
    assert interface.calls.count(("active", False)) == 1
    task.cancel()


async def test_interface_that_is_up_is_left_alone():
    interface = Interface([])
    interface.on = interface.up = True
    task = asyncio.create_task(wifi_of(interface).run())
    await asyncio.sleep_ms(300)
    assert interface.calls == []
    task.cancel()
