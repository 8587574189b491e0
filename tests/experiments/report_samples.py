"""Finished runs whose names try to break a page, and to be formulas."""

import json

import numpy as np

from qmtl._io import write_json
from qmtl.experiments._recipe import read_recipe
from qmtl.experiments._run import start_run

SPAM, GRADE, PRICE = "<b onclick='x'>spam</b>", 'a & "b" $x_1$', "_price: $\\frac$"
CLASSES = ("</svg><script>boom()</script>", "<i>mid</i>", "$")
RECIPE = """
name = "hostile"
[data]
source = "csv"
path = "table.csv"
targets = { %s = "binary", %s = "multiclass", %s = "regression" }
[encoder]
hidden = [4]
[training]
max_epochs = 2
"""


def write_recipe(folder):
    rng = np.random.default_rng(0)
    lines = [",".join(map(_quoted, ("size", "weight", SPAM, GRADE, PRICE)))]
    for i in range(90):
        size, weight = rng.normal(size=2)
        spam = "yes" if size > 0 else "no"
        cells = [f"{size:.3f}", f"{weight:.3f}", spam, CLASSES[i % 3], f"{2 * size + weight:.3f}"]
        cells[2 + i % 3] = "" if i % 6 == 0 else cells[2 + i % 3]
        lines.append(",".join(map(_quoted, cells)))
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = tuple(json.dumps(name) for name in (SPAM, GRADE, PRICE))
    (folder / "recipe.toml").write_text(RECIPE % names, encoding="utf-8")
    return folder / "recipe.toml"


def train(folder, name, *overrides):
    recipe = read_recipe(write_recipe(folder), overrides)
    return start_run(recipe, folder / name, progress=False).path


def add_hardware(run, **changes):
    """What a hardware run leaves in a run directory."""
    rows = [
        {
            "task": SPAM,
            "output": i,
            "measured": 0.1 * i,
            "predicted": 0.1 * i + 0.01,
            "exact": 0.1 * i,
            "standard_error": 0.01,
            "deviation_in_standard_errors": -1.0 if i else 5.0,
        }
        for i in range(4)
    ]
    (run / "hardware").mkdir()
    record = {"backend": "fake_<fez>", "shots": 4096, "layout": [3, 4, 5], "table": rows}
    record["metrics"] = {"measured": {SPAM: {"accuracy": 0.4321}}, "simulated": {}}
    write_json(run / "hardware" / "first.json", record | changes)


def _quoted(cell):
    return '"' + cell.replace('"', '""') + '"'
