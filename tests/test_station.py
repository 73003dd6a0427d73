"""The whole firmware in its VM against bad input from every side.

Garbage on a line, damaged flash, a hostile topic, a broken link: each is counted under its code,
the station goes on, and nothing that was recorded is lost.
"""

import contextlib
import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chargekeep_tools import allowlist, ocmf, policy, publish, wire
from chargekeep_tools import broker as brokers
from chargekeep_tools.home import Home
from chargekeep_tools.sim.demo import FLEET_CARD, SITE, STATION, Demo
from chargekeep_tools.sim.meter import Faults
from chargekeep_tools.sim.story import Story, wait_until


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with contextlib.ExitStack() as stack:
        demo = Demo(tmp_path_factory.mktemp("station"), Story(), stack)
        demo.build()
        yield demo


@pytest.fixture(autouse=True)
def running(demo: Demo) -> Iterator[None]:
    demo.network.restore()
    demo.boot()
    demo.await_status("online and idle", status="online", evse="idle")
    wait_until(lambda: demo.status()["versions"]["revocation"], 60, "objects in force")
    yield
    demo.station.power_cut()
    demo.evse.power_lost()


def await_error(demo: Demo, code: int) -> None:
    wait_until(lambda: demo.status()["errors"].get(str(code)), 20, f"E{code} in the status")


def test_garbage_at_the_reader_is_counted_and_the_next_token_accepted(demo: Demo):
    noise = random.Random(1)
    for _ in range(20):
        demo.station.reader.write(noise.randbytes(40).replace(b"\r", b"") + b"\r\n")
        time.sleep(0.05)  # 9600 baud
    token = demo.issue()
    demo.station.reader.drain()
    demo.present(token, "ACCEPTED")
    demo.present(token, "STOPPED")
    await_error(demo, 200)


def test_a_driver_waits_for_no_table_after_the_station_has_signed(demo: Demo):
    home = Home(demo.operator.home)
    keys = [record["public_key"] for record in home.keys() if record["role"] != "root"]
    keys.append(home.station(STATION)["public_key"])
    wanted = {f"comb-{wire.kid(bytes.fromhex(key)).hex()}" for key in keys}

    def kept() -> bool:
        found = {path.name for path in demo.station.folder.rglob("comb-*")}
        return found > wanted and len(found) == len(wanted) + 1  # with the base point's

    wait_until(kept, 20, "tables")


def test_a_truncated_token_is_refused_wherever_it_is_cut(demo: Demo):
    token = demo.issue()
    for length in (4, 5, 6, 20, len(token) // 2, len(token) - 1):
        demo.present(token[:length], "REFUSED E")
        assert not demo.station.permits


def test_an_unknown_topic_is_counted(demo: Demo):
    url = demo.broker.url(brokers.OPERATOR)
    topic = f"chargekeep/1/{SITE}/{STATION}/down/firework"
    publish.send(url, [(topic, b"x" * 100, False)])
    await_error(demo, 604)


def test_garbage_in_place_of_signed_objects_is_refused(demo: Demo):
    url = demo.broker.url(brokers.OPERATOR)
    before = demo.status()["versions"]
    down = f"chargekeep/1/{SITE}/{STATION}/down"
    for kind in ("trust", "config", "revocation", "ack", "command", "time", "tariff"):
        publish.send(url, [(f"{down}/{kind}", random.Random(kind).randbytes(150), False)])
    publish.send(
        url, [(f"{down}/allowlist/x/y", b"", False), (f"{down}/trust", b"x" * 9000, False)]
    )
    await_error(demo, 110)
    await_error(demo, 605)
    assert demo.status()["versions"] == before


def test_a_change_of_the_allowlist_comes_as_a_delta(demo: Demo):
    home = Home(demo.operator.home)
    base = demo.status()["versions"]["allowlist"]
    cards = [FLEET_CARD, *(f"DE-CARD-{i}" for i in range(40))]
    version = allowlist.build(home, SITE, [(c, 0, 0) for c in cards], exp=2**32 - 1).version
    sent = publish.retained(home, SITE)
    delta = [m for m in sent if m[0].endswith(f"/allowlist/{version}/-{base}")]
    header = [m for m in sent if m[0].endswith("/allowlist")]
    publish.send(demo.broker.url(brokers.OPERATOR), delta + header)  # and no chunk
    wait_until(lambda: demo.status()["versions"]["allowlist"] == version, 20, "the new list")
    demo.present(cards[-1], "ACCEPTED")
    demo.present(cards[-1], "STOPPED")


def test_a_meter_that_only_sends_garbage_stops_new_transactions_until_it_recovers(demo: Demo):
    demo.meter.faults = Faults(corrupt=1.0)
    try:
        wait_until(lambda: "meter_stale" in demo.status()["reasons"], 15, "meter_stale")
        token = demo.issue()
        demo.present(token, "REFUSED E307")
    finally:
        demo.meter.faults = Faults()
    wait_until(lambda: demo.status()["reasons"] == [], 15, "recovery")
    demo.present(token, "ACCEPTED")
    demo.present(token, "STOPPED")


def test_a_welded_contactor_is_unsafe_within_a_second_of_being_seen(demo: Demo):
    demo.evse.stuck_closed = True
    try:
        demo.await_status("unsafe", status="offline_unsafe", timeout=5)
        demo.present(demo.issue(), "REFUSED E403")
    finally:
        demo.evse.stuck_closed = False


def test_links_that_drop_in_the_middle_of_publishing_lose_nothing(demo: Demo):
    demo.network.cut()
    demo.await_status("offline", status="offline_operational")
    for _ in range(40):
        demo.present("NOBODY", "REFUSED E209")
    wait_until(lambda: demo.status()["oldest_unsynced_s"] > 0, 20, "the age of the backlog")
    assert 0 <= demo.status()["list_age_s"] < 3600
    for moment in (0.02, 0.2):
        demo.network.restore()
        wait_until(lambda: demo.status()["status"] == "online", 90, "online")
        time.sleep(moment)
        demo.network.cut()
        demo.await_status("offline", status="offline_operational")
    demo.network.restore()
    wait_until(demo.acknowledged, 120, "acknowledgement of everything")


def test_a_damaged_sector_costs_at_most_what_it_held(demo: Demo):
    boots = demo.status()["boot"]
    demo.station.power_cut()
    flash = demo.station.folder / "flash.nor"
    image = bytearray(flash.read_bytes())
    sector = image.index(b"CKL")
    slots = range(sector + 256, sector + 4096, 64)
    written = next(at for at in slots if image[at : at + 64] != b"\xff" * 64)
    image[written + 20] ^= 0x55
    flash.write_bytes(image)
    demo.boot()
    demo.await_status("back", status="online", evse="idle", boot=boots + 1)
    token = demo.issue()
    demo.present(token, "ACCEPTED")
    demo.present(token, "STOPPED")


def test_an_attested_transaction_is_exported_as_an_ocmf_document(demo: Demo):
    token = demo.issue()
    demo.present(token, "ACCEPTED")
    demo.present(token, "STOPPED")
    demo.await_status("idle", evse="idle")
    image = str(demo.station.folder / "flash.nor")
    target = demo.folder / "bills.ocmf"
    words = ("log", "export", image, str(target), "--station", STATION)

    def exported() -> list[str]:
        command = demo.operator.command(*words)
        subprocess.run(command, env=demo.operator.environment, check=True)
        return target.read_text().splitlines()

    documents = wait_until(exported, 20, "an attested transaction")
    key = serialization.load_pem_public_key(target.with_suffix(".pem").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    readings = [ocmf.verify(document, key)["RD"] for document in documents]
    assert all([reading["TX"] for reading in pair] == ["B", "E"] for pair in readings)
    with pytest.raises(ocmf.OcmfError):
        ocmf.verify(documents[-1].replace('"RV":', '"RV":1'), key)


def test_a_hung_part_is_seen_from_outside(demo: Demo):
    """The watchdog's file grows old when the firmware stops making progress."""
    watchdog: Path = demo.station.folder / "watchdog"
    process = demo.station.process
    assert process is not None
    fed = watchdog.stat().st_mtime
    wait_until(lambda: watchdog.stat().st_mtime > fed, 5, "feeding")
    subprocess.run(["kill", "-STOP", str(process.pid)], check=True)
    time.sleep(0.2)
    fed = watchdog.stat().st_mtime
    time.sleep(1.5)
    assert watchdog.stat().st_mtime == fed
    subprocess.run(["kill", "-CONT", str(process.pid)], check=True)
    wait_until(lambda: watchdog.stat().st_mtime > fed, 5, "feeding again")


def test_a_station_is_diagnosed_by_command_and_answers_once(demo: Demo):
    url = demo.broker.url(brokers.OPERATOR)
    options = ["--broker", url, "--station", STATION]
    answer = demo.operator.run("command", "diagnose", *options)
    assert answer["station"] == STATION and answer["log"]["sectors"] and answer["heap_free"] > 0
    assert answer["meter"]["replies"] > 0 and answer["versions"]["tariff"] == 1
    assert len(json.dumps(answer)) < 1900
    # The same command again, as a broker or an attacker may repeat it, is not answered again.
    home = Home(demo.operator.home)
    signed = policy.command(home, SITE, 6, [77], int(time.time()) + 60, station=STATION)
    topic = wire.topic(SITE, STATION, "up", "diagnosis")
    assert publish.ask(url, signed, topic, 77)["request"] == 77
    received = demo.status()["errors"]
    with publish.connected(url) as client:
        heard: list[bytes] = []
        client.on_message = lambda client, userdata, message: heard.append(message.payload)
        client.subscribe(topic, 1)
        publish.send_object(url, signed)
        again = policy.command(home, SITE, 6, [78], int(time.time()) + 60, station=STATION)
        assert publish.ask(url, again, topic, 78)["connections"] == 1
        wait_until(lambda: heard, 10, "the answer")
    assert [json.loads(data)["request"] for data in heard] == [78]
    assert demo.status()["errors"] == received
