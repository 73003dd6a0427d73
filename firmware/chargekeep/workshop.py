# The parts of a station that the host's tools use over the REPL while the charger does not run:
# who it is, its ledger, and what the operator told it.

import asyncio

from chargekeep import errors, identity
from chargekeep.authorization.objects import Objects
from chargekeep.errors import ChargekeepError
from chargekeep.health import Health
from chargekeep.ledger.ring import Ledger
from chargekeep.store import Store
from chargekeep.timebase import Timebase


class Workshop:
    """`identity`, `ledger` (mounted), `timebase`, `objects` (loaded) of the station `board` is.

    Raises SECRET on a board that is no station yet, LEDGER_* where its log cannot be used.
    """

    def __init__(self, board):
        self.board = board
        store = Store(board.storage())
        here = self.identity = identity.load(store)
        if here is None:
            raise ChargekeepError(errors.SECRET, "no station yet")
        timebase = self.timebase = Timebase()
        ledger = self.ledger = Ledger(board.ledger_device(), None, timebase, store)
        ledger.mount()
        timebase.start(ledger.counter(0), ledger.counter(2))
        hint = board.time_hint()
        if hint is not None:
            timebase.hint(hint)
        self.health = Health()
        self.objects = Objects(
            here.site, here.station, here.root_key, store, ledger, timebase, self.health
        )
        asyncio.run(self.objects.load())
