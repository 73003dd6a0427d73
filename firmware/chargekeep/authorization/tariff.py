# What a kilowatt-hour, an hour and a start cost. A station records which version was in force at a
# transaction's start; the host does the billing, from what it signed itself.

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


class Tariff(form.Object):
    """Its `id`. The prices are checked to be there, in 1/10000 of the currency unit."""

    def __init__(self, payload):
        super().__init__(payload, (_ID, _CURRENCY, _PER_KWH, _PER_HOUR, _PER_START))
        self.id = form.uint(self.body[_ID], low=1)
        form.text(self.body[_CURRENCY], 3, 3)
        for key in (_PER_KWH, _PER_HOUR, _PER_START):
            form.uint(self.body[key])
