"""The firmware as MicroPython's own installer brings it onto a board."""

import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from chargekeep_tools import mip

STATION = "bench", "pole-1"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *what):
        pass


@pytest.fixture
def url(board, tmp_path):
    """Where the package of the board is served."""
    folder = tmp_path / "package"
    mip.write(board.name, folder)
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_what_mip_installs_becomes_a_charger(board, home, url):
    if not hasattr(board, "port"):
        pytest.skip("mpremote wants a serial port")
    board.power_on(app=False)
    target = "." if board.name == "UNIX" else "/"  # whose root is that of the desktop
    mpremote = [sys.executable, "-m", "mpremote", "connect", board.port, "resume"]
    done = subprocess.run(
        [*mpremote, "mip", "install", "--target", target, url], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for path, content in mip.files(board.name).items():
        assert board.get(path) == content, path
    board.power_cut()
    board.commission(home, *STATION)
    board.power_cut()
    board.power_on()
    assert board.run(30, lambda: board.status.get("register_wh") is not None), board.console
