"""What is published is whole: the wheel works where nothing else of the project is, the sdist makes the same one."""

from __future__ import annotations

import email
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings along

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Seconds that an installation or a build may take.
PATIENCE = 300
SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    """Run a program as outside of the project: nothing in the environment leads back to it."""
    own = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "SAFEROCKS"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=own, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def build(project: Path, target: Path, *what: str) -> None:
    """Build distributions; with the build backend that is here, if it is, or else with one of the build's own."""
    isolation = ["--no-isolation"] if find_spec("hatchling") else []
    run(sys.executable, "-m", "build", *isolation, *what, "--outdir", target, project, cwd=target.parent)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "--wheel", "--sdist")
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, what it says that it needs, and pytest."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    run(folder / SCRIPTS / "python", "-m", "pip", "install", "-q", built[0], "pytest>=8", cwd=folder)
    return folder / SCRIPTS


@pytest.fixture
def in_it(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a program of that environment in a directory of its own; a text that is given is one in Python."""

    def call(*command: str, program: str = "", status: int = 0) -> str:
        if program:
            (tmp_path / "program.py").write_text(textwrap.dedent(program), encoding="utf-8")
            command = ("python", "program.py")
        return run(installed / command[0], *command[1:], cwd=tmp_path, status=status)

    return call


def contents(wheel: Path) -> dict[str, str]:
    """Return a digest of every file of a wheel, by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def tracked(folder: str) -> set[str]:
    """Return the files of a folder that belong to the project."""
    files = (file for file in (ROOT / folder).rglob("*") if file.is_file())
    return {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    """Every file of `saferocks/` is in the wheel, `py.typed` and what the debug page shows included, and no other."""
    own = {name for name in contents(built[0]) if not name.startswith(f"saferocks-{saferocks.__version__}.dist-info/")}
    assert own == tracked("saferocks")
    assert {"saferocks/py.typed", "saferocks/_assets/debug.js"} <= own


def test_the_metadata_is_what_pyproject_says(built: tuple[Path, Path]) -> None:
    """Name, version, licence, Python, extras, classifiers and what is needed are told to whoever installs it."""
    info = f"saferocks-{saferocks.__version__}.dist-info"
    with zipfile.ZipFile(built[0]) as archive:
        told = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
    assert (told["Name"], told["Version"]) == ("saferocks", saferocks.__version__)
    assert (told["License-Expression"], told["License-File"]) == ("MIT", "LICENSE")
    assert licence == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert told["Requires-Python"] == PROJECT["requires-python"]
    assert set(told.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert sorted(told.get_all("Classifier")) == sorted(PROJECT["classifiers"])
    needed = {re.split(r"[<>=;\s]", each)[0] for each in told.get_all("Requires-Dist") if "extra ==" not in each}
    assert needed == {"rocksdict", "psutil", "structlog"}
    assert told.get_all("Project-URL") is None
    assert told.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_sdist_holds_the_whole_project(built: tuple[Path, Path]) -> None:
    """Package, tests and the workflows that they read, docs and the stress harness are there, README and licence."""
    top = f"saferocks-{saferocks.__version__}"
    with tarfile.open(built[1]) as archive:
        found = {name.partition("/")[2] for name in archive.getnames() if name.startswith(f"{top}/")}
    expected = set().union(*map(tracked, ("saferocks", "tests", ".github", "docs", "stress")))
    assert found - {"PKG-INFO", ".gitignore"} == expected | {"README.md", "LICENSE", "pyproject.toml"}


def test_the_sdist_makes_the_same_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Whoever builds from the sdist gets, byte for byte, what is in the wheel."""
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path / "unpacked")  # noqa: S202 - it is our own
    (project,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "again").mkdir()
    build(project, tmp_path / "again", "--wheel")
    (wheel,) = (tmp_path / "again").glob("*.whl")
    assert contents(wheel) == contents(built[0])


@pytest.mark.skipif(find_spec("twine") is None, reason="twine is not installed")
def test_an_index_would_take_them(built: tuple[Path, Path], tmp_path: Path) -> None:
    """`twine check --strict` finds nothing wrong with either."""
    run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=tmp_path)


def test_the_installed_package_works(in_it: Callable[..., str], installed: Path) -> None:
    """The package is that of the wheel, and databases, the debug page and `py.typed` are there."""
    told = in_it(
        program="""
            import importlib.metadata, importlib.resources, urllib.request
            import saferocks
            print(saferocks.__file__)
            print(saferocks.__version__, importlib.metadata.version("saferocks"))
            print(importlib.resources.files("saferocks").joinpath("py.typed").is_file())
            with saferocks.open("db") as db, db.write_batch() as batch:
                batch[b"k"] = b"v"
            with saferocks.open("db") as db, db.items() as items, saferocks.debug.serve(0) as server:
                print(list(items))
                page = urllib.request.urlopen(server.url).read().decode()
                print("iterator" in page, "svg" in page)
        """
    ).splitlines()
    assert Path(told[0]).is_relative_to(installed.parent)
    assert told[1:] == [f"{saferocks.__version__} {saferocks.__version__}", "True", "[(b'k', b'v')]", "True True"]


def test_the_plugin_is_on_after_an_installation(in_it: Callable[..., str], tmp_path: Path) -> None:
    """By its entry point pytest finds the plugin: a test that leaks fails, and its line is named."""
    (tmp_path / "test_leak.py").write_text(
        "import saferocks\n\ndef test(tmp_path):\n    with saferocks.open(tmp_path / 'db') as db:\n"
        "        kept.append(db.snapshot().__enter__())\n\nkept = []\n"
    )
    told = in_it("python", "-m", "pytest", "-q", "test_leak.py", status=1)
    assert "saferocks: this test leaked 1 handle" in told
    assert "snapshot opened at test_leak.py:5" in told


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no `saferocks` command")
def test_the_command_is_there(in_it: Callable[..., str]) -> None:
    """The wheel brings the command, which reads a database without anything that is optional."""
    in_it(program="import saferocks\nwith saferocks.open('db') as db:\n    db[b'k'] = b'v'\n")
    assert in_it("saferocks", "scan", "db") == "k\tv\n"
    assert "it opens for reading, with 1 column family" in in_it("saferocks", "doctor", "db")


def test_the_metrics_say_what_they_lack(in_it: Callable[..., Any]) -> None:
    """Without its extra the module for Prometheus is not to be had, and the error names the package."""
    told = in_it(program="try:\n    import saferocks.metrics\nexcept ImportError as error:\n    print(error)\n")
    assert "prometheus" in told
