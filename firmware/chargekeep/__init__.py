# Offline-first EV charging: decide, meter, record, sync. Import the stage you need; app.py wires them all.

__version__ = "0.1.0"
