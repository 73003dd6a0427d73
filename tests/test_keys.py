"""The operator's private keys: encrypted files, roles and scopes."""

import stat

import pytest
from cryptography.hazmat.primitives import serialization

from chargekeep_tools import keys, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHARGEKEEP_PASSPHRASE", "correct horse")
    return Home(tmp_path)


def refused(function, *args, **named):
    with pytest.raises(ToolError) as caught:
        function(*args, **named)
    return caught.value.exit_code


def test_a_key_is_encrypted_and_opens_with_its_passphrase(home, monkeypatch):
    record = keys.create(home, "op", "issuer")
    path = home.key_path("op")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    assert wire.public_bytes(keys.load(home, "op")).hex() == record["public_key"]
    monkeypatch.setenv("CHARGEKEEP_PASSPHRASE", "wrong")
    assert refused(keys.load, home, "op") == Exit.KEY


def test_a_key_without_passphrase_is_the_choice_of_who_makes_it(home):
    keys.create(home, "op", "issuer", encrypted=False)
    assert serialization.load_pem_private_key(home.key_path("op").read_bytes(), None)
    keys.load(home, "op")


def test_a_name_is_never_used_twice(home):
    keys.create(home, "op", "issuer")
    assert refused(keys.create, home, "op", "issuer") == Exit.KEY


def test_a_file_that_others_may_read_is_refused(home):
    keys.create(home, "op", "issuer")
    home.key_path("op").chmod(0o640)
    assert refused(keys.load, home, "op") == Exit.KEY


def test_a_swapped_key_file_is_noticed(home):
    keys.create(home, "a", "issuer")
    keys.create(home, "b", "issuer")
    home.key_path("a").write_bytes(home.key_path("b").read_bytes())
    assert refused(keys.load, home, "a") == Exit.KEY


def test_the_only_key_that_may_sign_is_found(home):
    keys.create(home, "root", "root")
    assert refused(keys.choose, home, "issuer", 4) == Exit.KEY
    keys.create(home, "prices", "issuer", scope=keys.scope_bits("tariff"))
    keys.create(home, "tokens", "issuer", scope=keys.scope_bits("entitlement,list"))
    assert keys.choose(home, "issuer", 4)["name"] == "prices"
    assert refused(keys.choose, home, "issuer", 4, "tokens") == Exit.KEY
    assert refused(keys.choose, home, "issuer", 4, "root") == Exit.KEY
    keys.create(home, "more", "issuer")
    assert refused(keys.choose, home, "issuer", 4) == Exit.KEY  # which of the two?
    assert keys.choose(home, "issuer", 4, "more")["name"] == "more"


def test_a_signature_is_believed_within_the_scope_only(home):
    keys.create(home, "root", "root")
    record = keys.create(home, "tokens", "issuer", scope=keys.scope_bits("entitlement"))
    find = keys.key_for(home)
    kid = bytes.fromhex(record["kid"])
    assert find(kid, wire.ENTITLEMENT).hex() == record["public_key"]
    assert find(kid, wire.TARIFF) is None
    assert find(kid, wire.TRUST_LIST) is None
    home.save_key(record | {"revoked": True})
    assert keys.key_for(home)(kid, wire.ENTITLEMENT) is None


def test_scopes_by_name():
    assert keys.scope_bits("all") == 255
    assert keys.scope_text(keys.scope_bits("time,ack")) == "time,ack"
    assert refused(keys.scope_bits, "everything") == Exit.USAGE
