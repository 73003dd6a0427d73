# also: cpython
from mptest import raises

from chargekeep import errors


def test_error_carries_code_and_detail():
    def fail():
        raise errors.ChargekeepError(errors.CBOR_TRUNCATED, "at 3")

    e = raises(errors.ChargekeepError, fail, code=errors.CBOR_TRUNCATED)
    assert str(e) == "E100 at 3", str(e)


def test_codes_are_unique_and_in_their_range():
    codes = [v for k, v in errors.__dict__.items() if k.isupper()]
    assert len(codes) == len(set(codes))
    assert all(100 <= code <= 899 for code in codes)
