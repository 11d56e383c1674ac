"""How Sphinx builds the site: ``make docs``."""

from __future__ import annotations

from airflow_provider_youcan import __version__

project = "airflow-provider-youcan"
author = "airflow-provider-youcan"
version = release = __version__
html_title = f"YouCan for Airflow {__version__}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
templates_path: list[str] = []
exclude_patterns: list[str] = []

# Links to a heading, as in reconciling.md#how-fast.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
