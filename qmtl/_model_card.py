"""The model card that lies beside a saved model: what it predicts, and how to load it."""

from collections.abc import Mapping
from typing import Any

from qmtl._version import __version__

__all__ = ["model_card"]

HEADER = """\
---
library_name: qmtl
tags:
- multi-task-learning
- quantum-machine-learning
---

# {title}

An encoder (`{encoder}`, {encoder_parameters:,} parameters) and a head (`{head}`,
{head_parameters:,} parameters) for {n_tasks} {tasks}, saved by qmtl {version}.

```python
import qmtl

model = qmtl.MultiTaskModel.from_pretrained("path/to/this/folder")
model.predict(inputs)  # task name to probabilities, or to values in the targets' units
```
{circuit}
| task | kind | outputs | classes |
|---|---|---|---|
"""


def model_card(
    model: Any, *, title: str = "qmtl model", metrics: Mapping[str, Mapping[str, float]] | None
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        model: a `qmtl.MultiTaskModel`.
        title: of the page.
        metrics: task → metric → value, such as ``result.metrics["test"]``.

    Example:
        >>> import qmtl
        >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("spam")])
        >>> model = qmtl.MultiTaskModel(qmtl.encoders.Identity(2), qmtl.QuantumHead(circuit))
        >>> print(model_card(model, metrics={"spam": {"accuracy": 0.9}}).splitlines()[-1])
        | spam | accuracy | 0.9000 |
    """
    text = HEADER.format(
        title=_cell(title),
        encoder=type(model.encoder).__name__,
        encoder_parameters=sum(p.numel() for p in model.encoder.parameters()),
        head=type(model.head).__name__,
        head_parameters=sum(p.numel() for p in model.head.parameters()),
        n_tasks=len(model.tasks),
        tasks="task" if len(model.tasks) == 1 else "tasks",
        version=__version__,
        circuit=_circuit(model.head),
    )
    for task in model.tasks:
        classes = ", ".join(map(_cell, task.class_names or ()))
        text += f"| {_cell(task.name)} | {task.kind} | {task.n_outputs} | {classes} |\n"
    if metrics:
        text += "\n| task | metric | value |\n|---|---|---|\n"
        for task_name, values in metrics.items():
            for name, value in values.items():
                text += f"| {_cell(task_name)} | {_cell(name)} | {value:.4f} |\n"
    return text


def _circuit(head: Any) -> str:
    circuit = getattr(head, "circuit", None)
    if circuit is None:
        return ""
    return (
        f"\nThe circuit has {circuit.n_wires} wires, depth {circuit.depth} and "
        f"{circuit.two_qubit_gates} two-qubit gates.\n"
    )


def _cell(text: str) -> str:
    """Text that neither ends a cell of a table nor begins a tag."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return plain.replace("<", "&lt;")
