# The operator's settings of a station: the signed configuration object is a map of the numbers
# below to values. A setting that is not named has its default; an unknown one or a value out of
# range refuses the whole object. Names are OCPP 2.0.1's where it has one, in this language's
# spelling.

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_BOOL = const(-1)  # in place of a highest value: true or false
_POLICIES = const(16)
_MAX_POLICIES = const(32)

# Five fields a setting: number, name, default, lowest, highest (one flat tuple: a row of its own
# would cost each 16 bytes more)
_FIELDS = const(5)
# fmt: off
_SETTINGS = (
    # OCPP OfflineTxForUnknownIdEnabled: charge on an IdToken that no list knows
    1, "offline_tx_for_unknown_id", False, 0, _BOOL,
    # ... up to this energy, Wh; 0: no cap
    2, "unknown_id_max_wh", 10000, 0, 10**9,
    # minutes that local time is ahead of UTC, for the windows of entitlements
    3, "utc_offset_min", 0, -840, 840,
    # OCPP StopTxOnInvalidId and MaxEnergyOnInvalidId (Wh, 0: none more): what becomes of a running
    # transaction whose IdToken or token is revoked
    4, "stop_tx_on_invalid_id", True, 0, _BOOL,
    5, "max_energy_on_invalid_id_wh", 0, 0, 10**9,
    # take the UID of a card for an IdToken; anyone can copy one, hence the cap (Wh)
    6, "bare_uid", False, 0, _BOOL,
    7, "bare_uid_max_wh", 10000, 0, 10**9,
    # entitlements that may be valid while no clock has been set since boot
    8, "accept_uncertain_time", True, 0, _BOOL,
    # seconds for which an allowlist is good after it was issued; then charging on it is refused,
    # or, where this is true, capped (Wh)
    9, "offline_grace_s", 7 * 86400, 0, 10**9,
    10, "stale_list_accepted", False, 0, _BOOL,
    11, "stale_list_max_wh", 10000, 0, 10**9,
    # limits of every transaction; 0: none
    12, "max_wh", 0, 0, 10**9,
    13, "max_s", 0, 0, 10**9,
    14, "max_w", 0, 0, 10**6,
    # OCPP EVConnectionTimeOut: seconds from authorization to the cable or to current flowing
    15, "ev_connection_timeout_s", 120, 10, 86400,
    # rows [max Wh, max s, max W, tariff id] that the entries of an allowlist refer to by index
    _POLICIES, "policies", [[0, 0, 0, 0]], 1, _MAX_POLICIES,
    # OCPP AlignedDataInterval, seconds; 0: off
    17, "aligned_data_interval_s", 900, 0, 86400,
    # longest outage, in seconds of known time, after which a transaction is resumed
    19, "resume_s", 3600, 0, 86400,
    # seconds between two status messages that say the same
    21, "status_interval_s", 300, 10, 86400,
    # seconds of missing meter samples until the permission to charge is withdrawn
    22, "meter_stale_s", 60, 5, 86400,
    # power in W below which the EV is taken not to charge
    23, "charging_threshold_w", 50, 0, 10**6,
    # seconds without charging until a transaction ends; 0: never
    24, "idle_timeout_s", 0, 0, 10**6,
    # highest power that the installation can draw, W: what the meter reads beyond it is no sample
    25, "plausible_max_w", 43700, 100, 10**6,
)
# fmt: on


def rows():
    """Each setting as (number, name, default, lowest, highest)."""
    for i in range(0, len(_SETTINGS), _FIELDS):
        yield _SETTINGS[i : i + _FIELDS]


class Config:
    """Attributes by the names above. `settings`: map of number to value as decoded.

    Raises CONFIG with the number of the setting at fault.
    """

    def __init__(self, settings=None, version=0):
        self.version = version
        settings = {} if settings is None else settings
        if type(settings) is not dict:
            raise ChargekeepError(errors.CONFIG, "no map")
        known = 0
        for number, name, default, low, high in rows():
            known += number in settings
            value = settings.get(number, default)
            if not _valid(value, number, low, high):
                raise ChargekeepError(errors.CONFIG, "setting %d" % number)
            setattr(self, name, value)
        if known != len(settings):
            raise ChargekeepError(errors.CONFIG, "unknown setting")

    def __getattr__(self, name):
        # Only what no setting is called gets here
        raise AttributeError(name)


def _valid(value, number, low, high):
    if number == _POLICIES:
        return (
            type(value) is list
            and low <= len(value) <= high
            and all(type(row) is list and len(row) == 4 for row in value)
            and all(type(item) is int and 0 <= item <= 10**9 for row in value for item in row)
        )
    if high == _BOOL:
        return type(value) is bool
    return type(value) is int and low <= value <= high
