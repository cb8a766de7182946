"""What the reference says without docstrings is all there is: options of the command and the plugin, variables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_reference_has_every_option_of_the_command() -> None:
    """The tables of the page have each option that there is, with what `--help` says of it, and no other."""
    pytest.importorskip("resource", reason="this system has no `saferocks` command")
    from saferocks import _command

    text = (ROOT / "docs/reference/command.md").read_text().replace("`", "")
    (commands,) = (each.choices for each in _command._parser()._actions if each.dest == "command")
    expected = {
        (", ".join(option.option_strings), (option.help or "").replace("`", ""))
        for command in commands.values()
        for option in command._actions
        if option.option_strings
    }
    rows = re.findall(r"^\| (-[^|]*) \| ([^|]*) \|$", text, re.MULTILINE)
    assert {(re.sub(r"(?<!,) \S+$", "", option), what) for option, what in rows} == expected
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(commands)


def test_the_reference_has_every_setting_from_outside() -> None:
    """The pages of the reference name each option of the plugin, and each variable of the environment that is read."""
    source = "".join(file.read_text() for file in (ROOT / "saferocks").glob("*.py"))
    options = re.findall(r"\b(?:addini|addoption)\(\s*\"([^\"]+)\"", source)
    variables = set(re.findall(r"\"(SAFEROCKS_\w+)\"", source))
    assert (len(options), len(variables)) == (4, 2)
    for name, page in [(name, "testing") for name in options] + [(name, "settings") for name in variables]:
        assert name in (ROOT / f"docs/reference/{page}.md").read_text()
