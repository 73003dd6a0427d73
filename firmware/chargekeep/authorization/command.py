# What the operator tells a station to do, once and in time. Arguments are unsigned integers.

from micropython import const

from chargekeep.authorization import form

STOP = const(1)  # [EVSE id]
UNLOCK_TRANSACTION = const(2)  # [EVSE id]
REBOOT = const(3)  # []
SET_LIMIT = const(4)  # [EVSE id, max W; 0: none]
CLEAR_EXCEPTION = const(5)  # [error code]
DIAGNOSE = const(6)  # [number that the answer names]

_COMMAND = const(10)
_ARGUMENTS = const(11)
_EXP = const(12)

_COUNT = {STOP: 1, UNLOCK_TRANSACTION: 1, REBOOT: 0, SET_LIMIT: 2, CLEAR_EXCEPTION: 1, DIAGNOSE: 1}


class Command(form.Object):
    """`command`, `arguments` and `exp` (unix seconds)."""

    def __init__(self, payload):
        super().__init__(payload, (_COMMAND, _ARGUMENTS, _EXP))
        self.command = form.uint(self.body[_COMMAND])
        count = _COUNT.get(self.command)
        if count is None:
            form.fail("command")
        self.arguments = form.array(self.body[_ARGUMENTS], count, count)
        for argument in self.arguments:
            form.uint(argument)
        self.exp = form.uint(self.body[_EXP])
