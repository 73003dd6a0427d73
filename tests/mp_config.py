# also: cpython
from mptest import raises

from chargekeep import config, errors
from chargekeep.config import Config
from chargekeep.errors import ChargekeepError


def test_defaults_are_the_careful_ones():
    c = Config()
    assert not c.offline_tx_for_unknown_id and not c.bare_uid and not c.stale_list_accepted
    assert c.offline_grace_s == 7 * 86400 and c.stop_tx_on_invalid_id
    assert c.policies == [[0, 0, 0, 0]]


def test_named_settings_replace_defaults():
    c = Config({1: True, 12: 5, 16: [[1, 2, 3, 4], [0, 0, 0, 0]]})
    assert c.offline_tx_for_unknown_id and c.max_wh == 5 and len(c.policies) == 2
    assert c.status_interval_s == Config().status_interval_s


def test_what_is_refused():
    row = [0, 0, 0, 0]
    for settings in (
        [],
        {0: 1},
        {999: 1},
        {1: 1},
        {1: None},
        {12: -1},
        {12: True},
        {12: "5"},
        {12: 10**9 + 1},
        {3: 841},
        {3: -841},
        {15: 9},
        {16: []},
        {16: [row] * 33},
        {16: [[0, 0, 0]]},
        {16: [[0, 0, 0, -1]]},
        {16: [[0, 0, 0, None]]},
        {16: row},
    ):
        raises(ChargekeepError, Config, settings, code=errors.CONFIG)


def test_settings_have_a_number_each_and_defaults_in_range():
    numbers = [s[0] for s in config.rows()]
    names = [s[1] for s in config.rows()]
    assert numbers == sorted(set(numbers)) and len(set(names)) == len(names)
    Config({s[0]: s[2] for s in config.rows()})
