# Offline-first EV charging: decide, meter, record, sync. app.py wires the stages together.

import sys

__version__ = "0.1.0"


def borrow(name):
    """The module `name`, which is needed rarely: its memory is free again once nobody uses it."""
    module = __import__(name, None, None, ("",))
    forget(name)
    return module


def forget(name):
    """Give back the memory of a module that is needed rarely; its next import loads it again."""
    if sys.modules.pop(name, None):
        package, _, child = name.rpartition(".")
        if package:
            delattr(sys.modules[package], child)
