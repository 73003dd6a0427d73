"""What a transaction costs. Integers only: Wh, seconds, and 1/10000 of the currency unit.

Each of the three parts is rounded once, half up, to 1/10000; the total is their sum.
"""

from dataclasses import dataclass

_WH_PER_KWH = 1000
_S_PER_HOUR = 3600


@dataclass(frozen=True)
class Tariff:
    """Prices in 1/10000 of `currency` (ISO 4217) a kWh, an hour, a start; issued: unix seconds."""

    site: str
    tariff: int
    version: int
    currency: str
    per_kwh: int
    per_hour: int
    per_start: int
    issued: int


@dataclass(frozen=True)
class Amounts:
    energy: int
    time: int
    start: int

    @property
    def total(self) -> int:
        return self.energy + self.time + self.start


def price(tariff: Tariff, energy_wh: int, seconds: int) -> Amounts:
    """What `energy_wh` over `seconds` cost under `tariff`. Raises ValueError below zero."""
    if energy_wh < 0 or seconds < 0:
        raise ValueError(f"{energy_wh} Wh in {seconds} s")
    return Amounts(
        (energy_wh * tariff.per_kwh + _WH_PER_KWH // 2) // _WH_PER_KWH,
        (seconds * tariff.per_hour + _S_PER_HOUR // 2) // _S_PER_HOUR,
        tariff.per_start,
    )


def money(amount: int) -> str:
    """`123456` (1/10000) as `12.3456`."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 10000}.{abs(amount) % 10000:04d}"
