# Offline-first EV charging: decide, meter, record, sync. app.py wires the stages together.

__version__ = "0.1.0"
