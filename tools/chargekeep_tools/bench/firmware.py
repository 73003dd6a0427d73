"""The firmware as files for a board without an operating system: compiled, in slot a, unsigned."""

import functools

from chargekeep_tools import mip

files = functools.cache(mip.files)
