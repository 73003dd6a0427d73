# Runs one test function of one file, on MicroPython or CPython: run_mp.py FILE FUNCTION.
# Exit status: 0 passed, 1 failed, 77 skipped.

import sys

from mptest import SkipTest, clean


def without_others(file, name):
    """Source without the tests that are not `name`: to compile them would take heap. Lines keep
    their numbers."""
    out = []
    others = False
    for line in file:
        if line.startswith(("def test_", "async def test_")):
            others = line.split("(")[0].split()[-1] != name
        elif line[0] > " " and line[0] != ")":
            others = False
        out.append("\n" if others else line)
    return "".join(out)


def main(path, name):
    scope = {"__name__": "test", "__file__": path}
    with open(path) as f:
        source = without_others(f, name)
    exec(compile(source, path, "exec"), scope)
    result = scope[name]()
    if result is not None:  # an `async def` test
        import asyncio

        asyncio.run(result)


try:
    main(sys.argv[1], sys.argv[2])
except SkipTest as e:
    print(e)
    sys.exit(77)
except Exception as e:
    if hasattr(sys, "print_exception"):
        sys.print_exception(e)
    else:
        import traceback

        traceback.print_exc()
    sys.exit(1)
finally:
    clean()
