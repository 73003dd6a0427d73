"""What the operator's home knows that stations do not: prices, and who was given what."""

from typing import Protocol

from chargekeep_tools import keys, wire
from chargekeep_tools.home import Home
from chargekeep_tools.reconcile import bill

_PRICES = (11, 12, 13, 14, 4)  # currency, kWh, hour, start, and when it was issued


class Books(Protocol):
    """What the operator knows that stations do not."""

    def tariffs(self, site: str) -> list[bill.Tariff]:
        """Every tariff that was signed for the site."""
        ...

    def issued(self, site: str, cti: bytes, kid: bytes | None, at: int | None) -> bool:
        """Whether the entitlement `cti` was issued for the site, by the key `kid` before `at`."""
        ...


class NoBooks:
    """Knows no tariff, and takes every token for issued."""

    def tariffs(self, site: str) -> list[bill.Tariff]:
        return []

    def issued(self, site: str, cti: bytes, kid: bytes | None, at: int | None) -> bool:
        return True


class HomeBooks:
    """What this home has signed and issued; read again when its files change."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._tariffs: dict[str, tuple[int, list[bill.Tariff]]] = {}
        self._issued: dict[str, set[str]] = {}
        self._trusted: dict[str, tuple[int, list[tuple[bytes, int, int]]]] = {}

    def tariffs(self, site: str) -> list[bill.Tariff]:
        count = len(self.home.object_versions(site, "tariff"))
        known = self._tariffs.get(site)
        if known is None or known[0] != count:
            found = []
            for version, _, data in self.home.objects(site, "tariff"):
                body = wire.open_sign1(data, wire.TARIFF, keys.key_for(self.home))
                found.append(bill.Tariff(site, body[10], version, *(body[i] for i in _PRICES)))
            known = self._tariffs[site] = (count, found)
        return known[1]

    def issued(self, site: str, cti: bytes, kid: bytes | None, at: int | None) -> bool:
        """By this home, or by an issuer elsewhere whom a trust list of the site vouched for.

        Of issuers whose keys are here, the register is complete.
        """
        if cti.hex() in self._issued.get(site, ()):
            return True
        self._issued[site] = {record["cti"] for record in self.home.entitlements(site)}
        if cti.hex() in self._issued[site]:
            return True
        return any(
            kid == issuer and (at is None or nbf <= at <= exp)
            for issuer, nbf, exp in self._elsewhere(site)
        )

    def _elsewhere(self, site: str) -> list[tuple[bytes, int, int]]:
        """(kid, nbf, exp) of who may issue entitlements for the site, but not with a key here."""
        count = len(self.home.object_versions(site, "trust"))
        known = self._trusted.get(site)
        if known is None or known[0] != count:
            own = {
                bytes.fromhex(record["kid"])
                for record in self.home.keys()
                if self.home.key_path(record["name"]).exists()
            }
            found = []
            for _, _, data in self.home.objects(site, "trust"):
                body = wire.open_sign1(data, wire.TRUST_LIST, keys.key_for(self.home))
                for kid, _, scope, nbf, exp in body[10]:
                    if scope & wire.SCOPE[wire.ENTITLEMENT] and kid not in own:
                        found.append((kid, nbf, exp))
            known = self._trusted[site] = (count, found)
        return known[1]
