"""Texts and HTML for notebooks and reports: numbers in words, panels, tables, templates."""

# Text is escaped unless it is `Markup`, so that a task may have the name ``<b>``. Colours are those
# of the page, light or dark. The page needs no network.

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

# The class counts twice, because Jupyter's rules would otherwise right-align all cells.
CSS = Markup("""\
<style>
.qmtl { font-size: 13px; line-height: 1.45; margin: .3em 0; max-width: 100%; }
.qmtl > b { display: block; margin-bottom: .3em; }
.qmtl .wide { overflow-x: auto; margin: .4em 0; }
.qmtl table { border-collapse: collapse; margin: 0; }
.qmtl.qmtl table :is(th,td) { padding: .15em .7em .15em 0; text-align: left; vertical-align: top; }
.qmtl :is(th, td) { border: 0; }
.qmtl thead th { border-bottom: 1px solid #8886; }
.qmtl.qmtl table .n { text-align: right; font-variant-numeric: tabular-nums; }
.qmtl svg { max-width: none; }
.qmtl svg[role] { max-width: 100%; height: auto; }
.qmtl .more { font-size: 11px; opacity: .7; }
.qmtl .wide td { white-space: nowrap; }
.qmtl .wide td.long { white-space: normal; min-width: 16em; }
.qmtl pre { font-size: 12px; line-height: 1.25; margin: 0; background: none; }
</style>""")

HARDWARE_FACTS = {
    "run": "run",
    "backend": "backend",
    "primitive": "primitive",
    "execution": "executed as",
    "samples": "samples",
    "shots": "shots per sample",
    "jobs": "jobs",
    "wires": "wires",
    "depth": "depth",
    "two_qubit_gates": "two-qubit gates",
    "swaps": "swaps",
    "estimated_success": "estimated success",
    "layout": "layout (device's qubits)",
}
# Longer cells are broken into lines.
LONG = 36
MOST_ROWS = 60  # most rows of a table in a notebook


def number(value: object) -> str:
    """Return a number as tables show it, such as 0.2500 or 41,250; a dash if it is undefined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:z.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def counted(number: int, noun: str) -> str:
    """Write a number and what it counts.

    Example:
        >>> counted(1, "task"), counted(2_000, "task")
        ('1 task', '2,000 tasks')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def bytes_text(number: float) -> str:
    """Write a number of bytes to three digits.

    Example:
        >>> bytes_text(1_234_567)
        '1.23 MB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} EB"


def duration_text(seconds: float) -> str:
    """Write a time in a unit that suits it, roughly.

    Example:
        >>> duration_text(0.0123), duration_text(150), duration_text(90_000)
        ('12 ms', '2 minutes', '25 hours')
    """
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("s", 1)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{1e3 * seconds:.2g} ms"


def facts(pairs: Mapping[str, object]) -> Markup:
    """Return a table of names and values, one row each."""
    row = Markup("<tr><th>{}</th><td>{}</td></tr>")
    rows = Markup().join(row.format(name, _cell(value)) for name, value in pairs.items())
    return Markup("<table><tbody>{}</tbody></table>").format(rows)


def table(rows: Sequence[Mapping[str, object]], total: int = 0) -> Markup:
    """Return a table of rows with equal keys, which become the header; numbers are right-aligned.

    Floats have four digits. The `total` is the number of all rows, if only the first are given.
    """
    if not rows:
        return Markup()
    th, td, tr = Markup("<th{}>{}</th>"), Markup("<td{}>{}</td>"), Markup("<tr>{}</tr>")
    head = Markup().join(th.format(_class(value), key) for key, value in rows[0].items())
    body = Markup().join(
        tr.format(Markup().join(td.format(_class(v), _cell(v)) for v in row.values()))
        for row in rows
    )
    more = total - len(rows)
    note = Markup("<div>… and {} more</div>").format(number(more)) if more > 0 else Markup()
    return Markup(
        '<div class="wide"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>{}</div>'
    ).format(head, body, note)


def drawing(content: str | Markup) -> Markup:
    """Show a drawing, SVG as `Markup` or lines of text; if too wide, it scrolls and says so."""
    if isinstance(content, Markup):
        found = re.search(r'<svg [^>]*?width="(\d+)"', content)
        width = int(found[1]) if found else 0
    else:
        width = round(7.3 * max(map(len, content.splitlines()), default=0))
        content = Markup("<pre>{}</pre>").format(content)
    # Only the page knows its width: it hides the note if the drawing fits.
    note = Markup(
        "<style>@container(min-width:{0}px){{.qmtl-{0}{{display:none}}}}</style>"
        '<div class="more qmtl-{0}">wider than the page: scroll it to the right →</div>'
    ).format(width)
    box = Markup('<div style="container-type:inline-size">{}<div class="wide">{}</div></div>')
    return box.format(note if width else "", content)


def folded(title: str, *parts: Markup) -> Markup:
    """Return a section that stays closed until the reader clicks on its title."""
    joined = Markup("\n").join(parts)
    return Markup("<details><summary>{}</summary>{}</details>").format(title, joined)


def panel(title: str, *parts: Markup) -> str:
    """Return the HTML for ``_repr_html_``: a title and the parts below it."""
    joined = Markup("\n").join(parts)
    return str(Markup('<div class="qmtl">{}<b>{}</b>\n{}</div>').format(CSS, title, joined))


def listed(names: Iterable[object], most: int = 8) -> str:
    """Return the first names, separated by commas, and say how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if texts[most:] else ""
    return ", ".join(texts[:most]) + more


def hardware_facts(record: Mapping[str, Any]) -> dict[str, object]:
    """Return the `HARDWARE_FACTS` of a hardware run, and its deviation from the prediction."""
    found: dict[str, object] = {}
    for key, name in HARDWARE_FACTS.items():
        value = record.get(key)
        if value is not None:
            found[name] = listed(value, 24) if isinstance(value, list) else value
    rows = record.get("table", [])
    errors = [row.get("deviation_in_standard_errors") for row in rows]
    off = [abs(error) for error in errors if isinstance(error, int | float)]
    if off:
        far = sum(value > 4 for value in off)
        found["against the prediction"] = (
            f"{len(off):,} means over samples, mean deviation {sum(off) / len(off):.2f} standard "
            f"errors, {far:,} beyond 4"
        )
    return found


def rendered(name: str, /, **values: Any) -> str:
    """Render a template of ``qmtl/experiments/templates`` with these values; HTML escapes them."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("qmtl.experiments", "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"table": table, "number": number, "counted": counted}
    environment.filters["cell"] = _markdown_cell
    return environment


def _markdown_cell(value: object) -> str:
    return " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|")


def _class(value: object) -> Markup:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return Markup(' class="n"')
    long = isinstance(value, str) and len(value) > LONG
    return Markup(' class="long"') if long else Markup()


def _cell(value: object) -> str | Markup:
    return value if isinstance(value, Markup) else number(value)


def in_notebook() -> bool:
    """Return whether output goes to a notebook's cells."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return getattr(running, "kernel", None) is not None
