"""Parameter counts of heads in closed form, without building them.

T tasks have O outputs in all. With a representation that grows with T, as in the partitioned
layout, a dense linear head costs O(T²), every other head here O(T).
"""

from collections.abc import Mapping, Sequence

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.tasks import Task

__all__ = [
    "linear_count",
    "local_linear_count",
    "low_rank_count",
    "shared_vqc_count",
    "vqc_per_task_count",
]


def linear_count(tasks: Sequence[Task], n_features: int) -> int:
    """Dense linear heads: O · (n_features + 1). Single-task linear models have as many.

    Example:
        >>> linear_count([Task.binary("a"), Task.multiclass("b", 3)], 6)
        28
    """
    return sum(task.n_outputs for task in tasks) * (n_features + 1)


def local_linear_count(tasks: Sequence[Task], columns: Mapping[str, Sequence[int]]) -> int:
    """Local linear heads: the sum over tasks of n_outputs · (features that the task sees + 1).

    Example:
        >>> local_linear_count([Task.binary("a"), Task.multiclass("b", 3)], {"a": [0], "b": [0, 1]})
        11
    """
    return sum(task.n_outputs * (len(columns[task.name]) + 1) for task in tasks)


def low_rank_count(tasks: Sequence[Task], n_features: int, rank: int, *, bias: bool = True) -> int:
    """Low-rank linear heads: rank · (n_features + O), and O biases.

    Example:
        >>> low_rank_count([Task.binary("a"), Task.multiclass("b", 3)], 6, rank=2)
        24
    """
    outputs = sum(task.n_outputs for task in tasks)
    return rank * (n_features + outputs) + (outputs if bias else 0)


def vqc_per_task_count(circuit: HeadCircuit) -> int:
    """`VQCPerTaskHead` of this circuit: each task's encoding and block, and a layer on k wires.

    Example:
        >>> vqc_per_task_count(HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]))
        32
    """
    total = 0
    for name, register in circuit.registers.items():
        k = len(register.wires)
        total += circuit.encoding.n_weights(k)
        total += circuit.ansatz(name).n_weights(k, range(k))
        total += register.task.n_outputs * (k + 1)
    return total


def shared_vqc_count(tasks: Sequence[Task], circuit: HeadCircuit) -> int:
    """`SharedVQCHead`: the one circuit's weights, and a linear layer on its n wires per task.

    Args:
        tasks: the tasks.
        circuit: the shared circuit, whose one task is to read n wires.

    Example:
        >>> from qmtl.heads.shared_vqc import shared_circuit
        >>> shared_vqc_count([Task.binary("a"), Task.multiclass("b", 3)], shared_circuit(4))
        40
    """
    return circuit.count_parameters().circuit + linear_count(tasks, circuit.n_wires)
