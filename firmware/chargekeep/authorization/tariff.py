# What a kilowatt-hour, an hour and a start cost. A station only shows it and records which version
# was in force at a transaction's start; the host does the billing.

from micropython import const

from chargekeep.authorization import form

_ID = const(10)
_CURRENCY = const(11)
_PER_KWH = const(12)
_PER_HOUR = const(13)
_PER_START = const(14)


def parse(payload):
    """`form.Object` of a tariff."""
    listed = form.Object(payload, (_ID, _CURRENCY, _PER_KWH, _PER_HOUR, _PER_START))
    form.uint(listed.body[_ID], low=1)
    form.text(listed.body[_CURRENCY], 3, 3)
    for key in (_PER_KWH, _PER_HOUR, _PER_START):
        form.uint(listed.body[key])
    return listed


class Tariff:
    """Prices in 1/10000 of the currency unit. Without a tariff: id and version 0, no prices."""

    def __init__(self, listed=None):
        body = listed.body if listed else {}
        self.version = listed.version if listed else 0
        self.id = body.get(_ID, 0)
        self.currency = body.get(_CURRENCY)
        self.per_kwh = body.get(_PER_KWH)
        self.per_hour = body.get(_PER_HOUR)
        self.per_start = body.get(_PER_START)
