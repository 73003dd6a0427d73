"""Firmware on trial that hangs as it is imported, on a real image: its watchdog restarts the chip,
and boot.py goes back to the version before."""

from chargekeep_tools.bench.rp2040 import filesystem
from chargekeep_tools.programs import firmware_root

HANGS = b"import time\nprint('hanging')\ntime.sleep(100)\n"
WORKS = b"def main():\n    print('works')\n"


def test_a_hang_on_trial_is_rolled_back(emulated):
    from chargekeep_tools.bench.rp2040.chip import Chip

    files = {
        name: (firmware_root() / "firmware" / name).read_bytes() for name in ("boot.py", "main.py")
    }
    files |= {"slot": b"b 3", "a/chargekeep/app.py": WORKS, "b/chargekeep/app.py": HANGS}
    files |= {f"{slot}/chargekeep/__init__.py": b"" for slot in "ab"}
    emulated.install(files)
    chip = Chip(emulated.image, flash=emulated.flash, radio=emulated.radio)
    chip.boot()
    assert chip.run(40, lambda: b"works" in chip.serial.received)
    assert chip.restarts == 3 and chip.serial.received.count(b"hanging") == 3
    assert 24 < chip.now_s < 30
    flash, _ = chip.power_cut()
    files = filesystem.read(emulated.name, flash)
    assert (files["slot"], files["rolled_back"]) == (b"a", b"b")
