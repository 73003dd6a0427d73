"""A real rp2 MicroPython image on an emulated RP2040, in emulated time, with a power switch."""
