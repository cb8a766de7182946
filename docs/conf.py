"""How Sphinx builds this site: `sphinx-build -E -W docs site`, from where the project is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import saferocks

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "saferocks"
author = "the authors of saferocks"
project_copyright = author
release = version = saferocks.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

# ---- the pages

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
highlight_language = "text"
#: Without the empty line with which an example in a page ends.
highlight_options = {"pycon": {"stripnl": True}, "python": {"stripnl": True}}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# ---- the reference

#: What stands in single backticks in a docstring is a name of ours, which becomes a link, or one of RocksDB's.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# ---- how it looks

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"saferocks {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}


def _leave_out_what_is_to_come(app: Sphinx, page: str, source: list[str]) -> None:
    """Leave out of the front page's lists the pages that are not written yet."""
    if page == "index":
        text, folder = source[0], Path(app.srcdir)
        entries = re.findall(r"^[a-z/*-]+$", text, re.MULTILINE)
        for entry in (each for each in entries if not any(folder.glob(f"{each}.md"))):
            text = text.replace(f"\n{entry}\n", "\n")
        source[0] = text


def setup(app: Sphinx) -> None:
    """Connect what is done besides."""
    app.connect("source-read", _leave_out_what_is_to_come)
