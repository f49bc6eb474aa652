"""How Sphinx makes the site of these pages (`make site`). Nothing here is read when hpccarbon runs."""

from hpccarbon import __version__

project = "hpccarbon"
author = "the hpccarbon project"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["generate.py", "conf.py"]
myst_heading_anchors = 4  # links such as meters.md#what-was-tried work here as they do on a code host
myst_enable_extensions = ["deflist"]
html_theme = "furo"
html_title = f"hpccarbon {release}"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
nitpicky = False
