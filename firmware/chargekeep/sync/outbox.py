# Sends the ledger up in signed batches from which the host restores each slot byte for byte, and
# frees flash only when the host says, signed, that they are in its database. It promises that a
# lost packet, connection, host or acknowledgement costs a resend and nothing else, and that status
# goes ahead of a backlog. Costs about 3 x max_bytes of heap while it makes a batch.

import asyncio
import hashlib
from time import ticks_diff, ticks_ms

from micropython import const

from chargekeep import cbor, errors
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError
from chargekeep.sync.inbox import BASE

_SITE = const(2)
_STATION = const(3)
_LOG_ID = const(10)
_SEQ = const(11)
_LINK = const(12)
_RUNS = const(13)
_FOLLOWS = const(14)
_BEFORE = const(15)
_ACK_TIMEOUTS = const(8)  # the wait for an acknowledgement doubles up to this factor


class Outbox:
    """Keeps the host's copy of the ledger up to date while the client has a connection.

    ledger: has `log_id`, `acknowledged`, `batch(after_seq, max_bytes, short)` and
        `acknowledge(log_id, seq, link)` of ledger/reader.py and ring.py.
    sign: `await sign(message) -> 64 bytes` of the station's key, whose id is `kid`.
    open_ack: `await open_ack(data) -> (log id, seq, link)` of a verified acknowledgement for
        this station, or raises.
    count: `count(code, detail)` is told of every failure (health.py).
    window: batches on their way at a time; poll_ms: how soon a new record is noticed.
    """

    def __init__(
        self,
        client,
        ledger,
        site,
        station,
        kid,
        sign,
        open_ack,
        count,
        window=4,
        max_bytes=1280,
        poll_ms=1_000,
        ack_timeout_ms=30_000,
    ):
        self.client = client
        self.ledger = ledger
        self.site = site
        self.station = station
        self.kid = kid
        self.sign = sign
        self.open_ack = open_ack
        self.count = count
        self.window = window
        self.max_bytes = max_bytes
        self.poll_ms = poll_ms
        self.ack_timeout_ms = ack_timeout_ms
        self.batches = self.resent = self.acknowledgements = 0
        self._base = base = BASE + site + "/" + station + "/up/"
        partition = hashlib.sha256(station.encode()).digest()[0] % 64
        self.log_topic = base + "log/p%02d" % partition
        self.status_topic = base + "status"
        self.connection_topic = base + "connection"
        self._flight = []  # last seq of each batch sent and not acknowledged
        self._sent = 0  # the same of the newest
        self._before = None  # first half of the newest's SHA-256
        self._progress_at = 0  # ticks
        self._patience = 1
        self._status = self._answer = None
        self._wake = asyncio.Event()

    @property
    def will(self):
        """What the client asks the broker to publish when the connection is lost."""
        return self.connection_topic, b"lost"

    def status(self, payload):
        """Publish `payload` (bytes) as the station's status, ahead of any backlog."""
        self._status = payload
        self._wake.set()

    def answer(self, payload):
        """Publish `payload` (bytes) once, as what the operator asked for; the newest counts."""
        self._answer = payload
        self._wake.set()

    def wake(self):
        """There are new records that should not wait for the next poll."""
        self._wake.set()

    async def run(self):
        while True:
            await self.client.wait_connected()
            try:
                await self._session(self.client.session)
            except ChargekeepError as e:
                self.count(e.code, e.detail)
                await asyncio.sleep_ms(self.poll_ms)

    async def acknowledged(self, data):
        """Handler of `down/ack`: free what the host has committed.

        Raises what `open_ack` does, or LEDGER_ACKNOWLEDGEMENT for another log or another history.
        An old one again is harmless: the cursor only moves on.
        """
        log_id, seq, link = await self.open_ack(data)
        if log_id == self.ledger.log_id and seq <= self.ledger.acknowledged:
            return
        self.ledger.acknowledge(log_id, seq, link)
        self.acknowledgements += 1
        self._flight = [last for last in self._flight if last > seq]
        self._progress_at = ticks_ms()
        self._patience = 1
        self._wake.set()

    async def _session(self, session):
        client = self.client
        self._rewind()
        shown = None
        await client.publish(self.connection_topic, b"online", retain=True)
        while client.connected and client.session == session:
            if self._status is not shown:
                shown = self._status
                await self._tell(self.status_topic, shown, True)
            if self._answer:
                answer = self._answer
                await self._tell(self._base + "diagnosis", answer, False)
                if self._answer is answer:
                    self._answer = None
            if self._flight and self._overdue():
                self.count(errors.SYNC_TIMEOUT, "acknowledgement")
                self._patience = min(2 * self._patience, _ACK_TIMEOUTS)
                self._rewind()
            if len(self._flight) < self.window and await self._send():
                continue
            self._wake.clear()
            try:
                await asyncio.wait_for_ms(self._wake.wait(), self.poll_ms)
            except asyncio.TimeoutError:
                pass  # time to look for new records

    async def _tell(self, topic, payload, retain):
        try:
            await self.client.publish(topic, payload, retain=retain)
        except ChargekeepError as e:
            if e.code != errors.SYNC_TOO_LARGE:
                raise
            self.count(e.code, e.detail)  # and it does not hold up the records

    def _overdue(self):
        waited = ticks_diff(ticks_ms(), self._progress_at)
        return waited > self.ack_timeout_ms * self._patience

    def _rewind(self):
        # Start again from what the host is known to have; it drops what it gets twice.
        self.resent += len(self._flight)
        self._flight = []
        self._sent = self.ledger.acknowledged
        self._before = None

    async def _send(self):
        batch = None
        for found in self.ledger.batch(self._sent, self.max_bytes, True):
            batch = found
            await asyncio.sleep(0)
        if batch is None:
            return False
        first, last, link, runs = batch
        body = {
            _SITE: self.site,
            _STATION: self.station,
            _LOG_ID: self.ledger.log_id,
            _SEQ: first,
            _LINK: link,
            _RUNS: runs,
        }
        if first > self._sent + 1:
            body[_FOLLOWS] = self._sent  # what is between is gone here: do not wait for it
        if self._before:
            body[_BEFORE] = self._before
        body = cbor.dumps(body)
        batch = found = runs = None  # memory is short while it is signed
        digest = hashlib.sha256(body).digest()
        payload = cbor.dumps(digest)
        head = await cose.seal_sign1_async(cose.LEDGER_BATCH, self.kid, payload, self.sign)
        self._before = digest[:16]
        if not self._flight:
            self._progress_at = ticks_ms()
        self._flight.append(last)
        self._sent = last
        await self.client.publish(self.log_topic, head, more=body)
        self.batches += 1
        return True
