"""Each public docstring says what there is to say: of every argument, of what is returned, of what is raised."""

from __future__ import annotations

import builtins
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sphinx.ext.napoleon import Config, GoogleDocstring

import saferocks
from saferocks import debug, events, inspection, metrics, otel, testing

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Config(napoleon_use_param=True, napoleon_use_ivar=True, napoleon_use_rtype=False)
#: Of `saferocks.inspection`, which has no `__all__`: what is in the reference.
OTHERS = {
    "saferocks.inspection.pending_deadlines": inspection.pending_deadlines,
    "saferocks.inspection.heap_used": inspection.heap_used,
}
#: Classes whose objects come from elsewhere, as their docstrings say.
NOT_CONSTRUCTED = {"saferocks.SnapshotFamily", "saferocks.debug.DebugServer", "saferocks.Scope"}
#: What a docstring may say in place of the arguments that another one has as well.
SAME = re.compile(r"(?:arguments|parameters) are those of `([\w.]+)`")
#: How a first line may say what is returned.
RETURNING = ("Return ", "Tell ", "List ")


def own_members(name: str, owner: type) -> Iterator[tuple[str, Any]]:
    """Yield what a class offers that is documented, its properties left aside."""
    for member in dir(owner):
        value = inspect.getattr_static(owner, member)
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if not member.startswith("_") and inspect.isfunction(function):
            yield f"{name}.{member}", function


def public_objects() -> dict[str, Any]:
    """Return the functions, classes and methods that users have, by their full names."""
    found = dict(OTHERS)
    named = [(saferocks, name) for name in saferocks.__all__ if name != "__version__"]
    named += [(module, name) for module in (debug, events, metrics, otel, testing) for name in module.__all__]
    for module, name in named:
        value = getattr(module, name)
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__.startswith("saferocks"):
            found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                found.update(own_members(f"{module.__name__}.{name}", value))
    return found


PUBLIC = public_objects()


class Said:
    """What a docstring says.

    Attributes:
        summary: Its first line.
        arguments: The arguments and attributes that it names.
        returns: Whether it has a section on what is returned.
        returns_a_type: Whether what stands before a colon there is taken for a type.
        raises: The names of the errors and warnings.
    """

    def __init__(self, value: Any) -> None:
        self.text = inspect.getdoc(value) or ""
        self.summary = self.text.partition("\n")[0]
        lines = GoogleDocstring(self.text, CONFIG, what="class" if inspect.isclass(value) else "function").lines()
        fields = [line for line in lines if line.startswith(":")]
        self.arguments = {
            found[1].replace("\\", "").lstrip("*")
            for line in fields
            if (found := re.match(r":(?:param|ivar) (\S+):", line))
        }
        self.returns_a_type = any(line.startswith(":returns: *") for line in lines)
        self.returns = any(line.startswith((":returns:", ":Yields:")) for line in lines)
        self.raises = [found[1] for line in fields if (found := re.match(r":raises (\S+):", line))]

    def also(self, name: str) -> set[str]:
        """Return the arguments of what this docstring refers to."""
        found = SAME.search(self.text)
        if found is None:
            return set()
        owner = name.rpartition(".")[0]
        return Said(PUBLIC.get(f"{owner}.{found[1]}") or PUBLIC[f"saferocks.{found[1]}"]).arguments


def parameters(value: Any) -> set[str]:
    """Return the names of what a function or a class is called with."""
    function = vars(value).get("__init__") if inspect.isclass(value) else value
    return set() if function is None else set(inspect.signature(function).parameters) - {"self"}


@pytest.mark.parametrize("name", PUBLIC)
def test_each_argument_is_described(name: str) -> None:
    """The docstring names each argument and no other, by itself or by naming the docstring that has the same ones."""
    value, said = PUBLIC[name], Said(PUBLIC[name])
    taken = set() if name in NOT_CONSTRUCTED else parameters(value)
    assert taken - said.arguments - said.also(name) == set()
    if not inspect.isclass(value):
        assert said.arguments - taken == set()


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isfunction(value)])
def test_what_is_returned_is_said(name: str) -> None:
    """The docstring of what returns something says what, in its first line or in a section."""
    said, returned = Said(PUBLIC[name]), inspect.signature(PUBLIC[name]).return_annotation
    if returned not in ("None", None, "Iterator[None]"):
        assert said.returns or said.summary.startswith(RETURNING)
    else:
        assert not said.returns
    assert not said.returns_a_type


@pytest.mark.parametrize("name", PUBLIC)
def test_the_first_line_is_a_sentence_and_what_is_raised_exists(name: str) -> None:
    """The docstring begins with a line that ends like a sentence, and names errors that there are."""
    said = Said(PUBLIC[name])
    assert said.summary.endswith(".")
    assert [each for each in said.raises if not hasattr(saferocks, each) and not hasattr(builtins, each)] == []


def test_interrogate_finds_a_docstring_everywhere() -> None:
    """Whatever has a public name has a docstring, as the project's configuration of interrogate demands."""
    done = subprocess.run(
        [sys.executable, "-m", "interrogate", "-v", "saferocks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
