"""A bench for charging stations: the same tests on a simulated, an emulated and a real board.

`Board` (board.py) is the contract: power, a serial console, a meter and a reader at the board's
UARTs, its relay, its own time. Three kinds of board keep it:

- `UnixBoard` (unix.py): the firmware in MicroPython's unix VM. Needs nothing.
- `EmulatedBoard` (emulated.py): a real rp2 image on an emulated RP2040, in emulated time; its
  power fails between any two instructions and in the middle of flash operations.
- `SerialBoard` (serialport.py): a board on a port, with a switch for its power and a serial
  adapter in the meter's place where there are such.

What uses the contract only runs on all of them. README.md lists it, example.py is such a bench in
one page, and tests/bench the project's own:

    with open_board("unix", folder) as board:     # or "RPI_PICO", "RPI_PICO_W", "/dev/ttyACM0"
        board.commission(home, "site", "station")
        board.power_cut()
        board.power_on()
        assert board.present(entitlement) == "ACCEPTED 1"
        assert board.run(20, until=lambda: board.permits)
        board.power_cut()

A meter of another kind is a `Peer` (peers.py) in place of `board.meter` before power comes on.
Images for the emulator are named by the environment: CHARGEKEEP_RP2_IMAGE (RPI_PICO) and
CHARGEKEEP_RP2_W_IMAGE (RPI_PICO_W), each the path of a .uf2 file.
"""

from chargekeep_tools.bench.board import Board, BoardError, Unavailable, open_board

__all__ = ["Board", "BoardError", "Unavailable", "open_board"]
