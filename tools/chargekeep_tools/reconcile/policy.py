"""What is done where offline reality and the books disagree: one rule a row, named by its flag.

A flag is on the transaction and on its bill. `raises`: an operator is asked as well, and with
`blocks` there is no bill before the answer. `chargekeep reconcile policy` prints this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Stopped reasons of OCPP 2.0.1, as FORMATS.md section 4 encodes them
_DEAUTHORIZED, _ENERGY_LIMIT, _POWER_LOSS, _TIME_LIMIT = 1, 3, 9, 15


@dataclass(frozen=True)
class Rule:
    flag: str
    conflict: str
    policy: str
    raises: bool = False
    blocks: bool = False


RULES = (
    Rule(
        "token_limit",
        "the entitlement ends while it is in use",
        "the station stops at the limit the token states; energy up to then is billed",
    ),
    Rule(
        "over_limit",
        "more energy was metered than the token allowed",
        "what was metered is billed; an operator looks at the station",
        raises=True,
    ),
    Rule(
        "deauthorized",
        "the token was revoked after an offline start",
        "energy up to the station's stop (StopTxOnInvalidId, MaxEnergyOnInvalidId) is billed",
    ),
    Rule(
        "resumed",
        "the station restarted during the transaction",
        "one transaction, billed from its first to its last register",
    ),
    Rule(
        "power_loss",
        "the station could not resume after a restart",
        "billed to the true register that was read after it",
    ),
    Rule(
        "tariff_superseded",
        "a newer tariff was in force at the start, but not at the station",
        "the version frozen at the start is billed; the difference is flagged",
    ),
    Rule(
        "unknown_token",
        "a transaction names a token that was not issued here, nor by an issuer elsewhere whom a"
        " trust list of the site vouched for at the time",
        "recorded and blocked; billed once an operator has resolved the exception",
        raises=True,
        blocks=True,
    ),
    Rule(
        "unknown_tariff",
        "a transaction names a tariff that was never signed here",
        "blocked; billed once the tariff is known",
        raises=True,
        blocks=True,
    ),
    Rule(
        "clock_corrected",
        "the clock was set during the transaction",
        "both times are kept; order comes from seq and duration from the uptime",
    ),
    Rule(
        "time_unknown",
        "the station did not know the time at the start",
        "the start is estimated from a later record of the same boot; nothing is rewritten",
    ),
    Rule(
        "duration_unknown",
        "neither uptime nor clock spans the transaction",
        "time is not billed, energy is",
    ),
    Rule(
        "meter_segment",
        "the meter was reset or exchanged during the transaction",
        "the Wh of both parts are added",
    ),
    Rule(
        "no_register",
        "the meter was never read at the start or the end",
        "blocked; there is no energy to bill",
        raises=True,
        blocks=True,
    ),
    Rule(
        "register_decreased",
        "the register at the end is below the one at the start",
        "blocked; no energy is invented",
        raises=True,
        blocks=True,
    ),
    Rule(
        "double_energy",
        "the metered Wh range overlaps one that was billed",
        "blocked; no Wh is billed twice",
        raises=True,
        blocks=True,
    ),
    Rule(
        "unterminated",
        "another transaction began on the EVSE before this one ended",
        "no bill until its end arrives; an operator looks at the gap",
        raises=True,
    ),
    Rule(
        "late",
        "a record of a transaction arrives after its bill was made",
        "an adjustment entry has the difference; the bill is never edited",
        raises=True,
    ),
    Rule(
        "unknown_record",
        "a record of a type that this version does not know (newer firmware)",
        "acknowledged and kept as it is until a version that knows it; never dropped",
        raises=True,
    ),
    Rule(
        "unreadable",
        "a record that verifies but cannot be read",
        "acknowledged and kept as it is; never dropped",
        raises=True,
    ),
    Rule(
        "lost",
        "slots that the station itself no longer has (damage, thinning)",
        "the station declares them, signed; acknowledged across, listed for an operator",
        raises=True,
    ),
    Rule(
        "bad_head",
        "a signed head that is not signed by the station, or is another than the chain has there",
        "the records stand as the chain and the batch's signature prove them, and are billed; an"
        " operator looks at the station",
        raises=True,
    ),
    Rule(
        "evidence_mismatch",
        "what a station signed about a transaction is not what its records say, or not signed by"
        " the station",
        "billed as the records say, which the chain and the batch's signature prove; an operator"
        " looks at the station",
        raises=True,
    ),
    Rule(
        "fork",
        "a batch contradicts the history (restored flash, two stations with one identity)",
        "quarantined and never acknowledged; the history before it stands",
        raises=True,
    ),
    Rule(
        "unknown_log",
        "a log that provisioning knows nothing of",
        "quarantined and never acknowledged",
        raises=True,
    ),
    Rule(
        "no_seal_key",
        "the log's seal key is not in the home directory, so its chain cannot be checked",
        "quarantined and never acknowledged; accepted when it comes again after the key is there",
        raises=True,
    ),
    Rule(
        "parked",
        "a batch that verifies but that the database will not take (constraint, value, bug)",
        "kept as it came and never acknowledged: its station waits, nobody else does; tried again"
        " once an operator has resolved the exception, or by `reconcile retry`",
        raises=True,
    ),
    Rule(
        "unprojected",
        "stored records of a log that cannot be made transactions and bills (constraint, bug)",
        "acknowledged and kept; that log's bills wait, nobody else's do; tried again once an"
        " operator has resolved the exception, or by `reconcile retry`",
        raises=True,
    ),
)
BY_FLAG = {rule.flag: rule for rule in RULES}


def flags(
    row: Mapping[str, Any], energy_wh: int, clock_sets: int, segments: int, newer_tariff: bool
) -> list[str]:
    """The flags of a finished transaction that neither raise before it is priced nor block it.

    clock_sets, segments: records of these kinds between its start and its end.
    """
    reason = row["stopped_reason"]
    same_boot = row["started_boot"] == row["ended_boot"]
    limited = row["max_wh"] or 0
    found = {
        "token_limit": reason in (_ENERGY_LIMIT, _TIME_LIMIT),
        "over_limit": 0 < limited < energy_wh,
        "deauthorized": reason == _DEAUTHORIZED,
        "power_loss": reason == _POWER_LOSS,
        "resumed": not same_boot and reason != _POWER_LOSS,
        "tariff_superseded": newer_tariff,
        "clock_corrected": clock_sets > 0,
        "time_unknown": row["started_time"] is None,
        "duration_unknown": duration(row) is None,
        "meter_segment": segments > 0,
    }
    return [flag for flag, holds in found.items() if holds]


def duration(row: Mapping[str, Any]) -> int | None:
    """Seconds that it took: by the uptime of one boot, else by the clock, else unknown."""
    if row["started_boot"] == row["ended_boot"]:
        return row["ended_uptime"] - row["started_uptime"]
    if row["started_time"] is not None and row["ended_time"] is not None:
        return max(0, row["ended_time"] - row["started_time"])
    return None
