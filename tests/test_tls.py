"""TLS between a station in a MicroPython VM and mosquitto: what connects and what must not."""

import datetime
import ipaddress
from pathlib import Path

import pytest
from charger import wait_for
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from sync_site import Site

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
YEARS = 365 * DAY
PSK = "0123456789abcdef0123456789abcdef"


def p256():
    return ec.generate_private_key(ec.SECP256R1())


def rsa2048():
    return rsa.generate_private_key(65537, 2048)


class Authority:
    """A certificate authority in `folder`; `make_key()` makes its key and brokers'."""

    def __init__(self, folder, name, make_key=p256):
        self.folder, self.name, self.make_key = folder, name, make_key
        self.key = make_key()
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = self._builder(self.subject, self.key, NOW - YEARS, NOW + YEARS)
        builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        self.path = self._save(name, builder.sign(self.key, hashes.SHA256()))

    def _builder(self, subject, key, begins, ends):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )

    def _save(self, name, thing):
        path = self.folder / f"{name}.pem"
        path.write_bytes(thing.public_bytes(serialization.Encoding.PEM))
        path.with_suffix(".der").write_bytes(thing.public_bytes(serialization.Encoding.DER))
        return path

    def issue(self, name, host="127.0.0.1", begins=NOW - DAY, ends=NOW + DAY):
        """(certificate, its path, path of its key)."""
        key = self.make_key()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        names = [x509.DNSName(host)]
        if host[0].isdigit():
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        builder = self._builder(subject, key, begins, ends)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        certificate = builder.sign(self.key, hashes.SHA256())
        key_path = self.folder / f"{name}-key.pem"
        how = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        for name_of in ("PEM", "DER"):
            path = key_path.with_suffix("." + name_of.lower())
            path.write_bytes(key.private_bytes(getattr(serialization.Encoding, name_of), *how))
        return certificate, self._save(name, certificate), key_path

    def revoke(self, *certificates):
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.subject)
        builder = builder.last_update(NOW - DAY).next_update(NOW + DAY)
        for certificate in certificates:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(NOW - DAY).build())
        return self._save("crl", builder.sign(self.key, hashes.SHA256()))


@pytest.fixture
def ca(tmp_path):
    return Authority(tmp_path, "ca")


@pytest.fixture
def start(tmp_path):
    sites = []

    def start(extra, **settings):
        site = Site(tmp_path, extra)
        sites.append(site)
        site.add("cp-1")
        site.broker.start()
        paths = {n: v for n, v in settings.items() if isinstance(v, Path)}
        files = {n: str(v.with_suffix(".der")) for n, v in paths.items()}
        return site.vm("cp-1", format=True, timeout_ms=4000, **(settings | files))

    yield start
    for site in sites:
        site.close()


def listener(ca, certificate, key, *more):
    return "\n".join([f"cafile {ca.path}", f"certfile {certificate}", f"keyfile {key}", *more, ""])


def refused(vm):
    wait_for(lambda: vm.errors(), 20)
    assert vm.errors() <= {600, 602} and not vm.last("connected"), vm.events
    return [event["detail"] for event in vm.events if "detail" in event]


def test_good_certificate_connects(ca, start):
    _, certificate, key = ca.issue("broker")
    vm = start(listener(ca, certificate, key), ca=ca.path)
    wait_for(lambda: vm.last("connected"), 20)
    assert not vm.errors()


@pytest.mark.parametrize("make_key", [p256, rsa2048])
def test_prompt_suites_connect_whatever_the_certificate(tmp_path, start, make_key):
    ca = Authority(tmp_path, "authority", make_key)
    _, certificate, key = ca.issue("broker")
    vm = start(listener(ca, certificate, key), ca=ca.path, prompt=True)
    wait_for(lambda: vm.last("connected"), 20)
    assert not vm.errors()


def test_a_broker_that_insists_on_forward_secrecy_is_refused_by_name(tmp_path, start):
    ca = Authority(tmp_path, "authority", rsa2048)
    _, certificate, key = ca.issue("broker")
    vm = start(listener(ca, certificate, key, "ciphers ECDHE+AESGCM"), ca=ca.path, prompt=True)
    assert "FATAL_ALERT" in refused(vm)[0]


@pytest.mark.parametrize(
    "how",
    [
        {"host": "broker.example"},
        {"begins": NOW - 2 * DAY, "ends": NOW - DAY},  # expired: the clock is at 2040
        {"begins": NOW + DAY, "ends": NOW + 2 * DAY},  # not yet valid: the clock is at 1970
    ],
    ids=["wrong host", "expired", "not yet valid"],
)
def test_bad_certificate_is_refused(ca, start, how):
    _, certificate, key = ca.issue("broker", **how)
    details = refused(start(listener(ca, certificate, key), ca=ca.path))
    assert "certificate" in details[0], details


def test_unknown_authority_is_refused(ca, start, tmp_path):
    _, certificate, key = ca.issue("broker")
    other = Authority(tmp_path, "other")
    assert "certificate" in refused(start(listener(ca, certificate, key), ca=other.path))[0]


def test_plain_broker_is_refused(ca, start):
    refused(start("", ca=ca.path))


def test_client_certificate(ca, start):
    _, certificate, key = ca.issue("broker")
    _, mine, my_key = ca.issue("cp-1", host="cp-1")
    extra = listener(ca, certificate, key, "require_certificate true")
    vm = start(extra, ca=ca.path, certificate=mine, key=my_key)
    wait_for(lambda: vm.last("connected"), 20)


def test_missing_client_certificate_is_refused(ca, start):
    _, certificate, key = ca.issue("broker")
    refused(start(listener(ca, certificate, key, "require_certificate true"), ca=ca.path))


def test_revoked_client_certificate_is_refused(ca, start):
    _, certificate, key = ca.issue("broker")
    revoked, mine, my_key = ca.issue("cp-1", host="cp-1")
    crl = ca.revoke(revoked)
    extra = listener(ca, certificate, key, "require_certificate true", f"crlfile {crl}")
    refused(start(extra, ca=ca.path, certificate=mine, key=my_key))


def psk_listener(folder):
    (folder / "psk").write_text(f"cp-1:{PSK}\n")
    return f"psk_hint chargekeep\npsk_file {folder / 'psk'}\n"


def test_pre_shared_key_connects(start, tmp_path):
    vm = start(psk_listener(tmp_path), psk=["cp-1", PSK])
    wait_for(lambda: vm.last("connected"), 20)
    assert not vm.errors()


@pytest.mark.parametrize("psk", [["cp-1", "00" * 16], ["cp-2", PSK]], ids=["key", "identity"])
def test_wrong_pre_shared_key_is_refused(start, tmp_path, psk):
    refused(start(psk_listener(tmp_path), psk=psk))


def test_pre_shared_key_accepts_no_certificate_instead(ca, start):
    # Whoever has no key must not get away with any certificate.
    _, certificate, key = ca.issue("broker")
    refused(start(listener(ca, certificate, key), psk=["cp-1", PSK]))
