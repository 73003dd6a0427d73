# What mp_*.py tests share; works on MicroPython and CPython.


class SkipTest(Exception):
    pass


def raises(error, function, *args, code=None):
    """Call `function`; it must raise `error` (of `code` where given), which is returned."""
    try:
        function(*args)
    except error as e:
        if code is not None:
            assert e.code == code, "code %r, expected %r" % (e.code, code)
        return e
    raise AssertionError("did not raise %s" % error.__name__)
