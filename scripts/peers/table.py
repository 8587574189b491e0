"""Cells as rows of a CSV file, as lines of text, and as a Markdown table."""

import csv
import io
import statistics

from peers.catalogue import PEERS
from peers.rounds import TOLERANCES

COLUMNS = (
    "date", "machine", "peer", "label", "group", "versions", "tasks", "wires", "batch", "seed",
    "dtype", "status", "rounds", "steps", "step_ms", "step_ms_min", "step_ms_max", "first_ms",
    "peak_mb", "ratio", "ratio_same_precision", "error_outputs", "error_features",
    "error_weights", "error_dtype", "tolerance",
)  # fmt: skip
INTEGERS = ("tasks", "wires", "batch", "seed", "rounds", "steps")
NUMBERS = (
    "step_ms", "step_ms_min", "step_ms_max", "first_ms", "peak_mb", "ratio",
    "ratio_same_precision", "error_outputs", "error_features", "error_weights", "tolerance",
)  # fmt: skip


def rows_of(cells, facts):
    """One row per cell; `facts` are the columns that all rows share."""
    by_name = {cell.peer.name: cell for cell in cells}
    ours = by_name.get("qmtl")
    same = {"float32": ours, "float64": by_name.get("qmtl-double")}
    return [_row(cell, facts, ours, same[cell.peer.timed]) for cell in cells]


def _row(cell, facts, ours, same):
    peer, times = cell.peer, [ms for ms in cell.round_ms if ms is not None]
    row = dict.fromkeys(COLUMNS) | facts
    row |= {
        "peer": peer.name,
        "label": peer.label,
        "group": peer.group,
        "versions": "; ".join(f"{name} {version}" for name, version in cell.versions.items()),
        "tasks": cell.n_tasks,
        "wires": 2 * cell.n_tasks,
        "dtype": peer.timed,
        "status": cell.status,
        "rounds": len(times),
        "steps": cell.n_steps,
        "step_ms": cell.step_ms,
        "step_ms_min": min(times, default=None),
        "step_ms_max": max(times, default=None),
        "first_ms": statistics.median(cell.first_ms) if cell.first_ms else None,
        "peak_mb": max(cell.peak_mb, default=None),
        "ratio": cell.ratio_to(ours) if ours else None,
        "ratio_same_precision": cell.ratio_to(same) if same else None,
    }
    if cell.errors:
        row |= {f"error_{name}": value for name, value in cell.errors.items()}
        row |= {"error_dtype": cell.error_dtype, "tolerance": TOLERANCES[cell.error_dtype]}
    return row


def as_csv(rows):
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _plain(value) for key, value in row.items()})
    return file.getvalue()


def read_csv(text):
    """The rows that `as_csv` wrote."""
    rows = list(csv.DictReader(text.splitlines()))
    for row in rows:
        for name in COLUMNS:
            if name in INTEGERS or name in NUMBERS:
                kind = int if name in INTEGERS else float
                row[name] = kind(row[name]) if row[name] else None
    return rows


def kept_beside(rows, before):
    """`rows`, and the cells of `before` (oldest first) that no later run has, unchanged."""
    found = {(row["tasks"], row["peer"]): row for row in (*before, *rows)}
    names = [peer.name for peer in PEERS]
    return sorted(found.values(), key=lambda row: (row["tasks"], names.index(row["peer"])))


def _plain(value):
    return f"{value:.5g}" if isinstance(value, float) else value


def number(value):
    """Three digits, without an exponent, and an empty cell for what is not known."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def as_text(rows):
    """The cells of one number of tasks, one line each."""
    lines = [
        f"\nT = {rows[0]['tasks']} ({rows[0]['wires']} wires), batch {rows[0]['batch']}",
        f"{'':42} {'ms/step':>9} {'spread':>17} {'first ms':>9} {'MB':>7} {'ratio':>8} "
        f"{'same prec.':>10}  error",
    ]
    for row in rows:
        error = [row[f"error_{name}"] for name in ("outputs", "features", "weights")]
        worst = "" if None in error else f"{max(error):.0e} {row['error_dtype']}"
        spread = f"{number(row['step_ms_min'])} - {number(row['step_ms_max'])}"
        status = "" if row["status"] == "ok" else f"  {row['status']}"
        lines.append(
            f"{row['label']:42} {number(row['step_ms']):>9} {spread:>17} "
            f"{number(row['first_ms']):>9} {number(row['peak_mb']):>7} {number(row['ratio']):>8} "
            f"{number(row['ratio_same_precision']):>10}  {worst}{status}"
        )
    return "\n".join(lines)


def as_markdown(rows):
    """Milliseconds per step, peers down and numbers of tasks across, and how it was measured."""
    sizes = sorted({row["tasks"] for row in rows})
    labels = list(dict.fromkeys(row["label"] for row in rows))
    found = {(row["label"], row["tasks"]): row for row in rows}
    lines = [
        "| ms per step | " + " | ".join(f"T={size}" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    for label in labels:
        texts = [_markdown_cell(found.get((label, size))) for size in sizes]
        lines.append(f"| {label} | " + " | ".join(texts) + " |")
    first, dates = rows[0], ", ".join(sorted({row["date"] for row in rows}))
    note = (
        f"Batch {first['batch']}, one thread, {first['machine']}, {dates}. Median over up to "
        f"{max(row['rounds'] for row in rows)} rounds; in brackets the time over qmtl's in the "
        "same rounds of the same run. A step is forward, mean-squared error, and backward to all "
        "weights and features."
    )
    return "\n".join([*lines, "", note, ""])


def _worst(row):
    return max(row[f"error_{name}"] or 0.0 for name in ("outputs", "features", "weights"))


def _markdown_cell(row):
    if row is None:
        return "-"
    if row["step_ms"] is None:
        return row["status"].split(":")[0]
    ratio = "" if row["ratio"] is None else f" ({number(row['ratio'])})"
    marks = {"disagrees": " **disagrees**", "truncated": f" (truncated, error {_worst(row):.1g})"}
    mark = marks.get(row["status"], "")
    return f"{number(row['step_ms'])}{ratio}{mark}"
