"""The installer's whole path, typed into a terminal, is what the README shows.

`python tests/test_installer.py` types it again and writes it into the README.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from chargekeep_tools.programs import firmware_root

README = firmware_root() / "README.md"
BLOCK = re.compile(r"(<!-- installer -->\n```\n)(.*?)(```\n<!-- /installer -->)", re.DOTALL)

PATH = """
chargekeep keys create root --role root
chargekeep keys create office
chargekeep trust build --site depot
chargekeep tariff 1 --per-kwh 0.35 --currency EUR
chargekeep bundle build UNIX
chargekeep provision bay/board bay-1 --bundle UNIX-0.1.0.ckb --test-relay
sleep 3; chargekeep status bay/board | grep -E '^(firmware|register_wh|status|versions)'
chargekeep issue ALICE --for 8h --kwh 20 > alice.txt
cat alice.txt > bay/reader; sleep 5
chargekeep status bay/board | grep -E '^(evse|transaction)'
cat alice.txt > bay/reader; sleep 2
chargekeep logs bay/board | grep -E 'boot:|started|ended' | cut -c -82
chargekeep log verify bay/flash/flash.nor --station bay-1
"""


class Terminal:
    """A shell in a tmux session of its own; `type` waits until its prompt is back."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-L", f"chargekeep-{os.getpid()}", "-f", os.devnull]
        shell = "env PS1='$ ' bash --norc --noprofile"
        self._run("new-session", "-d", "-x", "180", "-y", "50", "-c", str(folder), shell)
        self._await_prompt(time.monotonic() + 10)

    def _run(self, *words: str) -> str:
        return subprocess.run(
            [*self._tmux, *words], check=True, capture_output=True, text=True
        ).stdout

    def text(self) -> str:
        """All that was on the screen, lines as they were printed."""
        lines = self._run("capture-pane", "-p", "-S", "-").rstrip().splitlines()
        return "".join(line.rstrip() + "\n" for line in lines)

    def type(self, line: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        self._run("send-keys", "-l", line)
        while not self.text().endswith(line + "\n") and time.monotonic() < deadline:
            time.sleep(0.05)
        self._run("send-keys", "Enter")
        self._await_prompt(deadline)

    def _await_prompt(self, deadline: float) -> None:
        while not self.text().endswith("\n$\n") and self.text() != "$\n":
            if time.monotonic() > deadline:
                raise TimeoutError(self.text())
            time.sleep(0.1)

    def close(self) -> None:
        self._run("kill-server")


def record(folder: Path) -> str:
    """What the terminal shows when the installer's path is typed into it."""
    environment = {
        "CHARGEKEEP_HOME": str(folder / "depot"),
        "CHARGEKEEP_PASSPHRASE": "of the recording only",
        "CHARGEKEEP_ROOT": str(firmware_root()),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    os.environ.update(environment)
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL}
    bench = subprocess.Popen(["chargekeep", "sim", "board", "bay"], **quiet)
    try:
        while not (folder / "bay" / "board").exists():
            time.sleep(0.1)
        terminal = Terminal(folder)
        try:
            for line in PATH.strip().splitlines():
                terminal.type(line)
            return terminal.text().removesuffix("$\n").replace(f"{folder}/", "")
        finally:
            terminal.close()
    finally:
        bench.terminate()
        bench.wait()


def told(text: str) -> list[str]:
    """The lines of `text` without what differs each time: times, names of keys, amounts."""
    return re.sub(r" +", " ", re.sub(r"\b[0-9a-f]{8,}\b|\d[\d,.:-]*Z?", "#", text)).splitlines()


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux")
def test_the_readme_shows_what_an_installer_sees(tmp_path, monkeypatch):
    for name in ("CHARGEKEEP_HOME", "CHARGEKEEP_PASSPHRASE", "CHARGEKEEP_ROOT", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # restored afterwards
    shown = BLOCK.search(README.read_text())
    assert shown, "README.md has no block <!-- installer -->"
    assert told(record(tmp_path)) == told(shown[2])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        typed = record(Path(folder))
    README.write_text(BLOCK.sub(lambda block: block[1] + typed + block[3], README.read_text()))
