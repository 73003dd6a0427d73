# The right to charge that a driver carries: CWT claims (RFC 8392) of a fixed shape, FORMATS.md
# section 2. Parsed strictly: a claim too many, a limit out of range or bytes in another order make
# it no entitlement. What it allows is checked here too, against time, place and window.

from micropython import const

from chargekeep import cbor, errors
from chargekeep.authorization import form
from chargekeep.errors import ChargekeepError

_ISS = const(1)  # RFC 8392 section 4
_SUB = const(2)
_AUD = const(3)
_EXP = const(4)
_NBF = const(5)
_CTI = const(7)
_LIMITS = const(-65537)
_FORM = errors.TOKEN_FORM

_AUDIENCE = const(65)  # site, slash, station
_ID_TOKEN = const(36)  # OCPP 2.0.1 part 2, IdTokenType
_DAY = const(86400)


class Entitlement:
    """Parsed `payload` of a verified token. 0 means none or any; raises TOKEN_FORM or CBOR_*."""

    def __init__(self, payload):
        claims = form.fields(
            cbor.loads(payload), (_ISS, _SUB, _AUD, _EXP, _NBF, _CTI, _LIMITS), (), _FORM
        )
        self.iss = form.text(claims[_ISS], form.NAME, 0, _FORM)
        self.id_token = form.text(claims[_SUB], _ID_TOKEN, 1, _FORM)
        self.aud = form.text(claims[_AUD], _AUDIENCE, 1, _FORM)
        self.nbf = form.uint(claims[_NBF], code=_FORM)
        self.exp = form.uint(claims[_EXP], low=self.nbf + 1, code=_FORM)
        self.cti = form.octets(claims[_CTI], 8, _FORM)
        limits = form.array(claims[_LIMITS], 9, 7, _FORM)
        for value in limits:
            form.uint(value, code=_FORM)
        if len(limits) > 7 and not limits[-1]:
            form.fail("zeros at the end", _FORM)
        self.max_wh, self.max_s, self.max_w, self.evse_id = limits[:4]
        self.tariff_id, self.tariff_version = limits[4:6]
        self.use_count = limits[6] or 1
        self.window = limits[7] if len(limits) > 7 else 0
        self.connector_id = limits[8] if len(limits) > 8 else 0
        if self.window:
            _, days, start, end = _window(self.window)
            if self.window >> 17 or not days or start > 24 or end > 24:
                form.fail("window", _FORM)

    def check_place(self, site, station, evse_id, connector_id):
        """Raises TOKEN_AUDIENCE or TOKEN_EVSE where this is not the place."""
        if self.aud != site and self.aud != site + "/" + station:
            raise ChargekeepError(errors.TOKEN_AUDIENCE)
        if self.evse_id not in (0, evse_id) or self.connector_id not in (0, connector_id):
            raise ChargekeepError(errors.TOKEN_EVSE)

    def check_time(self, timebase, config):
        """Raises TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_WINDOW or TIME_UNKNOWN.

        While no clock has been set since boot, the time is at least the floor: that proves an
        expiry and nothing else. `config.accept_uncertain_time` says whether a token that may be
        valid is; a window needs a clock.
        """
        now = timebase.now()
        if (timebase.floor() if now is None else now) >= self.exp:
            raise ChargekeepError(errors.TOKEN_EXPIRED)
        if timebase.certain:
            if now < self.nbf:
                raise ChargekeepError(errors.TOKEN_NOT_YET_VALID)
            if self.window and not in_window(self.window, now + config.utc_offset_min * 60):
                raise ChargekeepError(errors.TOKEN_WINDOW)
        elif self.window or not config.accept_uncertain_time:
            raise ChargekeepError(errors.TIME_UNKNOWN)


def _window(window):
    return window >> 17, window & 127, window >> 7 & 31, window >> 12 & 31


def in_window(window, local_s):
    """Is `local_s` (unix seconds shifted to local time) in the weekly `window`?"""
    _, days, start, end = _window(window)
    weekday = (local_s // _DAY + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    second = local_s % _DAY
    start *= 3600
    end *= 3600
    if start < end:
        return bool(days >> weekday & 1) and start <= second < end
    # Over midnight: tonight's part belongs to today, this morning's to the day before
    if second >= start:
        return bool(days >> weekday & 1)
    return second < end and bool(days >> (weekday - 1) % 7 & 1)
