"""How Sphinx makes the book, for `make book`, from the committed notebooks, the docstrings and the pages beside this.

The sources stay where they lie in the repository, so that a link between two of them holds on disk and in the book.
"""

import inspect
import json
import re
from pathlib import Path

from sphinx.application import Sphinx

import flashref
from flashref import figures, widgets
from flashref.widgets.explorer import write_explorer

project = "flashref"
author = "the flashref authors"
extensions = [
    "myst_nb",  # reads Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax itself, so that it need not come from the network
    "sphinx_codeautolink",  # leads from the code in notebooks to the reference
]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/api/*.rst", "notebooks/*.ipynb", "notebooks/exercises/release/*/*.ipynb"]
exclude_patterns = [".*", "build"]
suppress_warnings = ["codeautolink.parse_block"]  # a cell with a magic that is no Python has no links

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "ignore-module-all": True}  # each thing once, where it is written
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
codeautolink_concat_default = True
# A name that a package hands on is described in the module that it comes from.
codeautolink_inventory_map = {
    f"{package.__name__}.{name}": f"{vars(package)[name].__module__}.{name}"
    for package in (flashref, figures, widgets)
    for name in package.__all__
    if callable(vars(package)[name])
}

html_theme = "furo"
html_title = "flashref"
html_extra_path = ["redirect"]
html_favicon = "favicon.svg"
html_static_path = ["book.css"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_copyright = False

EXPLORER = """<p>Here the explorer is live: click it, then use the arrow keys.</p>
<iframe class="explorer" src="{root}_static/explorer.html" title="The tile explorer"
onload="new ResizeObserver(() => this.style.height = this.contentDocument.body.parentNode.offsetHeight + 4 + 'px')
.observe(this.contentDocument.body)"></iframe>"""


def prepare_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give each picture its words and a link to its full size, each widget its still, the explorer a live one too."""
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        code = "".join(cell["source"])
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if "image/png" in data:
                cell["metadata"]["mystnb"] = {"image": {"alt": words(code, data), "scale": 100}}
        if cell["cell_type"] == "code" and "tile_explorer(" in code:
            live = EXPLORER.replace("{root}", "../" * docname.count("/"))
            cell["outputs"].append({"output_type": "display_data", "data": {"text/html": live}, "metadata": {}})
    source[0] = json.dumps(notebook)


def words(code: str, data: dict) -> str:
    """What stands for a picture: how the function that drew it describes it, or the picture's own words."""
    drawn = re.search(r"\bfigures\.(\w+)\(", code)
    if drawn is None:
        return "".join(data["text/plain"])
    description = inspect.getdoc(getattr(figures, drawn[1])).partition("\n\n")[0].partition(" Raises ")[0]
    return " ".join(description.replace("`", "").split())


def plain_prose(app: Sphinx, what: str, name: str, described: object, options: object, lines: list[str]) -> None:
    """In the docstrings nothing but double backticks marks anything up, and what is indented is code."""
    code, mark = r"``.*?``|^    [^\n]*", r"[|*]|_(?!\w)"
    text = re.sub(f"({code})|({mark})", lambda found: found[1] or f"\\{found[2]}", "\n".join(lines), flags=re.M | re.S)
    lines[:] = re.sub(r"^(\S.*\n\n)(?=    )", r"\1::\n\n", text, flags=re.M).splitlines()


def write_explorer_page(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        write_explorer(app.outdir / "_static" / "explorer.html")


def setup(app: Sphinx) -> None:
    app.connect("source-read", prepare_notebook)
    app.connect("autodoc-process-docstring", plain_prose)
    app.connect("build-finished", write_explorer_page)
