"""A reconciler for tests, without a broker."""

import sqlalchemy as sa
from charger import make_home

from chargekeep_tools import keys, wire
from chargekeep_tools.reconcile import cli
from chargekeep_tools.reconcile.database import connect
from chargekeep_tools.reconcile.exceptions import conditions
from chargekeep_tools.reconcile.schema import exceptions, metadata
from chargekeep_tools.reconcile.store import Store
from chargekeep_tools.reconcile.worker import Message


class Host:
    """A reconciler whose acknowledgements go straight to the stations."""

    def __init__(self, folder, url=None, home=None):
        self.home = home or make_home(folder / "home")
        self.url = url or f"sqlite:///{folder / 'reconcile.db'}"
        self.chargers = {}
        self.events = []
        self.deaf = False  # acknowledgements get lost
        self.issued = lambda cti: True
        self.restart()

    def restart(self):
        self.engine = connect(self.url)
        self.reconciler = cli.reconciler_for(self.home, self.engine, None, self.publish)
        books = self.reconciler.projector.knows.books
        books.issued = lambda site, cti, kid, at: self.issued(cti)

    def empty(self):
        """Forget everything that was stored."""
        with self.engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        self.reconciler.store = Store(self.engine)

    def add(self, charger):
        self.home.save_station(charger.record())
        self.chargers[charger.name] = charger
        self.reconciler.stations.refresh()
        return charger

    def publish(self, topic, data):
        self.events.append("ack")
        charger = self.chargers.get(topic.split("/")[3])
        if charger and not self.deaf:
            charger.acknowledge(
                wire.open_sign1(data, wire.ACKNOWLEDGEMENT, keys.key_for(self.home))
            )

    def give(self, charger, *batches):
        done = []
        messages = [Message(charger.log_topic, data, lambda: done.append(1)) for data in batches]
        self.reconciler.take(messages)
        self.reconciler.project()
        return len(done)

    def reconcile(self, charger):
        """All that `charger` has to send; the bills then."""
        self.give(charger, *charger.batches())
        return cli.list_bills(self.engine)

    def rows(self, table):
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.select(table)).mappings()]

    def bills(self):
        return [
            (b["station"], b["tx"], b["register_from"], b["register_to"], b["total"])
            for b in cli.list_bills(self.engine)
        ]

    def kinds(self):
        return sorted(row["kind"] for row in self.rows(exceptions))

    def resolve(self, *where):
        with self.engine.begin() as connection:
            connection.execute(
                exceptions.update().where(*conditions(list(where))).values(resolved=1)
            )
