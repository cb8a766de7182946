"""The project keeps its own rules: what it exports, who imports whom, and that every test says what it proves."""

from __future__ import annotations

import ast
import importlib
import re
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import rocksdict

import saferocks
from saferocks import _api

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "saferocks").rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("test_*.py"))
ARCHITECTURE = ROOT / "docs" / "architecture.md"

#: The rooms of the package, lowest first. A module imports from its own room and from those before
#: it, never from a later one. A new module is given a room here.
ROOMS: tuple[tuple[str, ...], ...] = (
    (
        "_process",
        "errors",
        "_interrupts",
        "events",
        "_settings",
        "_log_reader",
        "_log_files",
        "_directory",
        "_ordering",
        "_status",
        "_startup",
        "_allowances",
        "_deadlines",
        "_bound",
        "_totals",
        "_text",
        "_manifest",
        "_options_file",
        "_limits",
        "_lock_holder",
        "_terminal",
        "_temporary",
        "_remedies",
    ),
    ("_engine", "_in_use", "_instance", "_views", "_cursor"),
    ("_registry", "_options"),
    ("_watch", "_telling"),
    ("_tally",),
    ("_guard",),
    ("_life", "_handle", "_leases", "_fork"),
    (
        "_iterator",
        "_rows",
        "_scan",
        "_scan_methods",
        "_snapshot",
        "_batch_writes",
        "_batch",
        "_owner",
        "_family_handle",
        "_files",
        "inspection",
        "_figures",
        "_metrics",
        "_groups",
        "_secondary",
    ),
    ("_column_family",),
    ("_family_methods", "_batch_methods", "_opening", "_closing"),
    ("_database", "_reckoning", "_dump"),
    ("_api",),
    ("__init__",),
    ("_shadow_files",),
    ("_shadow", "_checkup"),
    ("_command_inspect", "_command_scan", "_command_doctor", "_command_verify"),
    ("_command",),
    ("__main__",),
    ("_debug_figures", "_debug_access"),
    ("_debug_page",),
    ("_debug_server",),
    ("testing", "metrics", "otel", "debug"),
    ("_leak_report", "_allow_leaks", "_tracebacks"),
    ("_leak_summary",),
    ("_leak_check",),
    ("_leak_start",),
    ("pytest_plugin",),
)
ROOM_OF = {module: number for number, room in enumerate(ROOMS) for module in room}

#: In `dir(rocksdict)`, and no symbol of its interface.
NOT_PUBLIC = {"rocksdict"}  # the compiled module that the package re-exports


def runtime_imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run, late ones included, and not those for type checkers."""
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = list(node.orelse)
    for child in children:
        yield from runtime_imports(child)


def imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return the full names of what an import statement may bind."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, "relative imports hide who imports whom"
    return [f"{node.module}.{alias.name}" for alias in node.names]


def imports_of(file: Path) -> list[str]:
    """Return the full names of all that a file imports at run time."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [name for node in runtime_imports(tree) for name in imported_names(node)]


def rooms_entered(file: Path) -> set[str]:
    """Return the modules of this package that a file imports at run time."""
    own = {module.stem for module in MODULES}
    found = set()
    for name in imports_of(file):
        package, _, rest = name.partition(".")
        if package == "saferocks":
            first = rest.partition(".")[0]
            found.add(first if first in own else "__init__")
    return found


def module_id(file: Path) -> str:
    """Name a file in the list of tests."""
    return file.stem


def public_names() -> set[str]:
    """Return what the package has to offer, its submodules left aside."""
    return {name for name in vars(_api) if name.isidentifier() and not name.startswith("_")}


# --------------------------------------------------------------------------- what is exported


@pytest.mark.parametrize("name", sorted({name for name in dir(rocksdict) if not name.startswith("__")} - NOT_PUBLIC))
def test_every_public_name_of_rocksdict_is_importable(name: str) -> None:
    """`from saferocks import X` works for every public name X of rocksdict."""
    assert hasattr(saferocks, name)
    assert name in saferocks.__all__


def test_all_lists_exactly_what_is_public() -> None:
    """`__all__` holds every public name and the version, and nothing else."""
    assert set(saferocks.__all__) == public_names() | {"__version__"}


def test_all_lists_each_name_once() -> None:
    """No name stands in `__all__` twice."""
    assert len(saferocks.__all__) == len(set(saferocks.__all__))


def test_every_error_is_exported() -> None:
    """Every exception and warning of `saferocks.errors` is a name of the package."""
    assert set(saferocks.errors.__all__) <= set(saferocks.__all__)


def test_every_error_names_a_public_module() -> None:
    """What a traceback calls an exception or warning of the package is where a program can import it from."""
    public = [getattr(saferocks, name) for name in saferocks.__all__]
    errors = [each for each in public if isinstance(each, type) and issubclass(each, BaseException)]
    assert {each.__module__ for each in errors} <= {"saferocks", "saferocks.errors"}
    assert all(getattr(importlib.import_module(each.__module__), each.__name__) is each for each in errors)


def test_every_public_class_and_function_is_documented() -> None:
    """Whatever the package exports and defines itself has a docstring."""
    own = [getattr(saferocks, name) for name in saferocks.__all__ if name != "__version__"]
    undocumented = [each for each in own if each.__module__.startswith("saferocks") and not each.__doc__]
    assert undocumented == []


def test_the_version_is_in_one_place() -> None:
    """pyproject.toml takes the version from `saferocks.__version__`, and the changelog has an entry for it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in text
    assert '[tool.hatch.version]\npath = "saferocks/__init__.py"\n' in text
    assert not re.search(r"^version\b", text, re.MULTILINE)
    entries = re.findall(r"^## \[?([\d.]+)", (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert entries[0] == saferocks.__version__


def test_the_package_is_marked_as_typed() -> None:
    """Type checkers find the marker that lets them read the package's annotations."""
    assert (ROOT / "saferocks" / "py.typed").is_file()


# --------------------------------------------------------------------------- who imports whom


@pytest.mark.parametrize("file", MODULES, ids=module_id)
def test_only_the_engine_imports_rocksdict(file: Path) -> None:
    """No module but `_engine` imports rocksdict at run time."""
    found = [name for name in imports_of(file) if name.split(".")[0] == "rocksdict"]
    if file.stem == "_engine":
        assert found != []
    else:
        assert found == []


@pytest.mark.parametrize("file", MODULES, ids=module_id)
def test_imports_run_one_way(file: Path) -> None:
    """No module imports from a room after its own."""
    assert file.stem in ROOM_OF, f"give {file.stem} a room in ROOMS"
    assert [name for name in sorted(rooms_entered(file)) if ROOM_OF[name] > ROOM_OF[file.stem]] == []


def test_imports_form_no_circle() -> None:
    """Within a room, too, no module comes back to itself along its imports."""
    graph = {file.stem: rooms_entered(file) for file in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def modules_of_the_picture() -> list[str]:
    """Return the modules in the picture of the page on the architecture, from its top."""
    (picture,) = re.findall(r"```\n(   errors .*?)```", ARCHITECTURE.read_text(encoding="utf-8"), re.DOTALL)
    names = re.findall(r"^   (\w+(?: \w+)*)(?:  .*)?$", picture, re.MULTILINE)
    return [module for line in names for module in line.split()]


def test_the_picture_of_the_rooms_has_every_module() -> None:
    """The page on the architecture shows each module once, the rooms in their order."""
    shown = modules_of_the_picture()
    assert sorted(shown) == sorted(ROOM_OF)
    assert shown == sorted(shown, key=ROOM_OF.__getitem__)


@pytest.mark.parametrize("file", MODULES, ids=module_id)
def test_imports_run_up_the_picture(file: Path) -> None:
    """No module imports one that stands below it in the picture."""
    shown = modules_of_the_picture()
    assert [name for name in rooms_entered(file) if shown.index(name) > shown.index(file.stem)] == []


# --------------------------------------------------------------------------- the tests themselves


def functions_without_sentence(file: Path) -> list[str]:
    """Return the tests and fixtures of a file that do not say in a sentence what they are for."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            sentence = ast.get_docstring(node) or ""
            if not sentence.rstrip().endswith("."):
                found.append(f"{file.name}:{node.lineno} {node.name}")
    return found


@pytest.mark.parametrize("file", TEST_FILES, ids=module_id)
def test_every_test_says_what_must_hold(file: Path) -> None:
    """Every test function has a docstring that ends like a sentence."""
    assert functions_without_sentence(file) == []


@pytest.mark.parametrize("file", TEST_FILES, ids=module_id)
def test_no_test_name_is_defined_twice(file: Path) -> None:
    """No test replaces another of the same name, which would then never run."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]:
        names = [node.name for node in scope.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        assert sorted(names) == sorted(set(names))


def test_the_checks_of_imports_see_late_ones_and_skip_those_for_types() -> None:
    """An import inside a function counts, one under TYPE_CHECKING does not."""
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    import rocksdict\n"
        "else:\n"
        "    import one\n"
        "def late():\n"
        "    try:\n"
        "        from two import three\n"
        "    except ImportError:\n"
        "        import four.five\n"
    )
    names = [name for node in runtime_imports(tree) for name in imported_names(node)]
    assert names == ["typing.TYPE_CHECKING", "one", "two.three", "four.five"]
