"""Exit codes of the `chargekeep` command: one number for each thing a script tells apart.

Every failure is a `ToolError` that says what happened and what to do next.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit status; 1 is left to a failure of the tool itself."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    HOME = 3
    KEY = 4
    REFUSED = 5
    BROKER = 6
    FAILED = 7
    DATABASE = 8
    NO_DEVICE = 10
    BUSY = 11
    WRONG_BOARD = 12
    WRONG_ABI = 13
    NO_SPACE = 14
    TRANSFER = 15
    VERIFY = 16
    ROLLED_BACK = 17
    SELF_TEST = 18
    DEVICE = 19


MEANING = {
    Exit.OK: "done",
    Exit.INTERNAL: "an error in the tool itself",
    Exit.USAGE: "unknown option, missing argument, or a value out of range",
    Exit.HOME: "the home directory lacks something or is damaged",
    Exit.KEY: "no such key, wrong passphrase, or a key that may not sign this",
    Exit.REFUSED: "a signature, a version or a format was refused",
    Exit.BROKER: "the MQTT broker could not be reached or refused",
    Exit.FAILED: "the check that was asked for found a fault",
    Exit.DATABASE: "the database could not be reached or refused",
    Exit.NO_DEVICE: "no such board, or more than one and none was named",
    Exit.BUSY: "the board's port is held by another program, or it does not answer",
    Exit.WRONG_BOARD: "the board is of another kind than the bundle or the station record",
    Exit.WRONG_ABI: "the board's MicroPython cannot load the bundle's bytecode",
    Exit.NO_SPACE: "the board's file system is too full",
    Exit.TRANSFER: "the connection broke; run the command again, it goes on where it was",
    Exit.VERIFY: "what the board holds is not what was sent, or its signature is wrong",
    Exit.ROLLED_BACK: "the new version did not pass its trial; the one before runs",
    Exit.SELF_TEST: "the board works but a part of its self-test failed",
    Exit.DEVICE: "the firmware on the board reported an error",
}


class ToolError(Exception):
    """A failure the user can do something about: what happened, `exit_code`, and the next step."""

    def __init__(self, message: str, exit_code: Exit = Exit.FAILED, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.hint = hint
