"""Add a task to heads and encoders; the parameters of the other tasks do not change."""

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from qmtl._calls import seeded
from qmtl.circuit import Encoding, HeadCircuit, RegisterEncoding, rebuilt
from qmtl.encoders import ENCODERS, TaskEncoder
from qmtl.errors import InvalidInputError
from qmtl.heads import ExtendedHead, Head, LinearHead, MixtureHead, QuantumHead
from qmtl.tasks import Task, check_tasks, chosen_tasks

# A model with more parts than this runs as a whole, because one part at a time takes much longer.
MOST_PARTS = 16


def grown_circuit(circuit: HeadCircuit, task: Task, **register: Any) -> HeadCircuit:
    """Return a circuit with one more task; no gate joins its register with the old ones.

    Args:
        circuit: circuit of the present tasks.
        task: the new task, which comes last.
        **register: the new task's ``wires``, ``ansatz`` and ``readout``, if they are not the
            defaults.
    """
    tasks = check_tasks([*circuit.tasks, task])
    blocks = {} if register.get("ansatz") is None else {task.name: register["ansatz"]}
    readouts = {} if register.get("readout") is None else {task.name: register["readout"]}
    if circuit.layout == "shared":
        if register.get("wires") not in (None, circuit.n_wires):
            raise InvalidInputError(
                f"task {task.name!r}: in the shared layout all tasks have the same "
                f"{circuit.n_wires} wires, got wires={register['wires']!r}"
            )
        return rebuilt(circuit, blocks=blocks, tasks=tasks, readouts=readouts)
    before, inner = separate_encodings(circuit)
    # A circuit of the new task alone shows how many wires this task needs.
    alone = HeadCircuit(
        [task],
        inner,
        blocks.get(task.name),
        wires_per_task=register.get("wires"),
        readouts=readouts,
    )
    return joined_circuit([circuit, alone], RegisterEncoding((*before, alone.n_wires), inner))


def joined_circuit(circuits: Sequence[HeadCircuit], encoding: Encoding) -> HeadCircuit:
    """Return a circuit with the registers of several partitioned circuits side by side."""
    registers = {name: own for circuit in circuits for name, own in circuit.registers.items()}
    return HeadCircuit(
        [own.task for own in registers.values()],
        encoding,
        {name: circuit.ansatz(name) for circuit in circuits for name in circuit.registers},
        wires_per_task={name: len(own.wires) for name, own in registers.items()},
        readouts={name: own.readout for name, own in registers.items()},
    )


def separate_encodings(circuit: HeadCircuit) -> tuple[tuple[int, ...], Encoding]:
    """Return the numbers of wires that are encoded separately, and the encoding of each."""
    encoding = circuit.encoding
    if isinstance(encoding, RegisterEncoding):
        return encoding.sizes, encoding.encoding
    return (circuit.n_wires,), encoding


def larger_model(make: type, model: Any, encoder: nn.Module, head: nn.Module) -> Any:
    """Return `make`'s model of these parts, with the columns and target scales of a smaller one."""
    larger = make(encoder, head)
    larger.columns = model.columns
    for name in model.scale.regressions:
        larger.set_target_scale(name, *model.target_scale([name]))
    return larger.to(next(model.head.parameters())).train(model.training)


def grown_head(head: nn.Module, task: Task, seed: int | None, **register: Any) -> Head:
    """Return a head with one more task; the other tasks keep the parameters of the given head.

    Raises:
        InvalidInputError: for a head other than `QuantumHead` and `LinearHead`, a name that a task
            of the head has, or a block of a shape that a `MixtureHead` has no inventory for.
    """
    grown: Head
    if isinstance(head, QuantumHead):
        circuit = grown_circuit(head.circuit, task, **register)
        options = {name: getattr(head, name) for name in ("angle_map", *head.settings)}
        grown = type(head)(circuit, head.simulator, seed=seed, **options)
        _check_shape(head, grown, task)
    elif isinstance(head, LinearHead):
        given = [name for name, value in register.items() if value is not None]
        if given:
            raise InvalidInputError(f"a LinearHead takes no {', '.join(given)}")
        grown = LinearHead([*head.tasks, task], head.n_features, seed=seed)
    else:
        raise InvalidInputError(
            f"only a QuantumHead or a LinearHead can grow by a task, got {type(head).__name__}"
            f"{getattr(head, 'instead', '')}"
        )
    reference = next(head.parameters())
    _take(grown.to(reference), head.state_dict())
    for parameter, old in zip(grown.parameters(), head.parameters(), strict=True):
        parameter.requires_grad_(old.requires_grad)
    for name in head.frozen_tasks:
        grown.freeze(name)
    return grown.train(head.training)


def _check_shape(head: QuantumHead, grown: QuantumHead, task: Task) -> None:
    """Raise if the new task's block would be mixed from blocks that were never trained."""
    if isinstance(head, MixtureHead) and len(grown.blocks.shapes) > len(head.blocks.shapes):
        raise InvalidInputError(
            f"the inventory of the MixtureHead has no blocks of the shape that task {task.name!r} "
            f"has; give the wires, ansatz and readout of one of its tasks, or build a head "
            f"for all tasks and train them together"
        )


def _take(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load a smaller module's state into the first entries of a larger module's tensors."""
    own = module.state_dict()
    for key, value in state.items():
        own[key] = value if own[key].ndim == 0 else torch.cat([value, own[key][len(value) :]])
    module.load_state_dict(own)


def last_layer(encoder: nn.Module) -> nn.Linear | None:
    """Return the linear layer that computes an encoder's features; None if that is not certain.

    The encoder uses this layer and its weights in one place only.
    """
    layer = _last_layer(encoder)
    if layer is None:
        return None
    own = dict(layer.named_parameters())
    places = [id(p) for _, p in encoder.named_parameters(remove_duplicate=False)]
    once = all(places.count(id(p)) == 1 for p in own.values())
    # A pruned weight is computed from another parameter.
    return layer if once and set(own) <= {"weight", "bias"} else None


def _last_layer(encoder: nn.Module) -> nn.Linear | None:
    if type(encoder) is nn.Linear:
        return encoder
    if type(encoder) is nn.Sequential and len(encoder):
        return _last_layer(encoder[-1])
    if isinstance(encoder, TaskEncoder):
        return None
    if type(encoder) in ENCODERS.values():
        # In these encoders, the last linear layer, if there is one, gives the features.
        layers = [module for module in encoder.modules() if type(module) is nn.Linear]
        return layers[-1] if layers and layers[-1].out_features == encoder.out_features else None
    return None


def features_for(
    encoder: nn.Module, head: nn.Module, inputs: torch.Tensor, tasks: Sequence[str] | None
) -> torch.Tensor:
    """Compute an encoder's features; a `TaskEncoder` computes only those that the tasks need."""
    if tasks is None or not isinstance(encoder, TaskEncoder):
        features: torch.Tensor = encoder(inputs)
    else:
        features = encoder(inputs, _needed(encoder, head, tasks))
    return features


def _needed(
    encoder: TaskEncoder, head: nn.Module, tasks: Sequence[str], first: int = 0
) -> list[str] | None:
    """Return the tasks whose features the given tasks depend on; None if this is unknown.

    `first` is the index, among the encoder's features, of the head's first feature.
    """
    depends = head.dependencies() if isinstance(head, Head) else None
    if depends is None or not isinstance(head, Head):
        return None
    names = [task.name for task in head.tasks]
    asked = [names.index(name) for name in chosen_tasks(tasks, names)]
    task, feature = depends.features
    seen = set((first + feature[np.isin(task, asked)]).tolist())
    return [name for name, own in encoder.columns.items() if not seen.isdisjoint(own)]


def grown_encoder(encoder: nn.Module, head: Head, grown: Head, seed: int | None) -> nn.Module:
    """Return a copy of an encoder that computes the features for a grown head.

    Raises:
        InvalidInputError: if the encoder cannot grow.
    """
    if not isinstance(encoder, TaskEncoder):
        return widened(encoder, head.n_features, grown.n_features, seed)
    columns, name = grown.task_columns(), grown.tasks[-1].name
    if columns is None:
        raise InvalidInputError(
            f"task {name!r} would have no features of its own, which the encoder "
            f"{type(encoder).__name__} needs"
        )
    return encoder.with_task(name, columns[name], seed)


def widened(encoder: nn.Module, before: int, n_features: int, seed: int | None) -> nn.Module:
    """Return a copy of an encoder with more features, of which the first are the old ones.

    Raises:
        InvalidInputError: if the encoder does not end in a linear layer.
    """
    encoder = copy.deepcopy(encoder)
    if n_features == before:
        return encoder
    layer = last_layer(encoder)
    if layer is None:
        raise InvalidInputError(
            f"the encoder {type(encoder).__name__} does not end in a linear layer that could give "
            f"{n_features} features; give encoder=, one whose first features are the same"
        )
    with seeded(seed):
        wide = nn.Linear(layer.in_features, n_features, bias=layer.bias is not None)
    _take(wide.to(layer.weight), layer.state_dict())
    for name, parameter in wide.named_parameters():
        parameter.requires_grad_(getattr(layer, name).requires_grad)
        setattr(layer, name, parameter)
    layer.out_features = n_features
    if hasattr(encoder, "out_features"):
        vars(encoder)["out_features"] = n_features
    return encoder


class _Part(NamedTuple):
    """A separate circuit for tasks whose registers no gate joins with others."""

    circuit: HeadCircuit
    features: slice
    encoding: slice


@lru_cache(maxsize=64)
def circuit_parts(circuit: HeadCircuit) -> tuple[_Part, ...]:
    """Return the circuits from which a grown circuit was joined.

    The list is empty for other circuits, and for more than 16 parts, which run faster together.

    Example:
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
        >>> parts = circuit_parts(grown_circuit(circuit, Task.binary("c")))
        >>> [len(part.circuit.tasks) for part in parts], parts[0].circuit == circuit
        ([2, 1], True)
    """
    encoding = circuit.encoding
    if not isinstance(encoding, RegisterEncoding) or circuit.layout != "partitioned":
        return ()
    if not 1 < len(encoding.sizes) <= MOST_PARTS:
        return ()
    tasks, parts, wire, feature, weight = list(circuit.tasks), [], 0, 0, 0
    for size in encoding.sizes:
        wire += size
        own: list[Task] = []
        while tasks and circuit.register(tasks[0].name).wires[-1] < wire:
            own.append(tasks.pop(0))
        if sum(len(circuit.register(task.name).wires) for task in own) != size:
            return ()
        part = rebuilt(circuit, encoding.encoding, tasks=own)
        n, m = part.n_features, part.n_encoding_weights
        parts.append(_Part(part, slice(feature, feature + n), slice(weight, weight + m)))
        feature, weight = feature + n, weight + m
    return tuple(parts)


def logits_by_parts(
    encoder: nn.Module, head: nn.Module, inputs: torch.Tensor, names: Sequence[str] | None
) -> dict[str, torch.Tensor] | None:
    """Compute the logits of a grown model; each part is computed as before it was joined.

    Rounding may change with the width of a matrix product, with the cones that run in one batch,
    and with the strides of a tensor. Therefore each part computes its own features and circuit
    here, and a task's predictions are bit for bit those from before the model grew. Return None for
    a model that did not grow.
    """
    if isinstance(head, ExtendedHead):
        return _logits_of_extended(encoder, head, inputs, names)
    if not isinstance(head, QuantumHead):
        return None
    parts = circuit_parts(head.circuit)
    if not parts:
        return None
    logits: dict[str, torch.Tensor] = {}
    whole: list[torch.Tensor] = []
    if not isinstance(encoder, TaskEncoder):
        whole = _features_of_parts(encoder, inputs, parts)
    for place, part in enumerate(parts):
        circuit = part.circuit
        every = [task.name for task in circuit.tasks]
        chosen = None if names is None else [name for name in names if name in every]
        if chosen == []:
            continue
        alone = head.of_part(circuit, part.encoding)
        if isinstance(encoder, TaskEncoder):
            # Compute the same features, bit for bit, as for a head with only these tasks.
            needed = (
                None if chosen is None else _needed(encoder, alone, chosen, part.features.start)
            )
            seen = every if needed is None else needed
            features = encoder(inputs, seen)[:, part.features]
        else:
            features = whole[place]
        logits |= alone.eval()(features, tasks=chosen)
    return logits


def _logits_of_extended(
    encoder: nn.Module, head: ExtendedHead, inputs: torch.Tensor, names: Sequence[str] | None
) -> dict[str, torch.Tensor] | None:
    """Compute logits; the tasks that the adapted model had before keep their old computation."""
    every = [task.name for task in head.base.tasks]
    old = None if names is None else [name for name in names if name in every]
    logits: dict[str, torch.Tensor] | None = {}
    if old != []:
        logits = logits_by_parts(encoder, head.base, inputs, old)
        if logits is None and isinstance(encoder, TaskEncoder):
            logits = head.base(features_for(encoder, head.base, inputs, old), tasks=old)
        if logits is None:
            # The caller then uses the head itself, which keeps the old tasks' computation.
            return None
    added = [task.name for task in head.added if names is None or task.name in names]
    if added:
        logits |= head(encoder(inputs), tasks=added)
    return logits


def _features_of_parts(
    encoder: nn.Module, inputs: torch.Tensor, parts: Sequence[_Part]
) -> list[torch.Tensor]:
    layer = last_layer(encoder)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append((given[0], output))

    hook = None if layer is None else layer.register_forward_hook(record)
    try:
        features = encoder(inputs)
    finally:
        if hook is not None:
            hook.remove()
    if layer is None or len(seen) != 1 or seen[0][1] is not features:
        return [features[:, part.features] for part in parts]
    weight, bias = layer.weight, layer.bias
    return [
        nn.functional.linear(
            seen[0][0],
            weight[part.features].clone(),
            None if bias is None else bias[part.features].clone(),
        )
        for part in parts
    ]
