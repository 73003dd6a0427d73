"""How a station proves to the broker who it is: a password, a certificate of our own small
authority, or a pre-shared key. Made once at provisioning, ended by `stations revoke`.

    home/ca/ca.pem .crt           the authority's key (mode 0600) and certificate
    home/ca/servers/HOST.pem .crt the broker's
    home/ca/clients/USER.pem .crt those of the host's own users
    home/ca/revoked.json          serial numbers that are not accepted any more

Whoever has the authority's key can pass for a station at the broker and read what is published
for it, but sign nothing: what a station records is signed with the key that it made itself.

Authority and broker have RSA keys, which a microcontroller verifies three times as fast as P-256;
stations, which sign, have P-256 keys. An authority that was made with P-256 goes on with it.
"""

import datetime
import ipaddress
import secrets
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home

_YEARS = 20  # a station in the field asks for no new certificate: it is revoked instead
_RSA_BITS = 2048  # more would take an RP2040 longer than a driver is to wait
_DER, _PEM = serialization.Encoding.DER, serialization.Encoding.PEM


class Auth(StrEnum):
    """What a station shows to the broker."""

    PASSWORD = "password"
    CERTIFICATE = "certificate"
    PSK = "psk"


class Authority:
    """The authority of `home`, made the first time it is asked for."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = home.root / "ca"
        key_path, path = self.folder / "ca.pem", self.folder / "ca.crt"
        with home.locked():
            if not path.exists():
                self._key: _Key = _rsa()
                self.certificate = self._make()
                home.write(key_path, _private(self._key, _PEM), private=True)
                home.write(path, self.certificate_pem)
        try:
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            self.certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ToolError(f"{self.folder}: {error}", Exit.HOME, "restore it from a backup")
        assert isinstance(key, _Key)
        self._key = key

    def _make(self) -> x509.Certificate:
        # Every authority has a name of its own: broker and stations look it up by that.
        name = _name(f"chargekeep {secrets.token_hex(4)}")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return (
            _builder(name, name, self._key)
            .add_extension(x509.BasicConstraints(True, 0), True)
            .add_extension(usage, True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(_PEM)

    @property
    def der(self) -> bytes:
        """The certificate that stations trust the broker by."""
        return self.certificate.public_bytes(_DER)

    def _issue(self, name: str, usage: x509.ObjectIdentifier, hosts: list[str]) -> tuple:
        key = _rsa() if hosts and isinstance(self._key, rsa.RSAPrivateKey) else _p256()
        builder = _builder(_name(name), self.certificate.subject, key)
        builder = builder.add_extension(x509.BasicConstraints(False, None), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
        if hosts:
            names = x509.SubjectAlternativeName(list(map(_alternative, hosts)))
            builder = builder.add_extension(names, False)
        return builder.sign(self._key, hashes.SHA256()), key

    def station(self, name: str) -> tuple[bytes, bytes]:
        """Certificate and key of a station, as its network map holds them (DER)."""
        certificate, key = self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, [])
        return certificate.public_bytes(_DER), _private(key, _DER)

    def server(self, hosts: list[str]) -> tuple[bytes, bytes]:
        """Certificate and key of the broker that answers to `hosts` (PEM); the same each time."""
        path = self.folder / "servers" / "_".join(hosts).replace(":", "-")
        return self._kept(path, hosts[0], ExtendedKeyUsageOID.SERVER_AUTH, hosts)

    def client(self, user: str) -> tuple[bytes, bytes]:
        """Certificate and key of one of the host's own users (PEM); the same each time."""
        path = self.folder / "clients" / user
        return self._kept(path, user, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _kept(
        self, path: Path, name: str, usage: x509.ObjectIdentifier, hosts: list[str]
    ) -> tuple[bytes, bytes]:
        crt, pem = path.with_name(path.name + ".crt"), path.with_name(path.name + ".pem")
        if not crt.exists():
            certificate, key = self._issue(name, usage, hosts)
            self.home.write(pem, _private(key, _PEM), private=True)
            self.home.write(crt, certificate.public_bytes(_PEM))
        return crt.read_bytes(), pem.read_bytes()

    def revocations(self) -> bytes:
        """The list of what is revoked, signed (PEM)."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder(
            self.certificate.subject, now - _DAY, now + 365 * _YEARS * _DAY
        )
        for serial, when in _revoked(self.home).items():
            entry = x509.RevokedCertificateBuilder(
                int(serial), datetime.datetime.fromtimestamp(when, datetime.UTC)
            )
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM)


_DAY = datetime.timedelta(days=1)
_Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, _RSA_BITS)


def _p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 365 * _YEARS * _DAY)
    )


def _private(key: Any, encoding: serialization.Encoding) -> bytes:
    form = serialization.PrivateFormat.TraditionalOpenSSL  # SEC 1 or PKCS #1: mbedTLS
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _revoked(home: Home) -> dict[str, int]:
    return home.read_json(home.root / "ca" / "revoked.json", {})


def make(home: Home, station: str, auth: Auth, before: dict[str, Any] | None) -> dict[str, Any]:
    """What `station` shows to the broker: what it had (`before`), and what `auth` asks for."""
    mqtt = dict(before or {"user": station, "password": secrets.token_urlsafe(18)})
    mqtt["auth"] = str(auth)
    if auth == Auth.PSK:
        mqtt.setdefault("psk", secrets.token_hex(32))
    elif auth == Auth.CERTIFICATE and "certificate" not in mqtt:
        certificate, key = Authority(home).station(station)
        mqtt |= {"certificate": certificate.hex(), "key": key.hex()}
    return mqtt


def network(mqtt: dict[str, Any]) -> dict[int, Any]:
    """The part of a station's network map (FORMATS.md section 8) that its credentials make."""
    found: dict[int, Any] = {5: mqtt["user"], 6: mqtt["password"]}
    if mqtt["auth"] == Auth.PSK:
        found[11] = bytes.fromhex(mqtt["psk"])
    elif mqtt["auth"] == Auth.CERTIFICATE:
        found |= {9: bytes.fromhex(mqtt["certificate"]), 10: bytes.fromhex(mqtt["key"])}
    return found


def end(home: Home, mqtt: dict[str, Any]) -> None:
    """Have the broker accept these credentials no more, from its next configuration on."""
    if "certificate" in mqtt:
        serial = x509.load_der_x509_certificate(bytes.fromhex(mqtt["certificate"])).serial_number
        with home.locked():
            revoked = {str(serial): int(time.time())} | _revoked(home)
            home.write_json(home.root / "ca" / "revoked.json", revoked)


def revoke(home: Home, station: str) -> dict[str, Any]:
    """Mark `station` as revoked: no broker lets it in, and nothing it sends is taken."""
    record = home.station(station)
    if not record.get("revoked"):
        end(home, record["mqtt"])
        record["revoked"] = int(time.time())
        home.save_station(record)
    return record


def authority_in(path: Path) -> bytes:
    """The certificate in the file `path` (PEM or DER), as DER."""
    try:
        data = path.read_bytes()
        if data.startswith(b"-----"):
            return x509.load_pem_x509_certificate(data).public_bytes(_DER)
        return x509.load_der_x509_certificate(data).public_bytes(_DER)
    except (OSError, ValueError) as error:
        raise ToolError(f"{path}: {error}", Exit.USAGE, "a certificate in PEM or DER")
