"""How Sphinx builds this site: `sphinx-build -E -W docs site`, from where the project is."""

from __future__ import annotations

import saferocks

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
