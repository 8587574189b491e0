"""A quantum head as a notebook shows it: its parameters, then its circuit."""

from typing import TYPE_CHECKING

from qmtl.circuit.display import circuit_drawing, circuit_facts, task_rows
from qmtl.display import facts, folded, panel, table
from qmtl.heads.features import task_key

if TYPE_CHECKING:
    from qmtl.heads.quantum import QuantumHead

__all__ = ["head_html"]


def head_html(head: "QuantumHead") -> str:
    """What ``QuantumHead._repr_html_`` returns.

    Example:
        >>> from qmtl import HeadCircuit, QuantumHead, Task
        >>> "light cone" in head_html(QuantumHead(HeadCircuit([Task.binary("a")])))
        True
    """
    trained = sum(p.numel() for p in head.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in head.parameters())
    about = {
        "parameters": f"{whole:,}" if whole == trained else f"{whole:,}, {trained:,} trained",
        "simulator": repr(head.simulator),
        "angle map": head.angle_map,
    }
    rows = [
        row | {"scale": float(head.scales[task_key(row["task"])].detach())}
        for row in task_rows(head.circuit)
    ]
    circuit = circuit_facts(head.circuit)
    del circuit["parameters"]
    return panel(
        f"QuantumHead: {len(head.circuit.tasks):,} tasks",
        circuit_drawing(head.circuit),
        facts(about | circuit),
        folded("Tasks", table(rows, len(head.circuit.tasks))),
    )
