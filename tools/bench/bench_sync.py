"""Sync from a MicroPython VM, against a client that publishes and waits.

Everything of a comparison runs in the same call, in turns, on one mosquitto. The station is
measured until the host has committed and acknowledged all, its peer until the broker has: on the
bare loopback, and (`_20ms_`) through a link with 20 ms round trip, as Wi-Fi and a router have.
With CHARGEKEEP_RP2_IMAGE also what a batch takes of that image's time and heap.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from chargekeep_tools import keys, objects, wire
from chargekeep_tools.bench import Unavailable, firmware, open_board
from chargekeep_tools.broker import RECONCILER, Broker
from chargekeep_tools.home import Home
from chargekeep_tools.reconcile import cli, store
from chargekeep_tools.reconcile.source import MqttSource
from chargekeep_tools.sim.replica import METER_VALUE, Replica

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = "depot"
VM_RECORDS = 3000
BASELINE_RECORDS = 100
ROUND_TRIP_S = 0.02
BATCHES = """
import gc, time
from chargekeep.board import open_board
from chargekeep.ledger.ring import Ledger
class Clock:
    def stamp(self):
        return [1_800_000_000, 3, 1, 77]
device, key = open_board().ledger_device(), bytes(32)
Ledger.format(device, bytes(16), key)
ledger = Ledger(device, key, Clock())
ledger.mount()
for i in range(200):
    ledger.append(3, [5, i, 8, 1_234_567 + i, 1])
longest = most = last = 0
while last < 200:
    gc.collect()
    gc.disable()
    heap = gc.mem_alloc()
    began = time.ticks_us()
    for found in ledger.batch(last, 1280, True):
        longest = max(longest, time.ticks_diff(time.ticks_us(), began))
        began = time.ticks_us()
    last = found[1]
    most = max(most, gc.mem_alloc() - heap)
    gc.enable()
print(longest, most)
"""
PATHS = [".frozen", ROOT / "firmware", ROOT / "boards/UNIX", ROOT / "tests"]


class Link:
    """A TCP proxy in which data takes `delay` seconds each way.

    Only data: segments are acknowledged at once, which is kinder to small writes than air.
    """

    def __init__(self, to: int, delay: float) -> None:
        self.to, self.delay = to, delay
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0)
        )
        self.port = self.server.sockets[0].getsockname()[1]

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        thread.start()
        yield self.port
        self.loop.call_soon_threadsafe(self._stop)
        thread.join()

    def _stop(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.call_later(0.1, self.loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond = await asyncio.open_connection("127.0.0.1", self.to)
        with contextlib.suppress(asyncio.CancelledError):  # by _stop
            await asyncio.gather(self._carry(reader, beyond[1]), self._carry(beyond[0], writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.loop.call_later(self.delay, writer.write, data)
        except OSError:
            pass
        self.loop.call_later(self.delay, writer.close)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        keys.create(self.home, "root", "root", encrypted=False)
        keys.create(self.home, "issuer", "issuer", encrypted=False)
        objects.sign(self.home, wire.TARIFF, SITE, {10: 1, 11: "EUR", 12: 1, 13: 0, 14: 0})
        record = Replica(SITE, "peer").record()
        self.home.save_station(record)
        self.broker = Broker(folder / "broker", [record], {RECONCILER: "r"})

    def vm(self, program: Path, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [Path(sys.executable).parent / "micropython", "-X", "heapsize=320k", program]
            + [str(argument) for argument in arguments],
            env=dict(os.environ, MICROPYPATH=":".join(map(str, PATHS))),
            stdout=subprocess.PIPE,
            text=True,
        )

    def drain(self, records: int, port: int, name: str) -> float:
        """Seconds from the first connection until the host has acknowledged `records`."""
        replica = Replica(SITE, name)
        record = replica.record()
        self.home.save_station(record)
        self.broker.stations.append(record)
        self.broker.reload()
        settings = record | {
            "password": replica.password,
            "seed": replica.key.private_bytes_raw().hex(),
            "issuer": self.home.key("issuer")["public_key"],
            "port": port,
            "flash": str(self.folder / f"{name}.nor"),
            "format": True,
            "records": records,
            "blocks": 128,
        }
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(settings))
        engine = store.connect(f"sqlite:///{self.folder / f'{name}.db'}")
        source = MqttSource(self.broker.url(RECONCILER), f"drain-{name}")
        reconciler = cli.reconciler_for(self.home, engine, None, source.publish)
        process = self.vm(ROOT / "tests/sync_vm.py", file)
        taken: list[float] = []

        def follow() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event.get("acknowledged", 0) >= records:
                    taken.append(event["ms"] / 1000)
                    return

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        source.run(reconciler, lambda: not follower.is_alive())
        process.kill()
        process.wait()
        self.broker.stations.pop()
        return taken[0]

    def publish_wait(self, port: int) -> float:
        """Seconds for `BASELINE_RECORDS`, one a packet, the PUBACK awaited."""
        station = self.broker.stations[0]["mqtt"]
        program = ROOT / "tools/bench/vm_publish_wait.py"
        process = self.vm(program, port, station["user"], station["password"], BASELINE_RECORDS)
        return float(process.communicate()[0])


def wire_bytes() -> float:
    """Bytes of a PUBLISH packet with 32 meter values, a record; of a batch in a row of them."""
    replica = Replica(SITE, "cp-1")
    while len(replica.slots) < 64:
        replica.register += 60
        replica.sleep(60)
        replica.append(METER_VALUE, [replica.register, 3600])
    _, data = replica.batches()
    length = 2 + len(replica.log_topic) + 2 + len(data)
    return (1 + (2 if length < 16384 else 3) + length) / 32


def on_image() -> dict[str, float]:
    """The longest that a batch holds up all else, and the garbage that the worst one leaves."""
    with tempfile.TemporaryDirectory() as name, open_board("RPI_PICO", Path(name)) as board:
        board.install(firmware.files(board.name))
        longest_us, heap = map(int, board.exec(BATCHES).split())
    return {
        "sync_batch_longest_step_ms_on_image": longest_us / 1000,
        "sync_batch_heap_bytes_on_image": heap,
    }


def run() -> dict[str, float]:
    """Rates in records a second where the name does not say otherwise."""
    try:
        found = on_image()
    except Unavailable as reason:
        print(reason)
        found = {}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        with bench.broker:
            drained = VM_RECORDS / bench.drain(VM_RECORDS, bench.broker.port, "near")
            latency = bench.drain(1000, bench.broker.port, "latency")
            baseline = BASELINE_RECORDS / bench.publish_wait(bench.broker.port)
            with Link(bench.broker.port, ROUND_TRIP_S / 2).running() as port:
                far_drained = VM_RECORDS / bench.drain(VM_RECORDS, port, "far")
                far_baseline = BASELINE_RECORDS / bench.publish_wait(port)
    return found | {
        "sync_bytes_per_record_on_wire": round(wire_bytes(), 1),
        "sync_drain_records_per_s": round(drained),
        "sync_drain_20ms_records_per_s": round(far_drained),
        "sync_umqtt_records_per_s": round(baseline, 1),
        "sync_umqtt_20ms_records_per_s": round(far_baseline, 1),
        "sync_vs_umqtt_ratio": round(drained / baseline, 1),
        "sync_vs_umqtt_20ms_ratio": round(far_drained / far_baseline, 1),
        "sync_latency_after_reconnect_s": round(latency, 2),
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
