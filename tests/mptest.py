# What mp_*.py tests share; works on MicroPython and CPython.


import os

_folders = []


class SkipTest(Exception):
    pass


def folder():
    """A new directory below /tmp that is removed after the test."""
    name = "/tmp/chargekeep-%s" % os.urandom(8).hex()
    os.mkdir(name)
    _folders.append(name)
    return name


def clean():
    """Remove what `folder` made."""
    for name in _folders:
        os.system("rm -rf %s" % name)


def raises(error, function, *args, code=None):
    """Call `function`; it must raise `error` (of `code` where given), which is returned."""
    try:
        function(*args)
    except error as e:
        if code is not None:
            assert e.code == code, "code %r, expected %r" % (e.code, code)
        return e
    raise AssertionError("did not raise %s" % error.__name__)


def at_last(steps):
    """What a generator yields at last; None where it yields nothing."""
    found = None
    for step in steps:
        found = step
    return found
