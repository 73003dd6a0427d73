# One error root for the whole firmware. The numeric code is what reaches the operator (ledger,
# status, USB). Hundreds are stages: 1 encoding and signatures, 2 authorization, 3 metering,
# 4 transaction, 5 ledger, 6 sync, 7 board and configuration, 8 update.

CBOR_TRUNCATED = 100
CBOR_TRAILING = 101
CBOR_NOT_CANONICAL = 102
CBOR_DUPLICATE_KEY = 103
CBOR_UNSUPPORTED = 104
CBOR_LIMIT = 105
OBJECT_FORM = 106  # well-formed CBOR of the wrong shape or range
COSE_FORM = 110
COSE_ALGORITHM = 111
COSE_CONTENT_TYPE = 112
COSE_UNKNOWN_KID = 113
COSE_SIGNATURE = 114
COSE_ISSUER_SCOPE = 115
COSE_ISSUER_EXPIRED = 116
KEY_WEAK = 117
COSE_ISSUER_REVOKED = 118
SIGNING_FAULT = 119

TOKEN_FORM = 200
TOKEN_EXPIRED = 201
TOKEN_NOT_YET_VALID = 202
TOKEN_AUDIENCE = 203
TOKEN_EVSE = 204
TOKEN_REPLAYED = 205
TOKEN_BUDGET = 206
TOKEN_REVOKED = 207
TOKEN_IN_USE = 208
ID_UNKNOWN = 209
TIME_UNKNOWN = 210
UID_DISABLED = 211
LIST_STALE = 212
VERSION_ROLLBACK = 213
EVSE_OCCUPIED = 214
TIME_STEP_BACK = 215
TOKEN_WINDOW = 216
OBJECT_SITE = 217  # signed for another site or station
COMMAND_EXPIRED = 218
LIST_PAGE = 219  # an allowlist page that the signed header does not prove
SPENT_FULL = 220
SPENT_LOST = 221

METER_TIMEOUT = 300
METER_CRC = 301
METER_EXCEPTION = 302
METER_FRAME = 303
METER_JUMP = 304
METER_DECREASED = 305
METER_NOT_A_NUMBER = 306
METER_STALE = 307

TRANSACTION_STATE = 400
TRANSACTION_NO_SPACE = 401
ACTUATOR_FEEDBACK = 402
UNSAFE = 403
ACTUATOR_SILENT = 404  # an EVSE controller refused a command or did not answer

LEDGER_FOREIGN = 500
LEDGER_VERSION = 501
LEDGER_FULL = 502
LEDGER_CORRUPT = 503
LEDGER_PROGRAM = 504
LEDGER_ERASE = 505
LEDGER_ACKNOWLEDGEMENT = 506
LEDGER_RANGE = 507
LEDGER_EXHAUSTED = 508
COUNTER_DECREASE = 509
LEDGER_TAMPERED = 510

SYNC_CONNECT = 600
SYNC_REFUSED = 601
SYNC_TIMEOUT = 602
SYNC_PROTOCOL = 603
SYNC_TOPIC = 604
SYNC_TOO_LARGE = 605
SYNC_CLOSED = 606

CONFIG = 700
SECRET = 701
BOARD = 702
MEMORY = 703
COMMISSIONED = 704  # the board is another station already
UNEXPECTED = 799

UPDATE_BOARD = 800  # the bundle is for another product or board
UPDATE_ABI = 801  # its bytecode is for another MicroPython
UPDATE_FILE = 802  # a file is missing or not the signed one
UPDATE_SPACE = 803
UPDATE_TRIAL = 804  # the running firmware has yet to prove itself
UPDATE_ROLLED_BACK = 805  # the new firmware did not pass its trial


class ChargekeepError(Exception):
    """A failure the firmware names: `code` is a number above, `detail` a short text."""

    def __init__(self, code, detail=""):
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self):
        return "E%d %s" % (self.code, self.detail)
