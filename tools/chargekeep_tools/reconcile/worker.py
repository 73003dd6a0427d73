"""The reconciler at work: messages in, database, broker told, signed acknowledgement out.

Order is everything. A message is acknowledged to the broker after the commit that holds it, and
to the station after that, with the key that stations trust for it. A crash anywhere between
costs a repeat, which the cursor recognizes.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chargekeep_tools import wire
from chargekeep_tools.reconcile import parking
from chargekeep_tools.reconcile.database import Broken, passes
from chargekeep_tools.reconcile.project import Projector
from chargekeep_tools.reconcile.store import Log, Outcome, Store, reason
from chargekeep_tools.reconcile.verifiers import Part, Verifiers
from chargekeep_tools.reconcile.verify import (
    REVOKED,
    Batch,
    Station,
    Stations,
    open_batch,
    open_batches,
    station_of,
)

_PROCESSES_FROM = 32  # messages

Opened = tuple[Batch, Station]

log_ = logging.getLogger(__name__)


@dataclass
class Message:
    """What came: `done` tells the broker that it need not keep it."""

    topic: str
    payload: bytes
    done: Callable[[], None] = lambda: None


class Group(NamedTuple):
    """Messages as they came and by station; being verified by others, if `parts` says so."""

    messages: list[Message]
    by_station: list[Message]
    parts: list[Part] | None


@dataclass
class Figures:
    """What the reconciler did since it started."""

    batches: Counter[str] = field(default_factory=Counter)  # by outcome
    refused: Counter[int] = field(default_factory=Counter)  # by error code
    slots: int = 0
    records: int = 0
    commits: int = 0
    acknowledgements: int = 0


def _received(messages: list[Message]) -> list[tuple[str, bytes]]:
    return [(message.topic, message.payload) for message in messages]


class Reconciler:
    """Takes groups of messages to the database and answers them. Knows no network.

    publish: `publish(topic, payload)` sends an acknowledgement. verifiers: take on large groups.
    """

    def __init__(
        self,
        engine: sa.Engine,
        stations: Stations,
        key: Ed25519PrivateKey,
        publish: Callable[[str, bytes], None],
        projector: Projector | None = None,
        clock: Callable[[], float] = time.time,
        verifiers: Verifiers | None = None,
    ) -> None:
        self.engine = engine
        self.store = Store(engine)
        self.stations = stations
        self.publish = publish
        self.projector = projector or Projector(engine, stations)
        self.clock = clock
        self.figures = Figures()
        self.verifiers = verifiers
        self._version = 0
        self._sealer = wire.Sealer(wire.ACKNOWLEDGEMENT, key)

    def take(self, messages: list[Message]) -> None:
        """One commit for all `messages`, then the broker is told, then the stations.

        Raises what may pass by itself, as a lost database: then nothing was acknowledged. A batch
        that the database will not take is parked, and stops nobody but its station.
        """
        self.finish(self.begin(messages))

    def begin(self, messages: list[Message]) -> Group:
        """Have `messages` verified while other groups are finished. To finish in this order."""
        # What a station sent in a row is verified together. And where several reconcilers write
        # new logs, they do it in one order, or they lock each other out.
        by_station = sorted(messages, key=attrgetter("topic"))
        parts = None
        if self.verifiers is not None and len(messages) >= _PROCESSES_FROM:
            parts = self.verifiers.begin(_received(by_station))
        return Group(messages, by_station, parts)

    def finish(self, group: Group) -> None:
        """What `take` does, for a group that was begun."""
        heads: dict[int, Log] = {}
        for batch, outcome in self._store(self._open_all(group)):
            self.figures.batches[outcome.kind] += 1
            if outcome.kind == "accepted":
                self.figures.slots += batch.last - batch.first + 1
            if outcome.log.head_seq:
                heads[outcome.log.id] = outcome.log
        for message in group.messages:
            message.done()
        for log in heads.values():
            self._acknowledge(log)

    def project(self, seconds: float | None = None) -> None:
        """Bring transactions and bills up to what is stored, for about `seconds` at most."""
        for _, outcome in parking.take_up(self.store, self.stations, int(self.clock())):
            self._acknowledge(outcome.log)
        self.figures.records += self.projector.run(seconds)

    def _store(self, opened: list[Opened]) -> list[tuple[Batch, Outcome]]:
        """In one commit; if the data of a batch prevents that, in as many as it takes."""
        failed: list[tuple[Batch, Exception]] = []
        done = self._commit(opened, failed)
        if failed and not done:
            try:
                self.store.probe()
            except Exception as error:
                # Nobody gets through: no batch's fault, and not for an operator to work off.
                raise Broken(reason(failed[0][1])) from error
        for batch, error in failed:
            log_.error("%s/%s: parked: %s", batch.site, batch.station, reason(error))
            parking.park(self.engine, batch, error, int(self.clock()))
            self.figures.batches["parked"] += 1
        return done

    def _commit(
        self, opened: list[Opened], failed: list[tuple[Batch, Exception]]
    ) -> list[tuple[Batch, Outcome]]:
        if not opened:
            return []
        try:
            outcomes = self.store.ingest(opened, int(self.clock()))
        except Exception as error:
            if passes(error):
                raise
            if len(opened) > 1:
                half = len(opened) // 2
                return self._commit(opened[:half], failed) + self._commit(opened[half:], failed)
            failed.append((opened[0][0], error))
            return []
        self.figures.commits += 1
        return [(batch, outcome) for (batch, _), outcome in zip(opened, outcomes, strict=True)]

    def _open_all(self, group: Group) -> list[Opened]:
        """What verifies; of each station in the order in which it came."""
        batches: Iterable[Batch | None]
        if group.parts is not None and self.verifiers is not None:
            batches = self.verifiers.end(group.parts)
        else:
            batches = open_batches(_received(group.by_station), self.stations)
        found = map(self._open, group.by_station, batches)
        return [opened for opened in found if opened is not None]

    def _open(self, message: Message, batch: Batch | None) -> Opened | None:
        """The `batch`, if it was verified already, and its station; None for what is refused."""
        try:
            station = station_of(self.stations, message.topic)
            try:
                batch = batch or open_batch(message.payload, station)
            except wire.WireError as error:
                if error.code != wire.COSE_UNKNOWN_KID:
                    raise
                new = self.stations.look_again(station.site, station.station)
                if new is None or new is station:
                    raise
                station = new  # commissioned anew since we looked
                batch = open_batch(message.payload, station)
            if batch.log_id in station.revoked:
                raise wire.WireError(REVOKED, "the station is revoked")
            return batch, station
        except ValueError as error:
            # Not the station's words: nothing to keep, and never an acknowledgement.
            self.figures.refused[getattr(error, "code", 0)] += 1
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
        topic = wire.topic(log.site, log.station, "down", "ack")
        self.publish(topic, self._sealer.seal(payload))
        self.figures.acknowledgements += 1
