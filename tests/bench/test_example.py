"""What others copy to make a bench of their own passes on our boards."""

import re
from pathlib import Path

import pytest

from chargekeep_tools.bench import example

README = Path(example.__file__).with_name("README.md")


def test_the_example_passes(board, home, capsys):
    example.check(board, home)
    assert "token presented: ACCEPTED 1" in capsys.readouterr().out


@pytest.mark.nightly
def test_the_test_in_the_readme_passes(tmp_path):
    (code,) = re.findall("```python\n(.*?)```", README.read_text(), re.S)
    names = {}
    exec(code.replace('"RPI_PICO"', '"unix"'), names)
    (test,) = [names[name] for name in names if name.startswith("test_")]
    test(tmp_path)
