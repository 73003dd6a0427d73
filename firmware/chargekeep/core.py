# What every use of a station begins with: who it is, its ledger, its clock, and what the operator
# told it. The charger (app.py) adds the rest; the host's tools use it alone, over the REPL, while
# the charger does not run.

from micropython import const

from chargekeep import __version__, errors, forget, identity
from chargekeep.authorization.objects import Objects
from chargekeep.credential import ed25519
from chargekeep.errors import ChargekeepError
from chargekeep.health import Health
from chargekeep.ledger.ring import Ledger
from chargekeep.sealed import SealedStore
from chargekeep.timebase import Timebase

_BOOTS = const(0)  # ledger counters, FORMATS.md section 4
_TIME_FLOOR = const(2)


class Core:
    """`store`, `identity`, `ledger` (mounted), `timebase` and `objects` (to be loaded) of `board`.

    starting: count a boot. Raises SECRET on a board that is no station yet, LEDGER_* where its
    log cannot be used.
    """

    def __init__(self, board, starting=False):
        self.board = board
        self.health = Health()
        self.store = SealedStore(board.storage(), board.secret())
        me = identity.load(self.store)
        if me is None:
            raise ChargekeepError(errors.SECRET, "no station yet")
        self.identity = me
        ed25519.keep_tables(self.store)
        self.timebase = Timebase()
        self.ledger = Ledger(board.ledger_device(), None, self.timebase, self.store)
        self.ledger.mount()
        forget("chargekeep.ledger.mount")
        boot_id = self.ledger.counter(_BOOTS)
        if starting:
            boot_id = self.ledger.start_boot([board.reset_cause(), __version__])
        self.timebase.start(boot_id, self.ledger.counter(_TIME_FLOOR))
        hint = board.time_hint()
        if hint is not None:
            self.timebase.hint(hint)
        self.objects = Objects(
            me.site, me.station, me.root_key, self.store, self.ledger, self.timebase, self.health
        )
