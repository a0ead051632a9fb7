"""How `make slides` turns the notebook beside this file into one page that needs no network.

reveal.js (MIT licence) comes from the package sphinx-revealjs, which carries its files.
Formulas become pictures, drawn by matplotlib as those in the figures are.
"""

import base64
import io
import re
from html import escape
from importlib.util import find_spec
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser

HERE = Path(__file__).parent
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)
POINTS, EM = 10, 9  # of a formula, and of its text: the letters of formulas are low
LARGER = 1.2  # a formula in a line of its own


def formulas(text: str) -> str:
    """Markdown with each $...$ and $$...$$ as a picture that has the formula as its words."""
    return FORMULA.sub(lambda found: drawn(found[1] or found[2], display=bool(found[1])), text)


def drawn(formula: str, display: bool) -> str:
    words = f"${' '.join(formula.split())}$"
    with rc_context({"mathtext.fontset": "cm", "svg.fonttype": "path"}):
        font = FontProperties(size=POINTS)
        width, height, depth, *_ = MathTextParser("path").parse(words, dpi=72, prop=font)
        figure = Figure(figsize=(width / 72, height / 72))
        figure.text(0, depth / height, words, fontproperties=font, color="#222222")
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    em = (LARGER if display else 1) / EM
    place = "" if display else f"; vertical-align: {-depth * em:.3f}em"
    return (
        f'<img class="formula{" display" if display else ""}" alt="{escape(formula)}" '
        f'style="height: {height * em:.3f}em{place}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}">'
    )


def first_heading(text: str) -> str:
    return re.search(r"^# (.*)$", text, re.MULTILINE)[1]


package = find_spec("sphinx_revealjs")
if package is None:
    raise SystemExit("reveal.js is missing. A package carries it: pip install sphinx-revealjs")

c = get_config()  # noqa: F821 (nbconvert reads this file and knows the name)
c.SlidesExporter.template_name = "template"
c.SlidesExporter.extra_template_basedirs = [str(HERE)]
c.SlidesExporter.extra_template_paths = [f"{Path(package.origin).parent}/_static/revealjs"]
c.SlidesExporter.exclude_anchor_links = True
c.SlidesExporter.filters = {"formulas": formulas, "first_heading": first_heading}
c.ExecutePreprocessor.kernel_name = "python3"
