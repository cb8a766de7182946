"""The site builds without a warning, is whole, has every public name, and needs nothing from the network."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from sphinx.util.inventory import InventoryFile

import saferocks
from saferocks import debug, events, metrics, otel, testing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BUILD_SECONDS = 300
#: What is only for saferocks itself, though it has no underscore.
NOT_FOR_USERS = {"ReadOptions.native", "ReadOptions.beyond_hints", "AccessType.native"}
#: Of classes whose methods stand with another one's, where they are the same.
ELSEWHERE = ("saferocks.RdictKeys", "saferocks.RdictValues", "saferocks.RdictColumns", "saferocks.RdictEntities")
#: Tags and attributes by which a page has a browser fetch something by itself.
FETCHES = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    built = folder / "html"
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(DOCS), str(built)],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, BeautifulSoup]:
    """Each page of the site, parsed."""
    return {file: BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser") for file in site.rglob("*.html")}


def methods(owner: Any) -> Iterator[str]:
    """Yield the names of what a class of ours offers."""
    for name in dir(owner):
        value = inspect.getattr_static(owner, name)
        if not name.startswith("_") and (callable(value) or isinstance(value, (property, staticmethod, classmethod))):
            yield name


def public_names() -> Iterator[str]:
    """Yield the full names of all that is to be in the reference."""
    for name in saferocks.__all__:
        value = getattr(saferocks, name)
        if name != "__version__":
            yield f"saferocks.{name}"
        is_ours = getattr(value, "__module__", "").startswith("saferocks.")
        if is_ours and isinstance(value, type) and not issubclass(value, BaseException):
            yield from (f"saferocks.{name}.{each}" for each in methods(value))
    for module in (debug, events, metrics, otel, testing):
        yield from (f"{module.__name__}.{name}" for name in module.__all__)


def test_every_page_is_in_the_site(site: Path) -> None:
    """Each page of the documentation is one of the site's."""
    wanted = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")}
    assert wanted - {page.relative_to(site) for page in site.rglob("*.html")} == set()


def test_every_page_is_reached_from_the_front(pages: dict[Path, BeautifulSoup], site: Path) -> None:
    """The front page's lists lead to each page, at once or by that of the reference."""
    reached = {link.partition("#")[0] for link in links(pages[site / "index.html"])}
    written = {page.relative_to(DOCS).with_suffix(".html").as_posix() for page in DOCS.rglob("*.md")}
    assert written - {"index.html"} - reached == set()


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    """Each name that the package offers has its entry, and so has each method of its classes."""
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", os.path.join)
    found = {name for kind in inventory if kind.startswith("py:") for name in inventory[kind]}
    wanted = {
        name
        for name in public_names()
        if name.removeprefix("saferocks.") not in NOT_FOR_USERS and name.rpartition(".")[0] not in ELSEWHERE
    }
    assert sorted(wanted - found) == []


def links(page: BeautifulSoup) -> list[str]:
    """Return the addresses of a page's links."""
    return [str(link["href"]) for link in page.find_all("a", href=True)]


def test_every_link_within_the_site_leads_somewhere(pages: dict[Path, BeautifulSoup]) -> None:
    """Each link is to a file of the site, and to a place that is on it."""
    places = {file: {str(tag["id"]) for tag in page.find_all(id=True)} for file, page in pages.items()}
    broken = []
    for file, page in pages.items():
        for link in links(page):
            to = urlsplit(link)
            if to.scheme:
                continue
            target = (file.parent / unquote(to.path)).resolve() if to.path else file
            anchor = unquote(to.fragment)
            if not target.is_file() or (anchor and target in places and anchor not in places[target]):
                broken.append(f"{file.name}: {link}")
    assert broken == []


def test_no_parameter_is_a_link(pages: dict[Path, BeautifulSoup]) -> None:
    """The entry of a function speaks of its parameters without linking to methods of the same names."""
    linked = [
        (str(entry.dt["id"]), link.get_text())
        for page in pages.values()
        for entry in page.select("dl.py.method, dl.py.function")
        if entry.dt is not None and entry.dt.get("id")
        for link in entry.select("dd a.reference")
        if link.get_text() in {name.get_text() for name in entry.dt.select("em.sig-param > span.n:first-child")}
    ]
    assert linked == []


def test_the_site_needs_no_network(pages: dict[Path, BeautifulSoup], site: Path) -> None:
    """No page has a browser fetch a script, a style, a font or an image from elsewhere, nor does a style."""
    fetched = [
        str(tag[attribute])
        for page in pages.values()
        for name, attribute in (*FETCHES.items(), ("link", "href"))
        for tag in page.find_all(name, **{attribute: True})  # type: ignore[arg-type]
    ]
    fetched += [part for file in site.rglob("*.css") for part in file.read_text(encoding="utf-8").split("url(")[1:]]
    assert [each[:80] for each in fetched if each.lstrip("\"'").startswith(("http:", "https:", "//"))] == []
    assert fetched != []


def test_no_page_shows_an_address_in_memory(pages: dict[Path, BeautifulSoup]) -> None:
    """No default in a signature is an object without a name."""
    shown = {file.name: [tag.get_text() for tag in page.select("dt.sig")] for file, page in pages.items()}
    assert [
        (name, text) for name, texts in shown.items() for text in texts if " object>" in text or " at 0x" in text
    ] == []
