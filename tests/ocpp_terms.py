# Numbers of the enumerations in a transaction's records (FORMATS.md section 4), named as OCPP
# 2.0.1 part 2, section 3 names them. The firmware has its own copy, where they cost no memory.

from micropython import const

# TriggerReasonEnumType
AUTHORIZED = const(1)
CHARGING_STATE_CHANGED = const(3)
DEAUTHORIZED = const(4)
ENERGY_LIMIT_REACHED = const(5)
EV_COMMUNICATION_LOST = const(6)
METER_VALUE_PERIODIC = const(8)
TIME_LIMIT_REACHED = const(9)
STOP_AUTHORIZED = const(10)
UNLOCK_COMMAND = const(11)
REMOTE_STOP = const(12)
ABNORMAL_CONDITION = const(13)
RESET_COMMAND = const(14)
EV_DEPARTED = const(15)

# ReasonEnumType (why a transaction stopped)
STOPPED_DEAUTHORIZED = const(1)
STOPPED_EMERGENCY = const(2)
STOPPED_ENERGY_LIMIT = const(3)
STOPPED_EV_DISCONNECTED = const(4)
STOPPED_LOCAL = const(6)
STOPPED_OTHER = const(8)
STOPPED_POWER_LOSS = const(9)
STOPPED_REBOOT = const(11)
STOPPED_REMOTE = const(12)
STOPPED_TIME_LIMIT = const(15)
STOPPED_TIMEOUT = const(16)

# ChargingStateEnumType
CHARGING = const(1)
EV_CONNECTED = const(2)
SUSPENDED_EV = const(3)
SUSPENDED_EVSE = const(4)

# Ledger record types
RECORD_STARTED = const(2)
RECORD_UPDATED = const(3)
RECORD_ENDED = const(4)
RECORD_METER_VALUE = const(5)
RECORD_FAULT = const(9)
RECORD_UNATTRIBUTED = const(10)
RECORD_SEGMENT = const(11)

COUNTER_TRANSACTIONS = const(1)  # of the ledger's monotonic counters
