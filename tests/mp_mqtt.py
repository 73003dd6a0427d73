# The client against a broker whose every byte is the test's (a real broker: test_mqtt.py).
import asyncio
import random

from mqtt_broker import Broker, Counts, accept, publish, split_publish, until

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.sync.mqtt import MqttClient


def client_of(broker, **options):
    options.setdefault("backoff_ms", (20, 40))
    options.setdefault("timeout_ms", 300)
    return MqttClient(broker.open, "s1", Counts(), **options)


async def started(broker, **options):
    client = client_of(broker, **options)
    task = asyncio.create_task(client.run())
    await asyncio.wait_for_ms(client.wait_connected(), 2000)
    return client, task


async def published(client, topic, payload, **how):
    """Publish, and until the PUBACK."""
    session = client.session
    await client.publish(topic, payload, **how)
    while client._pending:
        await client._changed(session)


async def refused(awaitable, code):
    try:
        await awaitable
    except ChargekeepError as e:
        assert e.code == code, e
        return
    raise AssertionError("did not raise")


async def test_connect_carries_identity_and_will():
    broker = Broker()
    await started(broker, user="u", password="pw", will=("t/c", b"lost"), keepalive=30)
    packet = broker.received[0]
    assert packet == (
        b"\x10\x20\x00\x04MQTT\x04\xee\x00\x1e\x00\x02s1\x00\x03t/c\x00\x04lost\x00\x01u\x00\x02pw"
    ), packet


async def test_publish_is_one_write_and_in_flight_until_its_puback():
    held = []

    def script(link, data):
        if data[0] & 0xF0 == 0x30:
            held.append(split_publish(data))
            return None
        return accept(link, data)

    broker = Broker(script)
    client, _ = await started(broker, timeout_ms=5000)
    task = asyncio.create_task(published(client, "a/b", b"x" * 2000, retain=True))
    await until(lambda: held)
    header, topic, packet_id, payload = held[0]
    assert (header, topic, payload) == (0x33, "a/b", b"x" * 2000)
    await asyncio.sleep_ms(30)
    assert not task.done()
    broker.links[0].feed(b"\x40\x02\xff\xff")  # another packet's
    await asyncio.sleep_ms(30)
    assert not task.done()
    broker.links[0].feed(b"\x40\x02" + packet_id)
    await asyncio.wait_for_ms(task, 1000)
    assert len(broker.links[0].writes) == 2


async def test_window_bounds_what_is_unacknowledged():
    ids = []

    def script(link, data):
        if data[0] & 0xF0 == 0x30:
            ids.append(split_publish(data)[2])
            return None
        return accept(link, data)

    broker = Broker(script)
    client, _ = await started(broker, timeout_ms=5000, window=3)

    async def send():
        for _ in range(5):
            await client.publish("t", b"")

    task = asyncio.create_task(send())
    await until(lambda: len(ids) == 3)
    await asyncio.sleep_ms(50)
    assert len(ids) == 3
    broker.links[0].feed(b"\x40\x02" + ids[1])
    await until(lambda: len(ids) == 4)
    task.cancel()


async def test_packet_ids_wrap_and_skip_those_in_use():
    broker = Broker()
    client, _ = await started(broker)
    client._packet_id = 65534
    client._pending.add(1)
    for _ in range(2):
        await client.publish("t", b"1")
    ids = [split_publish(p)[2] for p in broker.received if p[0] & 0xF0 == 0x30]
    assert ids == [b"\xff\xff", b"\x00\x02"], ids


async def test_many_publishes_do_not_grow_the_heap():
    import gc

    broker = Broker()
    client, _ = await started(broker)
    payload = bytes(2000)
    for i in range(60):
        if i == 10:
            gc.collect()
            used = gc.mem_alloc()
        await published(client, "t", payload)
        broker.received.clear()
        broker.links[0].writes.clear()
    gc.collect()
    assert gc.mem_alloc() - used < 1000, gc.mem_alloc() - used


async def test_messages_arrive_in_pieces_of_any_size():
    for chunk in (1, 3, 7, 1 << 20):
        broker = Broker(chunk=chunk)
        got = []

        async def take(topic, payload, got=got):
            got.append((topic, bytes(payload)))

        client, task = await started(broker, on_message=take, receive=256)
        want = [("t/%d" % i, bytes([i]) * (i * 9 % 200)) for i in range(40)]
        broker.links[0].feed(b"".join([publish(t, p, i + 1) for i, (t, p) in enumerate(want)]))
        await until(lambda got=got: len(got) == 40)
        assert got == want
        await until(lambda broker=broker: broker.received[-1] == b"\x40\x02\x00\x28")
        assert client.session == 1
        task.cancel()


async def test_too_large_message_is_skipped_acknowledged_and_counted():
    broker = Broker(chunk=100)
    got = []

    async def take(topic, payload):
        got.append(bytes(payload))

    client, _ = await started(broker, on_message=take, receive=512)
    big = publish("big", b"z" * 3000, 9)
    broker.links[0].feed(publish("a", b"1", 8) + big + publish("a", b"2", 10))
    await until(lambda: len(got) == 2)
    assert got == [b"1", b"2"] and client.session == 1
    assert client.count.errors == {errors.SYNC_TOO_LARGE: 1}
    assert b"\x40\x02\x00\x09" in broker.received


async def test_too_large_packet_out_is_refused():
    broker = Broker()
    client, _ = await started(broker, send=128)
    await refused(published(client, "t", bytes(200)), errors.SYNC_TOO_LARGE)
    await published(client, "t", bytes(100))
    assert client.session == 1


async def test_subscriptions_are_renewed_on_every_connection():
    broker = Broker()
    client, _ = await started(broker)
    await client.subscribe("a/+")
    await client.subscribe("b")
    await client.unsubscribe("b")
    broker.links[0].end()
    await until(lambda: client.session == 2 and client.connected)
    await until(lambda: len(broker.links[1].writes) == 2)
    assert broker.links[1].writes[1][4:] == b"\x00\x03a/+\x01"


async def test_denied_subscription_is_counted():
    def script(link, data):
        if data[0] == 0x82:
            return b"\x90\x03" + data[2:4] + b"\x80"
        return accept(link, data)

    client, _ = await started(Broker(script))
    await client.subscribe("forbidden")
    await until(lambda: client.count.errors.get(errors.SYNC_REFUSED) == 1)
    assert client.connected


async def test_garbage_from_the_broker_is_counted_and_survived():
    for garbage in (
        b"\xff\xff\xff\xff\xff\xff",
        b"\x30\xff\xff\xff\xff\x01",
        b"\x00\x00",
        b"\x32\x02\xff\xff",  # topic longer than the packet
        b"\x36\x05\x00\x01t\x00\x01",  # QoS 3
        b"\x34\x05\x00\x01t\x00\x01",  # QoS 2, which nobody asked for
        b"\x32\x05\x00\x01t\x00\x00",  # packet id 0, 2.3.1
        b"\x41\x02\x00\x01",  # reserved flags, 2.2.2
        b"\xd0\x01\x00",
        b"\xc0\x00",  # a client's packet
        b"\x32\x05\x00\x01\xff\x00\x01",  # topic is not UTF-8
        b"\x20\x02\x00\x00",  # a second CONNACK
        b"\x40\x03\x00\x00\x00",
        b"\x90\xff\x01" + bytes(255),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ):
        broker = Broker()
        client, task = await started(broker)
        broker.links[0].feed(garbage)
        await until(lambda client=client: client.session == 2 and client.connected)
        assert client.count.errors == {errors.SYNC_PROTOCOL: 1}, (garbage, client.count.errors)
        await published(client, "t", b"")
        task.cancel()


async def test_random_bytes_never_raise():
    random.seed(1)
    for _ in range(40):
        noise = bytes([random.getrandbits(8) for _ in range(random.getrandbits(6))])
        broker = Broker()
        client, task = await started(broker, timeout_ms=60, backoff_ms=(1, 2))
        broker.links[0].feed(noise)
        await asyncio.sleep_ms(1)
        broker.links[0].end()
        await until(lambda client=client: client.session >= 2 and client.connected)
        task.cancel()
        assert errors.UNEXPECTED not in client.count.errors, client.count.details


async def test_refused_and_silent_brokers():
    for answer, code in ((b"\x20\x02\x00\x05", errors.SYNC_REFUSED), (None, errors.SYNC_TIMEOUT)):
        broker = Broker(lambda link, data, answer=answer: answer)
        client = client_of(broker, timeout_ms=100)
        task = asyncio.create_task(client.run())
        await until(lambda client=client, code=code: client.count.errors.get(code, 0) >= 2)
        await refused(published(client, "t", b""), errors.SYNC_CLOSED)
        task.cancel()


async def test_connection_that_cannot_be_opened():
    async def fail():
        raise OSError(111)

    async def hang():
        await asyncio.sleep_ms(60_000)

    for open_connection, code in ((fail, errors.SYNC_CONNECT), (hang, errors.SYNC_TIMEOUT)):
        client = client_of(Broker(), timeout_ms=50)
        client.open_connection = open_connection
        task = asyncio.create_task(client.run())
        await until(lambda client=client, code=code: client.count.errors.get(code, 0) >= 2)
        task.cancel()


async def test_drop_in_mid_publish_raises_and_reconnects():
    def script(link, data):
        if data[0] & 0xF0 == 0x30 and link.number == 0:
            link.end()
            return None
        return accept(link, data)

    client, _ = await started(Broker(script))
    await refused(published(client, "t", b"1"), errors.SYNC_CLOSED)
    await client.wait_connected()
    await published(client, "t", b"1")
    assert client.count.errors == {errors.SYNC_CLOSED: 1}


async def test_half_a_packet_times_out():
    broker = Broker()
    client, _ = await started(broker, keepalive=1, timeout_ms=200)
    broker.links[0].feed(publish("t", b"x" * 50)[:20])
    await until(lambda: client.count.errors.get(errors.SYNC_TIMEOUT))
    await until(lambda: client.session == 2 and client.connected)


async def test_missing_puback_times_out():
    def script(link, data):
        return None if data[0] & 0xF0 == 0x30 else accept(link, data)

    client, _ = await started(Broker(script), timeout_ms=200)
    await refused(published(client, "t", b"1"), errors.SYNC_CLOSED)
    assert client.count.errors == {errors.SYNC_TIMEOUT: 1}


async def test_shut_window_times_out_and_frees_the_writer():
    broker = Broker()
    client, _ = await started(broker, timeout_ms=200)
    broker.links[0].stuck = True
    await refused(published(client, "t", b"1"), errors.SYNC_CLOSED)
    assert client.count.errors == {errors.SYNC_TIMEOUT: 1}
    await client.wait_connected()
    await published(client, "t", b"2")


async def test_quiet_connection_is_kept_alive():
    broker = Broker()
    client, _ = await started(broker, keepalive=1)
    await asyncio.sleep_ms(1800)
    assert broker.received.count(b"\xc0\x00") in (2, 3), broker.received
    assert client.session == 1 and client.connected


async def test_missing_pingresp_ends_the_connection():
    def script(link, data):
        if data == b"\xc0\x00":
            return None
        return accept(link, data)

    client, _ = await started(Broker(script), keepalive=1, timeout_ms=200)
    await until(lambda: client.session == 2)
    assert client.count.errors == {errors.SYNC_TIMEOUT: 1}


async def test_keep_alive_counts_from_the_last_packet_sent():
    # 3.1.2.10: a station that only listens must ask, one that speaks need not.
    broker = Broker()
    client, _ = await started(broker, keepalive=2)
    for _ in range(12):
        await published(client, "t", b"")
        await asyncio.sleep_ms(100)
    assert b"\xc0\x00" not in broker.received
    for _ in range(16):
        broker.links[0].feed(publish("t", b"", qos=0))
        await asyncio.sleep_ms(100)
    assert b"\xc0\x00" in broker.received


async def test_each_delivery_is_handled_and_acknowledged():
    seen = []

    async def take(topic, payload):
        seen.append(bytes(payload))

    broker = Broker()
    await started(broker, on_message=take)
    again = bytearray(publish("t", b"one", packet_id=9))
    again[0] |= 8  # DUP, 3.3.1.1: no reason to drop it, handlers are idempotent
    retained = bytearray(publish("t", b"two", packet_id=300))
    retained[0] |= 1
    for packet in (publish("t", b"one", packet_id=9), again, publish("t", b"0", qos=0), retained):
        broker.links[0].feed(bytes(packet))
    await until(lambda: len(seen) == 4 and len(broker.received) == 4)
    assert seen == [b"one", b"one", b"0", b"two"]
    assert broker.received[1:] == [b"\x40\x02\x00\x09"] * 2 + [b"\x40\x02\x01\x2c"]


async def test_slow_handler_is_not_a_timeout():
    broker = Broker()

    async def slow(topic, payload):
        await asyncio.sleep_ms(600)

    client, _ = await started(broker, on_message=slow, keepalive=1, timeout_ms=200)
    broker.links[0].feed(publish("t", b"x") + publish("t", b"y"))
    await asyncio.sleep_ms(1400)
    assert client.session == 1 and not client.count.errors, client.count.errors


async def test_failing_handler_costs_the_connection_not_the_client():
    async def broken(topic, payload):
        raise KeyError("bug")

    broker = Broker()
    client, _ = await started(broker, on_message=broken)
    broker.links[0].feed(publish("t", b"x"))
    await until(lambda: client.session == 2 and client.connected)
    assert client.count.errors == {errors.UNEXPECTED: 1}


async def back_offs(count, backoff_ms, work_ms=0):
    """The times in ms between `count` + 1 connections that all fail, each after `work_ms`."""
    from time import ticks_diff, ticks_ms

    times = []

    async def fail():
        times.append(ticks_ms())
        await asyncio.sleep_ms(work_ms)
        raise OSError(111)

    client = client_of(Broker(), backoff_ms=backoff_ms)
    client.open_connection = fail
    task = asyncio.create_task(client.run())
    await until(lambda: len(times) == count + 1)
    task.cancel()
    return [ticks_diff(times[i + 1], times[i]) for i in range(count)]


async def test_back_off_doubles_with_jitter_up_to_its_limit():
    gaps = await back_offs(7, (20, 160))
    for i, gap in enumerate(gaps):
        mean = min(20 << i, 160)
        assert mean // 2 <= gap <= mean * 3 // 2 + 30, gaps


async def test_back_off_grows_however_long_a_handshake_takes_to_fail():
    gaps = await back_offs(5, (10, 160), work_ms=50)
    assert gaps[-1] >= 50 + 80, gaps


async def test_back_off_is_spread_so_that_a_fleet_does_not_come_in_step():
    random.seed(1)
    gaps = await back_offs(12, (80, 80))
    assert min(gaps) < 72 and max(gaps) > 88, gaps


async def test_cancelled_publisher_leaves_the_buffer_whole():
    broker = Broker()
    client, _ = await started(broker)
    broker.links[0].stuck = True
    task = asyncio.create_task(client.publish("t", b"1" * 50))
    await asyncio.sleep_ms(20)
    task.cancel()
    second = asyncio.create_task(client.publish("t", b"2" * 50))
    await asyncio.sleep_ms(20)
    broker.links[0].stuck = False
    await asyncio.wait_for_ms(second, 1000)
    payloads = [split_publish(p)[3] for p in broker.received if p[0] & 0xF0 == 0x30]
    assert payloads == [b"1" * 50, b"2" * 50], payloads
