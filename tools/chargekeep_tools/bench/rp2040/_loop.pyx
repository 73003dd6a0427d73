# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The emulated RP2040's run loop: stops exactly, to the instruction, at a time or a count. And its
divider, which MicroPython uses at every turn: in Python it would take a third of all time.

Built into rp2040py's package of compiled modules (build.py), whose classes it needs as C types.
"""

from rp2040py.native._cortex_m0_core cimport CortexM0Core
from rp2040py.native._pio cimport RPPIO
from rp2040py.native._rp2040 cimport RP2040
from rp2040py.native._simulation_clock cimport ClockAlarm, SimulationClock

from rp2040py.sio import RPSIO

cdef double CYCLE_NS = 8.0  # 125 MHz


def run(RP2040 chip, double until_ns, long long instructions):
    """Run until the clock shows `until_ns` or `instructions` were executed; the number executed.

    A core that waits for an event costs nothing: time jumps to the next alarm.
    """
    cdef CortexM0Core core = chip.core
    cdef SimulationClock clock = chip.clock
    cdef RPPIO pio0 = chip.pio[0]
    cdef RPPIO pio1 = chip.pio[1]
    cdef ClockAlarm alarm
    cdef long long done = 0
    cdef long long cycles
    cdef double step
    while done < instructions and clock._nanos_counter < until_ns:
        if core.waiting:
            alarm = clock._next_alarm
            if alarm is None:
                clock._nanos_counter = until_ns
                break
            step = max(0.0, min(alarm.nanos, until_ns) - clock._nanos_counter)
            clock.tick(step)
            cycles = max(1, <long long>(step / CYCLE_NS))
        else:
            cycles = core.execute_instruction()
            done += 1
            step = cycles * CYCLE_NS
            alarm = clock._next_alarm
            if alarm is not None and alarm.nanos <= clock._nanos_counter + step:
                clock.tick(step)
            else:
                clock._nanos_counter += step
        if not pio0.stopped:
            pio0.advance(cycles)
        if not pio1.stopped:
            pio1.advance(cycles)
    return done


class Sio(RPSIO):
    """rp2040py's, its divider compiled (RP2040 datasheet, section 2.3.1.5)."""

    def read_uint32(self, unsigned int offset):
        if offset == 0x70:  # QUOTIENT
            self.div_csr = 1
            return self.div_quotient
        if offset == 0x74:  # REMAINDER
            return self.div_remainder
        if offset == 0x78:  # CSR
            return self.div_csr
        return RPSIO.read_uint32(self, offset)

    def write_uint32(self, unsigned int offset, value):
        if not 0x60 <= offset < 0x70:  # UDIVIDEND, UDIVISOR, SDIVIDEND, SDIVISOR
            RPSIO.write_uint32(self, offset, value)
            return
        if offset & 4:
            self.div_divisor = value
        else:
            self.div_dividend = value
        self.update_hardware_divider(offset >= 0x68)

    def update_hardware_divider(self, bint signed):
        cdef long long dividend = self.div_dividend & 0xFFFFFFFF
        cdef long long divisor = self.div_divisor & 0xFFFFFFFF
        if divisor == 0:
            RPSIO.update_hardware_divider(self, signed)
            return
        if signed:
            dividend, divisor = <int>dividend, <int>divisor
        self.div_quotient = <unsigned int>(dividend // divisor)
        self.div_remainder = <unsigned int>(dividend % divisor)
        self.div_csr = 3
