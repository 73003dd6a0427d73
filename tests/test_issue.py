"""Entitlements, revocations and trust lists, as made and as two other libraries read them."""

import hashlib

import pytest

from chargekeep_tools import issue, keys, policy, trust, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.options import moment, seconds, ten_thousandths

NOW = 1_800_000_000


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    keys.create(home, "root", "root", encrypted=False, now=NOW)
    keys.create(home, "op", "issuer", encrypted=False, now=NOW)
    return home


def opened(home, record):
    return wire.open_sign1(wire.from_text(record["text"]), wire.ENTITLEMENT, keys.key_for(home))


def test_an_entitlement_says_what_was_asked(home):
    record = issue.issue(
        home, "hall", "DRIVER-1", exp=NOW + 3600, max_wh=5000, uses=2, evse=1, now=NOW
    )
    assert opened(home, record) == {
        1: "op",
        2: "DRIVER-1",
        3: "hall",
        4: NOW + 3600,
        5: NOW - 300,
        7: bytes.fromhex(record["cti"]),
        wire.LIMITS: [5000, 0, 0, 1, 0, 0, 2],
    }
    assert home.entitlements("hall") == [record]


def test_window_and_connector_are_left_out_where_they_are_zero(home):
    def limits(**how):
        return issue.issue(home, "hall", "D", exp=NOW + 9, now=NOW, **how)["limits"]

    assert len(limits()) == 7
    assert limits(window=127)[7:] == [127]
    assert limits(connector=2)[7:] == [0, 2]


def test_an_entitlement_fits_the_reader(home):
    record = issue.issue(
        home,
        "hall-1",
        "A" * 15,
        exp=NOW + 3600,
        max_wh=50000,
        max_s=86400,
        max_w=11000,
        evse=1,
        tariff_id=7,
        tariff_version=12,
        now=NOW,
    )
    assert record["bytes"] <= 160


@pytest.mark.parametrize("id_token", ["", "A" * 37])
def test_an_id_token_of_another_length_is_refused(home, id_token):
    with pytest.raises(ToolError):
        issue.issue(home, "hall", id_token, exp=NOW + 9, now=NOW)


def test_it_cannot_end_before_it_begins(home):
    with pytest.raises(ToolError):
        issue.issue(home, "hall", "D", exp=NOW, nbf=NOW, now=NOW)


def test_every_cti_is_new(home):
    ctis = {issue.issue(home, "hall", "D", exp=NOW + 9, now=NOW)["cti"] for _ in range(5)}
    assert len(ctis) == 5


def test_windows():
    assert issue.window_bits("mo-fr 8-18") == 0b0011111 | 8 << 7 | 18 << 12
    assert issue.window_bits("sa,su 22-6") == 0b1100000 | 22 << 7 | 6 << 12
    assert issue.window_bits("fr-mo 0-24") == 0b1110001 | 24 << 12
    assert issue.window_bits("mo-su 0-24") == 127 | 24 << 12
    for bad in ("", "mo", "xx 1-2", "mo 1-25", "mo 1"):
        with pytest.raises(ToolError):
            issue.window_bits(bad)


def test_a_revocation_list_holds_all_that_was_ever_revoked(home):
    first = issue.revoke(home, "hall", ["aa" * 8], [], now=NOW)
    second = issue.revoke(home, "hall", ["11" * 8], ["DRIVER-1"], now=NOW)
    assert (first.version, second.version) == (1, 2)
    payload = wire.open_sign1(second.data, wire.REVOCATION, keys.key_for(home))
    assert payload == {
        1: 2,
        2: "hall",
        4: NOW,
        10: [b"\x11" * 8, b"\xaa" * 8],
        11: [wire.id_token_hash(home.site_key("hall"), "DRIVER-1")],
    }


def test_a_trust_list_names_valid_and_revoked_issuers(home):
    gone = keys.create(home, "gone", "issuer", encrypted=False, now=NOW)
    home.save_key(gone | {"revoked": True})
    signed = trust.build(home, "hall", now=NOW)
    payload = wire.open_sign1(signed.data, wire.TRUST_LIST, keys.key_for(home))
    op = home.key("op")
    public_key = bytes.fromhex(op["public_key"])
    kid = hashlib.sha256(public_key).digest()[:4]
    assert payload[10] == [[kid, public_key, 255, op["nbf"], op["exp"]]]
    assert payload[11] == [bytes.fromhex(gone["kid"])]


def test_an_issuer_cannot_sign_a_trust_list(home):
    with pytest.raises(ToolError) as caught:
        trust.build(home, "hall", key="op")
    assert caught.value.exit_code == Exit.KEY


def test_an_object_for_one_station_stands_beside_the_sites_until_a_newer_one(home):
    policy.tariff(home, "hall", 1, "EUR", 3500)
    policy.tariff(home, "hall", 2, "EUR", 4000, station="a")
    assert {to: v for to, (v, _) in home.current("hall", "tariff").items()} == {None: 1, "a": 2}
    policy.tariff(home, "hall", 1, "EUR", 3600)
    assert {to: v for to, (v, _) in home.current("hall", "tariff").items()} == {None: 3}


def test_times_and_amounts():
    assert moment("+8h", NOW) == NOW + 28800
    assert moment("2030-01-01") == 1893456000
    assert moment("2030-01-01T01:00+01:00") == 1893456000
    assert seconds("2w") == 1209600
    assert ten_thousandths("0.3549") == 3549
    for function, bad in [(moment, "soon"), (seconds, "8"), (ten_thousandths, "0.35495")]:
        with pytest.raises(ToolError):
            function(bad)
