# A station's ledger and sync, without the rest of the firmware: run by test_mqtt.py and the bench
# in a MicroPython VM. Takes its settings from a JSON file, argv[1], and prints events as JSON.

import asyncio
import json
import sys
import time
from binascii import unhexlify

from nor import NorFile

from chargekeep import cbor
from chargekeep.credential import cose, ed25519
from chargekeep.ledger.ring import Ledger
from chargekeep.sync import transport
from chargekeep.sync.inbox import Inbox
from chargekeep.sync.mqtt import MqttClient
from chargekeep.sync.outbox import Outbox

with open(sys.argv[1]) as f:  # an argument of more than 255 bytes crashes the VM
    settings = json.load(f)
SITE, STATION = settings["site"], settings["station"]


def say(**event):
    print(json.dumps(event))


class Clock:
    def stamp(self):
        return [1_800_000_000, 3, 1, time.ticks_ms() // 1000]


def read(path):
    with open(path, "rb") as f:
        return f.read()


def count(code, detail=""):
    say(error=code, detail=str(detail))


def open_ledger():
    device = NorFile(settings["flash"], settings.get("blocks", 64))
    seal = unhexlify(settings["seal_key"])
    ledger = Ledger(device, seal, Clock())
    if settings.get("format"):
        Ledger.format(device, unhexlify(settings["log_id"]), seal)
    ledger.mount()
    for i in range(settings.get("records", 0)):
        ledger.append(5, [i, 7000])
    ledger.append(1, [1, "0.1.0"])
    return ledger


def own_us():
    # What passes while this process waits for a processor is not the network's doing.
    try:
        with open("/proc/self/schedstat") as f:
            waited_ns = int(f.read().split()[1])
    except OSError:
        waited_ns = 0
    return time.ticks_us() - waited_ns // 1000


async def pace():
    """Say how late the scheduler wakes a task at worst, as it would the driver's, in ms."""
    worst = 0
    while True:
        before = own_us()
        await asyncio.sleep_ms(20)
        late = (own_us() - before) // 1000 - 20
        if late > worst:
            worst = late
            say(late=late)


def use_name_server(port):
    resolve = transport.resolve
    transport.resolve = lambda name, server, timeout_ms: resolve(name, server, timeout_ms, port)
    return lambda: "127.0.0.1"


async def main():
    ledger = open_ledger()
    seed = unhexlify(settings["seed"])
    issuer = ed25519.prepare(unhexlify(settings["issuer"]))

    def sign(message):
        return ed25519.sign_async(seed, message)

    async def open_ack(data):
        payload = await cose.open_sign1_async(data, cose.ACKNOWLEDGEMENT, lambda kid, kind: issuer)
        body = cbor.loads(payload)
        return body[10], body[11], body[12]

    files = {8: "ca", 9: "certificate", 10: "key"}
    tls = {n: read(settings[name]) for n, name in files.items() if name in settings}
    tls |= {12: True} if settings.get("prompt") else {}
    if "psk" in settings:
        identity, key = settings["psk"]
        tls = {5: identity, 11: unhexlify(key)}
    dns = use_name_server(settings["dns"]) if "dns" in settings else None
    host = settings.get("host", "127.0.0.1")
    opener = transport.Transport(host, settings["port"], tls or None, dns)

    base = "chargekeep/1/%s/%s/up/connection" % (SITE, STATION)
    client = MqttClient(
        opener.open,
        STATION,
        count,
        user=STATION,
        password=settings["password"],
        will=(base, b"lost"),
        keepalive=settings.get("keepalive", 10),
        timeout_ms=settings.get("timeout_ms", 2000),
        backoff_ms=(50, 500),
    )
    kid = unhexlify(settings["kid"])
    outbox = Outbox(
        client,
        ledger,
        SITE,
        STATION,
        kid,
        sign,
        open_ack,
        count,
        poll_ms=200,
        ack_timeout_ms=settings.get("ack_timeout_ms", 2000),
    )

    async def tariff(payload):
        say(tariff=len(payload))

    inbox = Inbox(client, SITE, STATION, {"ack": outbox.acknowledged, "tariff": tariff}, count)
    await inbox.start()
    outbox.status(b'{"state":"online"}')
    tasks = [asyncio.create_task(job) for job in (client.run(), outbox.run(), pace())]
    began = time.ticks_ms()
    say(ready=ledger.head[0], backlog=ledger.backlog)
    session = slots = connected = 0
    while True:
        if client.session != session:
            session = client.session
            say(session=session)
        if client.connected and not connected:
            connected = 1
            say(connected=connected)
        if ledger.acknowledged != slots:
            slots = ledger.acknowledged
            ms = time.ticks_diff(time.ticks_ms(), began)
            say(acknowledged=slots, ms=ms, batches=outbox.batches, resent=outbox.resent)
        await asyncio.sleep_ms(20)
    return tasks


asyncio.run(main())
