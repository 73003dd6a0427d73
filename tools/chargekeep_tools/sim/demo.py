"""The main job, played from end to end with real parts.

A mosquitto broker, an energy meter played by pymodbus, the firmware in a MicroPython VM on
emulated NOR flash, and the reconciler on SQLite. Every step must hold, or the exit status is 1.
"""

import contextlib
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chargekeep_tools import broker as brokers
from chargekeep_tools.sim.evse import SimEvse
from chargekeep_tools.sim.meter import SimMeter
from chargekeep_tools.sim.network import Network
from chargekeep_tools.sim.station import HEAP, Station
from chargekeep_tools.sim.story import StepFailed, Story, held, wait_until

SITE, STATION = "depot", "CP-1"
DRIVER = "DE-8AA-123456-7"
FLEET_CARD = "DE-FLEET-000042"
DEMAND_W = 22_000
CHARGE_S = 8


class Operator:
    """The operator's side: the `chargekeep` command with a home directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = dict(os.environ, CHARGEKEEP_HOME=str(home))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "chargekeep_tools.cli", *words]

    def run(self, *words: str) -> Any:
        """Run `chargekeep words --json`; its output decoded."""
        done = subprocess.run(
            self.command(*words, "--json"), env=self.environment, capture_output=True, text=True
        )
        held(not done.returncode, f"chargekeep {words[0]}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def start(self, log: Path, *words: str) -> subprocess.Popen:
        with log.open("ab") as out:
            return subprocess.Popen(
                self.command(*words), env=self.environment, stdout=out, stderr=out
            )


def shown_wh(meter: SimMeter) -> int:
    """What the meter's register shows, in Wh, as anyone reads it: a float32 of kWh."""
    (kwh,) = struct.unpack(">f", struct.pack(">f", meter.wh / 1000))
    return round(kwh * 1000)


class Demo:
    """The cast and the stage: everything lives in `folder`."""

    def __init__(self, folder: Path, story: Story, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.story = story
        self.stack = stack
        self.operator = Operator(folder / "operator")
        self.meter = SimMeter(wh=1_234_567)
        self.station = Station(folder / STATION, self.meter.path)
        self.evse = SimEvse(
            self.station.relay, self.station.folder / "feedback.pin", self.meter, DEMAND_W
        )

    # The stage

    def build(self) -> None:
        story, operator = self.story, self.operator
        story.chapter("The operator's office, with a network")
        with story.step("a broker of our own runs") as found:
            accounts = {brokers.OPERATOR: "office", brokers.RECONCILER: "billing"}
            self.broker = brokers.Broker(self.folder / "broker", accounts=accounts)
            self.stack.enter_context(self.broker)
            self.network = Network(self.broker.port)
            self.stack.callback(self.network.close)
            found.append(f"mosquitto on 127.0.0.1:{self.broker.port}, password file and ACL")
        with story.step("the meter counts") as found:
            self.stack.enter_context(self.meter)
            self.stack.enter_context(self.evse)
            self.stack.callback(self.station.close)
            found.append(f"pymodbus as an SDM630 at 9600 baud, {shown_wh(self.meter)} Wh")
        with story.step("root and issuer keys, a trust list") as found:
            operator.run("keys", "create", "root", "--role", "root", "--no-passphrase")
            operator.run("keys", "create", "issuer", "--no-passphrase")
            found.append(f"version {operator.run('trust', 'build', '--site', SITE)['version']}")
        with story.step("the station is provisioned over its REPL") as found:
            with self.station.repl() as port:
                record = operator.run(
                    *("provision", port, STATION, "--site", SITE),
                    *("--broker", f"127.0.0.1:{self.network.port}"),
                )
            found.append(f"it made its own key, kid {record['kid']}")
            self.broker.stations = [json.loads(self._station_record().read_text())]
            self.broker.reload()
        with story.step("tariff, allowlist and a revocation go to the broker") as found:
            operator.run("tariff", "7", "--per-kwh", "0.49", "--per-start", "0.35")
            operator.run("allowlist", "build", "--id-token", FLEET_CARD)
            self.revoked = self.issue()
            operator.run("revoke", self.revoked)
            done = operator.run("publish", "--broker", self.broker.url(brokers.OPERATOR))
            found.append(f"{done['published']} retained messages")
        with story.step("the reconciler runs"):
            self.stack.callback(self._stop_reconciler)
            self.reconciler = operator.start(
                self.folder / "reconciler.log",
                *("reconcile", "run", "--broker", self.broker.url(brokers.RECONCILER)),
            )

    def _station_record(self) -> Path:
        return self.operator.home / "stations" / f"{STATION}.json"

    def _stop_reconciler(self) -> None:
        self.reconciler.terminate()
        self.reconciler.wait(10)

    def issue(self, *how: str) -> str:
        """A new entitlement for the driver, as the text of its QR code."""
        return self.operator.run("issue", DRIVER, *(how or ("--kwh", "20")))["text"]

    # What one can see of the station

    def status(self) -> dict[str, Any]:
        """The station's newest status line on its console, as one reads it over USB."""
        for line in reversed(self.station.log.read_text().splitlines()):
            with contextlib.suppress(ValueError):
                return json.loads(line)
        return {}

    def await_status(self, what: str, timeout: float = 15, **wanted: Any) -> dict[str, Any]:
        def probe() -> dict[str, Any] | None:
            held(self.station.alive, f"the station died: {self.station.log.read_text()[-800:]}")
            status = self.status()
            return status if all(status.get(k) == v for k, v in wanted.items()) else None

        return wait_until(probe, timeout, what)

    def boot(self) -> None:
        self.station.log.write_text("")
        self.station.boot()

    def present(self, text: str, answer: str) -> str:
        got = self.station.present(text)
        held(got.startswith(answer), f"the reader says {got!r}, not {answer!r}")
        return got

    # The story

    def play(self) -> None:
        self.build()
        story = self.story
        story.chapter("The station starts")
        with story.step("power on") as found:
            self.boot()
            status = self.await_status("online", status="online", evse="idle")
            found.append(f"boot {status['boot']}, {status['heap_used']:,} B of heap in use")
        with story.step("the operator's objects are in force") as found:
            wanted = {"trust": 1, "allowlist": 1, "revocation": 1, "tariff": 1}

            def in_force() -> dict[str, int] | None:
                versions = self.status().get("versions", {})
                return versions if versions.items() >= wanted.items() else None

            versions = wait_until(in_force, 20, "objects")
            found.append(", ".join(f"{kind} {n}" for kind, n in versions.items() if n))
        with story.step("an entitlement for the driver") as found:
            self.token = self.issue()
            found.append(f"{len(self.token)} characters for a QR code")

        story.chapter("The network is gone")
        with story.step("cut the network") as found:
            self.network.cut()
            found.append(self.await_status("offline", status="offline_operational")["status"])
        start_wh = shown_wh(self.meter)
        with story.step("the driver presents the token") as found:
            began = time.monotonic()
            answer = self.present(self.token, "ACCEPTED")
            found.append(f"{answer} in {1000 * (time.monotonic() - began):.0f} ms")
            wait_until(lambda: self.station.permits, 5, "permission")
        with story.step(f"charge at {DEMAND_W / 1000:g} kW") as found:
            self.charge(CHARGE_S)
            found.append(f"{shown_wh(self.meter) - start_wh} Wh so far")

        story.chapter("The power fails in mid-transaction")
        with story.step("SIGKILL of the VM") as found:
            self.station.power_cut()
            self.evse.power_lost()
            found.append(f"the relay fell open at {shown_wh(self.meter)} Wh")
        time.sleep(1)
        with story.step("power returns, the transaction resumes") as found:
            began = time.monotonic()
            self.boot()
            status = self.await_status("charging again", evse="charging")
            wait_until(lambda: self.station.permits, 5, "permission")
            found.append(
                f"transaction {status['transaction']['id']} goes on "
                f"{time.monotonic() - began:.1f} s after power on"
            )
            self.charge(CHARGE_S / 2)
        with story.step("the driver presents the token again") as found:
            found.append(self.present(self.token, "STOPPED"))
            held(not self.station.permits, "permission was not withdrawn")
            self.await_status("idle", evse="idle")

        story.chapter("Who must not charge")
        forged = self.token[:60] + ("A" if self.token[60] != "A" else "B") + self.token[61:]
        expired = self.issue("--from", "2026-01-01", "--until", "2026-01-02")
        for what, text, code in (
            ("a forged token", forged, "E114"),
            ("an expired token", expired, "E201"),
            ("the token that was used up", self.token, "E205"),
            ("the revoked token", self.revoked, "E207"),
        ):
            with story.step(what) as found:
                found.append(self.present(text, f"REFUSED {code}"))
                held(not self.station.permits, "permission was given")

        story.chapter("The network returns")
        with story.step("restore the network, sync, acknowledge") as found:
            self.network.restore()

            def drained() -> dict[str, Any] | None:
                status = self.status()
                return status if status.get("status") == "online" else None

            wait_until(drained, 30, "online")
            bill = wait_until(self.bill, 30, "a bill")
            found.append(f"transaction {bill['tx']} of {bill['station']}")
        with story.step("the bill") as found:
            found.append(f"{bill['energy_wh']} Wh, {bill['total']} {bill['currency']}")
        end_wh = shown_wh(self.meter)
        with story.step("the bill is what the meter counted") as found:
            counted = end_wh - start_wh
            held(
                bill["energy_wh"] == counted,
                f"billed {bill['energy_wh']} Wh, the meter counted {counted} Wh",
            )
            found.append(f"{end_wh} - {start_wh} = {counted} Wh")
        with story.step("everything is acknowledged, flash may be freed") as found:
            status = wait_until(self.acknowledged, 30, "acknowledgement")
            self.heap_peak = status["heap_peak"]
            found.append(f"backlog {status['backlog']}")
        with story.step("the whole log verifies offline") as found:
            report = self.verify_log()
            held(report["ok"] and report["sealed"], f"{report['problems']}")
            found.append(
                f"{report['records']} records, every seal holds, "
                f"signed up to slot {report['signed_seq']}"
            )

    def charge(self, seconds: float) -> None:
        before = self.meter.wh
        time.sleep(seconds)
        held(self.meter.wh > before + 1, "no energy flows")

    def bill(self) -> dict[str, Any] | None:
        bills = self.operator.run("reconcile", "bill")
        return bills[0] if bills else None

    def acknowledged(self) -> dict[str, Any] | None:
        status = self.status()
        return status if status.get("backlog") == 0 else None

    def verify_log(self) -> dict[str, Any]:
        image = str(self.station.folder / "flash.nor")
        return self.operator.run("log", "verify", image, "--station", STATION)

    def linger(self) -> None:
        """Leave it running, to be played with by hand: lines typed here go to the reader."""
        self.story.chapter("Everything keeps running; Ctrl-C ends it")
        print(
            f"""
  In another terminal:
    export CHARGEKEEP_HOME={self.operator.home}
    chargekeep issue {DRIVER} --kwh 5     # prints a token, CK1:...
    chargekeep reconcile bill                     # what was billed
    tail -f {self.station.log}

  Paste a token here, or type an IdToken such as {FLEET_CARD}, and press Enter:
""",
            flush=True,
        )
        typed = [sys.stdin]
        while self.station.alive:
            if not select.select(typed, [], [], 0.5)[0]:
                continue
            line = sys.stdin.readline()
            if not line:
                typed = []  # nobody types; go on until Ctrl-C
            elif text := line.strip():
                print(f"  {self.station.present(text) or 'no answer'}", flush=True)


@contextlib.contextmanager
def stage(keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chargekeep-demo-"))
    try:
        yield folder
    except StepFailed:
        print(f"\nleft for inspection: {folder}")
        raise
    else:
        if not keep:
            shutil.rmtree(folder)


def run(keep: bool) -> int:
    """Play the demo; the exit status."""
    story = Story()
    try:
        with stage(keep) as folder, contextlib.ExitStack() as stack:
            demo = Demo(folder, story, stack)
            demo.play()
            story.chapter(
                f"Every step held: {story.steps} steps in {story.seconds:.1f} s, heap peak "
                f"{demo.heap_peak:,} B of {HEAP} in the 64-bit VM"
            )
            if keep:
                with contextlib.suppress(KeyboardInterrupt):
                    demo.linger()
    except StepFailed:
        story.chapter("THE DEMO FAILED at the step above.")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
