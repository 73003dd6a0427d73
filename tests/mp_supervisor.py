# also: cpython
import asyncio

from chargekeep import errors, health
from chargekeep.errors import ChargekeepError
from chargekeep.supervisor import Supervisor


class Ticks:
    now = 0

    def ms(self):
        return self.now

    def diff(self, a, b):
        return a - b


class Dog:
    fed = 0

    def feed(self):
        self.fed += 1


def make():
    ticks, dog, counts = Ticks(), Dog(), health.Health()
    return ticks, dog, counts, Supervisor(dog, counts, ticks.ms, ticks.diff)


def test_watchdog_starves_when_a_part_stops_progressing():
    ticks, dog, _, supervisor = make()
    progress = [0]
    supervisor.watch("meter", lambda: progress[0], 1000)
    supervisor.check()
    assert dog.fed == 1
    ticks.now = 1001
    supervisor.check()
    assert dog.fed == 1 and supervisor.stalled == "meter"
    progress[0] = 1
    supervisor.check()
    assert dog.fed == 2 and supervisor.stalled is None


async def test_a_failing_part_is_counted_and_does_not_stop_the_others():
    _, _, counts, supervisor = make()
    ran = []

    async def named():
        raise ChargekeepError(errors.METER_TIMEOUT, "x")

    async def unexpected():
        raise ValueError("y")

    async def fine():
        while True:
            ran.append(1)
            await asyncio.sleep_ms(5)

    supervisor.add("named", named)
    supervisor.add("unexpected", unexpected)
    supervisor.add("fine", fine)
    task = asyncio.create_task(supervisor.run())
    await asyncio.sleep_ms(50)
    task.cancel()
    assert counts.errors == {errors.METER_TIMEOUT: 1, errors.UNEXPECTED: 1}, counts.errors
    assert len(ran) > 2
