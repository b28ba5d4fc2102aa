"""How ``make docs`` builds the site: the Markdown files as they lie here, and the docstrings of the public API."""

from __future__ import annotations

import batchflex

project = "batchflex"
author = "the batchflex authors"
version = release = batchflex.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]

# The source is the repository, so that links between its files lead to the same pages here as on a code host.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md"]
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # examples of JSON have an ellipsis in them

html_theme = "furo"
html_title = f"batchflex {version}"
html_extra_path = ["site"]
html_show_copyright = html_show_sphinx = False
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
# A reference in our own docstrings must lead somewhere; types of other packages and of sections of a job have no page here.
nitpicky = True
nitpick_ignore_regex = [
    (
        "py:(class|data|obj)",
        r"(collections|datetime|pathlib|pl|polars|pydantic|typing|batchflex\.config)\..*|Path|BaseModel|Enum",
    ),
    (
        "py:class",
        r"(batchflex\.scoring\.data_frames\.)?(F|JobLike|OnRow|Part|RowFunction|Scores)",
    ),  # types of arguments, told in words
]
