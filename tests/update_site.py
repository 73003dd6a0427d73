"""A site whose stations are updated: a home with keys, and bundles of the firmware for UNIX boards
with another app."""

from functools import cache

from chargekeep_tools import bundle as bundles
from chargekeep_tools import keys, trust
from chargekeep_tools.home import Home
from chargekeep_tools.programs import firmware_root

ROOT = firmware_root()
CRASHES = b"def main():\n    raise ValueError('broken firmware')\n"
HANGS = b"def main():\n    while True:\n        pass\n"


def make_home(folder):
    home = Home(folder)
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "op", "issuer", encrypted=False)
    trust.build(home, "hall")
    return home


@cache
def compiled():
    """The compiled modules, the app among them by the name `real`; and their bytecode."""
    files, abi = bundles.compile_files("UNIX", ROOT)
    files["chargekeep/real.mpy"] = files.pop("chargekeep/app.mpy")
    files |= bundles.root_files("UNIX", ROOT)
    return files, abi


def make(home, version, app, **changes):
    """A bundle with the source `app` as its app; `changes` of what `bundle.sign` takes, and
    `more` files."""
    files, abi = compiled()
    files = files | {"chargekeep/app.py": app}
    how = {"version": version, "text": f"0.0.{version}", "abi": abi, "board": "UNIX"} | changes
    files = files | how.pop("more", {})
    return bundles.sign(home, how.pop("site", "hall"), how.pop("board"), files, **how)
