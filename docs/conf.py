"""Settings of Sphinx for the site. What the site adds to Sphinx stands in `_ext`.

The build needs no network: other projects are linked through the lists of names in
`inventories`, mathematics is MathML, and fonts are those of the reader's system.
"""

import sys
from pathlib import Path

import pyrovae

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

project = "pyrovae"
author = "The pyrovae developers"
copyright = author
version = release = pyrovae.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "alternatives",
    "mathml",
    "docstrings",
    "links",
    "reference",
    "signatures",
    "stored_notebooks",
]
exclude_patterns = ["_build", "jupyter_execute", "**/.ipynb_checkpoints", "README.md"]
nitpicky = True
nitpick_ignore_regex = [("py:class", r"(.*\.)?(Item|_Latent)")]  # a type variable, a private class

# Pages
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_excludepatterns = ["notebooks/*"]  # the suite executes them; shown as stored
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

# Reference
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 72
napoleon_attr_annotations = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False

# Other projects: each list of names is an inventory of version 1, which is plain text.
intersphinx_mapping = {
    name: (address, str(DOCS / "inventories" / f"{name}.txt"))
    for name, address in {
        "python": "https://docs.python.org/3/",
        "pyro": "https://docs.pyro.ai/en/stable/",
        "numpy": "https://numpy.org/doc/stable/",
        "torch": "https://docs.pytorch.org/docs/stable/",
        "zuko": "https://zuko.readthedocs.io/stable/",
        "matplotlib": "https://matplotlib.org/stable/",
        "narwhals": "https://narwhals-dev.github.io/narwhals/",
        "pillow": "https://pillow.readthedocs.io/en/stable/",
        "rich": "https://rich.readthedocs.io/en/stable/",
    }.items()
}

# Look
html_theme = "furo"
html_title = "pyrovae"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
