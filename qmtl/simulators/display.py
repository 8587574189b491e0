"""A plan's explanation as a notebook shows it."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from qmtl.display import facts, listed, panel, table
from qmtl.simulators.memory import bytes_text

if TYPE_CHECKING:
    from qmtl.simulators.explain import Explanation

__all__ = ["explanation_html", "plan_parts"]

MOST_GROUPS = 24


def explanation_html(explanation: "Explanation") -> str:
    """What ``Explanation._repr_html_`` returns.

    Example:
        >>> from qmtl.circuit import HeadCircuit
        >>> from qmtl.simulators import LightConeSimulator
        >>> from qmtl.tasks import Task
        >>> plan = LightConeSimulator().explain(HeadCircuit([Task.binary("a")]), 32)
        >>> "a training step takes about" in explanation_html(plan)
        True
    """
    title = (
        f"Plan: {explanation.n_tasks:,} tasks on {explanation.n_wires:,} wires, batch "
        f"{explanation.batch_size:,}"
    )
    return panel(title, *plan_parts(explanation))


def plan_parts(explanation: "Explanation") -> tuple[Markup, Markup]:
    """The step's cost, and a row per group of equal cones."""
    kind = str(explanation.dtype).removeprefix("torch.")
    # The last line of the text says what a step takes, and whether it fits.
    cost = str(explanation).splitlines()[-1].strip()
    rows: list[dict[str, object]] = [
        {
            "tasks": listed(group.tasks, 4),
            "cone (wires)": group.cone_wires,
            "block (wires)": group.block_wires,
            "states per sample": group.n_cones,
            "run as": group.engine,
            "samples at a time": group.chunk,
            "memory": bytes_text(group.bytes),
            "GFLOP per step": group.operations / 1e9,
        }
        for group in explanation.groups[:MOST_GROUPS]
    ]
    about = {"batch": explanation.batch_size, "precision": kind, "cost": cost}
    return facts(about), table(rows, len(explanation.groups))
