"""The reconciler at work: messages in, database, broker told, signed acknowledgement out.

Order is everything. A message is acknowledged to the broker after the commit that holds it, and
to the station after that, with the key that stations trust for it. A crash anywhere between
costs a repeat, which the cursor recognizes.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chargekeep_tools import wire
from chargekeep_tools.reconcile.project import Projector
from chargekeep_tools.reconcile.store import Log, Store
from chargekeep_tools.reconcile.verify import Batch, Station, Stations, open_batch

log_ = logging.getLogger(__name__)


@dataclass
class Message:
    """What came: `done` tells the broker that it need not keep it."""

    topic: str
    payload: bytes
    done: Callable[[], None] = lambda: None


@dataclass
class Figures:
    """What the reconciler did since it started."""

    batches: Counter[str] = field(default_factory=Counter)  # by outcome
    refused: Counter[int] = field(default_factory=Counter)  # by error code
    slots: int = 0
    records: int = 0
    commits: int = 0
    acknowledgements: int = 0


class Reconciler:
    """Takes groups of messages to the database and answers them. Knows no network.

    publish: `publish(topic, payload)` sends an acknowledgement.
    """

    def __init__(
        self,
        engine: sa.Engine,
        stations: Stations,
        key: Ed25519PrivateKey,
        publish: Callable[[str, bytes], None],
        projector: Projector | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self.store = Store(engine)
        self.stations = stations
        self.key = key
        self.publish = publish
        self.projector = projector or Projector(engine, stations)
        self.clock = clock
        self.figures = Figures()
        self._version = 0

    def take(self, messages: list[Message]) -> None:
        """One commit for all `messages`, then the broker is told, then the stations.

        Raises what the database raises; then nothing was acknowledged.
        """
        opened = [found for message in messages if (found := self._open(message)) is not None]
        heads: dict[int, Log] = {}
        if opened:
            outcomes = self.store.ingest(opened, int(self.clock()))
            self.figures.commits += 1
            for (batch, _), outcome in zip(opened, outcomes, strict=True):
                self.figures.batches[outcome.kind] += 1
                if outcome.kind == "accepted":
                    self.figures.slots += batch.last - batch.first + 1
                if outcome.log.head_seq:
                    heads[outcome.log.id] = outcome.log
        for message in messages:
            message.done()
        for log in heads.values():
            self._acknowledge(log)

    def project(self) -> None:
        """Bring transactions and bills up to what is stored."""
        self.figures.records += self.projector.run()

    def _open(self, message: Message) -> tuple[Batch, Station] | None:
        try:
            _, _, site, name, *_ = message.topic.split("/")
            station = self.stations.get(site, name)
            if station is None:
                raise wire.WireError(wire.COSE_UNKNOWN_KID, f"no station {site}/{name}")
            try:
                return open_batch(message.payload, station), station
            except wire.WireError as error:
                if error.code != wire.COSE_UNKNOWN_KID:
                    raise
                self.stations.refresh()  # commissioned anew since we looked
                station = self.stations.get(site, name) or station
                return open_batch(message.payload, station), station
        except (wire.WireError, ValueError) as error:
            # Not the station's words: nothing to keep, and never an acknowledgement.
            code = error.code if isinstance(error, wire.WireError) else 0
            self.figures.refused[code] += 1
            log_.warning("%s: %s", message.topic, error)
            return None

    def _acknowledge(self, log: Log) -> None:
        now = self.clock()
        self._version = max(self._version + 1, int(now))
        payload = {
            1: self._version,
            2: log.site,
            3: log.station,
            4: int(now),
            10: log.log_id,
            11: log.head_seq,
            12: log.head_link,
        }
        data = wire.seal_sign1(wire.ACKNOWLEDGEMENT, self.key, payload)
        self.publish(wire.topic(log.site, log.station, "down", "ack"), data)
        self.figures.acknowledgements += 1
