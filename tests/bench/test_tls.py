"""TLS between a real image and mosquitto: who is believed, and how long nothing else runs."""

import datetime

import pytest

from chargekeep_tools import broker, credentials
from chargekeep_tools.bench import firmware
from chargekeep_tools.credentials import Auth, Authority
from chargekeep_tools.home import Home

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(7200)]
STATIONS = {"cp-1": Auth.PASSWORD, "cp-2": Auth.CERTIFICATE}
ELSEWHERE = "192.0.2.7"  # the same broker, but not a name that its certificate has
_JOIN = """
import network, time
link = network.WLAN(network.STA_IF)
link.active(True)
link.connect(%r, %r)
while not link.isconnected():
    time.sleep_ms(100)
"""
_CONNECT = """
import asyncio, gc, time
from chargekeep.sync import transport

def text(s):
    return bytes((0, len(s))) + s.encode()

def read(name):
    with open(name, "rb") as f:
        return f.read()

async def go(host, port, user, password, files):
    late, done = 0, []

    async def tick():
        nonlocal late
        while not done:
            before = time.ticks_ms()
            await asyncio.sleep_ms(5)
            late = max(late, time.ticks_diff(time.ticks_ms(), before) - 5)

    opener = transport.Transport(host, port, {n: read(name) for n, name in files.items()})
    task = asyncio.create_task(tick())
    gc.collect()
    free = gc.mem_free()
    try:
        reader, writer = await opener.open()
        body = text("MQTT") + b"\\x04\\xc2\\x00\\x3c" + text(user) + text(user) + text(password)
        writer.write(bytes((0x10, len(body))) + body)
        await writer.drain()
        said = (await reader.readexactly(4))[3]
        writer.close()
    except (OSError, ValueError) as e:
        said = str(e)
    free -= gc.mem_free()
    done.append(1)
    await task
    print(repr((said, late, free)))
"""


@pytest.fixture
def station(emulated, tmp_path):
    """`connect(name, **how)` of a Pico W: what the broker said, the longest stall in ms, heap."""
    board = emulated
    if board.radio is None:
        pytest.skip(f"{board.name} has no network")
    board.radio.open[ELSEWHERE] = "127.0.0.1"
    home = Home(tmp_path / "home")
    for name, auth in STATIONS.items():
        record = {
            "site": "hall",
            "station": name,
            "mqtt": credentials.make(home, name, auth, None),
        }
        home.save_station(record)
    ports = tuple(broker.free_port() for _ in broker.PORTS)
    broker.configure(home, tmp_path / "etc", [board.network_host], ports=ports)
    board.install(firmware.files(board.name))
    board.power_on(app=False)
    board.put("ca.der", Authority(home).der)
    board.put("other.der", Authority(Home(tmp_path / "other")).der)
    mqtt = home.station("cp-2")["mqtt"]
    for part in ("certificate", "key"):
        board.put(f"{part}.der", bytes.fromhex(mqtt[part]))
    board.exec(_JOIN % board.wifi, timeout_s=120)
    board.exec(_CONNECT)

    def connect(name, host=board.network_host, ca="ca.der"):
        certificates = STATIONS[name] == Auth.CERTIFICATE
        files = {8: ca} | ({9: "certificate.der", 10: "key.der"} if certificates else {})
        password = home.station(name)["mqtt"]["password"]
        arguments = host, ports[2 if certificates else 1], name, password, files
        return eval(board.exec(f"asyncio.run(go{arguments!r})", timeout_s=300))

    runner = broker.Broker(tmp_path / "broker", port=ports[0])
    runner.run(tmp_path / "etc" / "mosquitto.conf")
    yield board, connect
    runner.stop()


def test_a_pico_w_believes_its_authority_alone(station):
    board, connect = station
    assert "starts in the future" in connect("cp-1")[0]  # its clock was never set
    now = datetime.datetime.now(datetime.UTC)
    clock = *now.timetuple()[:3], 0, *now.timetuple()[3:6], 0
    board.exec(f"import machine; machine.RTC().datetime({clock})")
    assert "does not match" in connect("cp-1", host=ELSEWHERE)[0]
    assert "not correctly signed" in connect("cp-1", ca="other.der")[0]
    for name in STATIONS:
        said, late_ms, heap = connect(name)
        print(f"{board.name}, {STATIONS[name]}: {late_ms} ms at a stretch, {heap} bytes of heap")
        assert said == 0
        # README.md and FORMATS.md say how long a driver waits
        assert 250 < late_ms < 2000 and heap < 50_000
