"""The estimators' common parameters, described once."""

import inspect
from textwrap import indent
from typing import TypeVar

__all__ = ["with_parameters"]

PARAMETERS = """\
hidden: widths of the network's hidden layers; an empty tuple makes it one linear layer.
circuit: a design of the catalogue (``qmtl circuits list``), or a path to a .toml file.
wires_per_task: wires of every register, or by task name; None for the design's. A task with C
    classes needs at least log2(C).
encoding_layers: layers of the shared encoding; None for the design's.
block_layers: layers of the tasks' blocks; None for the design's.
head: ``"quantum"``, or another type of `qmtl.heads.build_head`, such as ``"linear"``.
simulator: ``"lightcone"`` (exact), the name of a PennyLane device, or a `qmtl.simulators`
    object, such as a `NoisySimulator`.
max_epochs: epochs of training.
batch_size: rows per step.
learning_rate: of all parameters.
head_learning_rate: of the head's parameters, if it differs.
weight_decay: of the network's parameters.
scalarizer: how task losses are combined, by name (None: their mean); see
    `qmtl.TrainingSettings`.
aggregator: how task gradients are combined, by name; excludes `scalarizer`.
validation_fraction: share of the rows to hold out; the weights of their best epoch are kept.
    None trains on all rows and keeps the last epoch's.
patience: stop after so many epochs without a better loss on the rows held out.
scale_inputs: whether to standardise input columns by the training rows.
accelerator: Lightning's: ``"cpu"``, ``"gpu"`` or ``"auto"``.
random_state: seed or RandomState of initial weights, rows held out and order of rows; an
    integer makes fits repeatable, to the bit on one machine."""

Estimator = TypeVar("Estimator", bound=type)


def with_parameters(estimator: Estimator) -> Estimator:
    """The class with ``{parameters}`` in its docstring filled in.

    Example:
        >>> @with_parameters
        ... class Example:
        ...     '''An example.
        ...
        ...     Parameters:
        ...         {parameters}
        ...     '''
        >>> "max_epochs: epochs of training." in Example.__doc__
        True
    """
    text = inspect.cleandoc(estimator.__doc__ or "")
    estimator.__doc__ = text.replace("    {parameters}", indent(PARAMETERS, "    "))
    return estimator
