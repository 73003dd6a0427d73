# What the operator tells a station to do, once and in time. Arguments are unsigned integers.

from micropython import const

from chargekeep.authorization import form

STOP = const(1)  # [EVSE id]
UNLOCK_TRANSACTION = const(2)  # [EVSE id]
REBOOT = const(3)  # []
SET_LIMIT = const(4)  # [EVSE id, max W; 0: none]
CLEAR_EXCEPTION = const(5)  # [error code]

_COMMAND = const(10)
_ARGUMENTS = const(11)
_EXP = const(12)

_COUNT = {STOP: 1, UNLOCK_TRANSACTION: 1, REBOOT: 0, SET_LIMIT: 2, CLEAR_EXCEPTION: 1}


def parse(payload):
    """`form.Object` of a command with its `command`, `arguments` and `exp` (unix seconds)."""
    listed = form.Object(payload, (_COMMAND, _ARGUMENTS, _EXP))
    listed.command = form.uint(listed.body[_COMMAND])
    if listed.command not in _COUNT:
        form.fail("command")
    count = _COUNT[listed.command]
    listed.arguments = form.array(listed.body[_ARGUMENTS], count, count)
    for argument in listed.arguments:
        form.uint(argument)
    listed.exp = form.uint(listed.body[_EXP])
    return listed
