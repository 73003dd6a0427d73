"""Puts the firmware's sources into the wheel, so that `bundle build` works without this tree."""

from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py


class WithFirmware(build_py):
    def run(self):
        super().run()
        if self.editable_mode:  # programs.firmware_root finds the tree itself
            return
        root = Path(__file__).resolve().parent.parent
        for name in ("firmware", "boards"):
            target = Path(self.build_lib) / "chargekeep_tools" / "source" / name
            rmtree(target, ignore_errors=True)
            copytree(root / name, target, ignore=ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": WithFirmware})
