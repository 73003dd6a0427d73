# What a kilowatt-hour, an hour and a start cost. A station only shows it and records which version
# was in force at a transaction's start; the host does the billing.

from micropython import const

from chargekeep.authorization import form

_ID = const(10)
_CURRENCY = const(11)
_PER_KWH = const(12)
_PER_HOUR = const(13)
_PER_START = const(14)


class NoTariff:
    """Stands where no tariff is in force."""

    version = 0
    id = 0
    currency = per_kwh = per_hour = per_start = None


class Tariff(form.Object):
    """Prices in 1/10000 of the currency unit."""

    def __init__(self, payload):
        super().__init__(payload, (_ID, _CURRENCY, _PER_KWH, _PER_HOUR, _PER_START))
        self.id = form.uint(self.body[_ID], low=1)
        self.currency = form.text(self.body[_CURRENCY], 3, 3)
        self.per_kwh = form.uint(self.body[_PER_KWH])
        self.per_hour = form.uint(self.body[_PER_HOUR])
        self.per_start = form.uint(self.body[_PER_START])
