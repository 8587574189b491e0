"""Checks of models to merge, their shared tensors, and the merged model of all tasks."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qmtl._growth import joined_circuit, last_layer, separate_encodings
from qmtl._model_files import check_plain
from qmtl.circuit import RegisterEncoding, rebuilt
from qmtl.data import column_differences
from qmtl.encoders import TaskEncoder
from qmtl.errors import InvalidInputError
from qmtl.heads import Head, LinearHead, QuantumHead, TaskRows
from qmtl.model import MultiTaskModel

Models = Sequence[MultiTaskModel]
State = dict[str, Tensor]

# Options of encoders that may differ between models, because they do not affect predictions.
ONLY_IN_TRAINING = ("dropout", "modality_dropout", "calibrate", "frozen")


def check_models(models: Models) -> bool:
    """Return whether all models have the same tasks; raise an error if they do not fit together.

    The error names the two encoders, features, circuits, tasks, classes or columns that differ.
    """
    if not models or not all(isinstance(model, MultiTaskModel) for model in models):
        kinds = ", ".join(type(model).__name__ for model in models) or "none"
        raise InvalidInputError(f"merge needs one or more MultiTaskModel, got {kinds}")
    for model in models:
        for part, module in (("encoder", model.encoder), ("head", model.head)):
            check_plain(part, module, "merge")
    first = models[0]
    same = all(set(_names(model)) == set(_names(first)) for model in models)
    for number, other in enumerate(models[1:], start=2):
        if same and _names(first) != _names(other):
            raise InvalidInputError(
                f"model 1 and model {number} have the same tasks in another order: "
                f"{', '.join(_names(first))} and {', '.join(_names(other))}"
            )
        _check_pair(first, other, f"model {number}")
    if same:
        return True
    if isinstance(first.encoder, TaskEncoder):
        sides = "; ".join(f"model {i} {_names(m)}" for i, m in enumerate(models, start=1))
        raise InvalidInputError(
            f"the encoder {type(first.encoder).__name__} gives each task features of its own, so "
            f"that only models of the same tasks can be merged; got {sides}"
        )
    seen: dict[str, int] = {}
    for number, model in enumerate(models, start=1):
        for name in _names(model):
            if name in seen:
                raise InvalidInputError(
                    f"models {seen[name]} and {number} both have the task {name!r}, but their "
                    f"other tasks differ; merge models of the same tasks, or of different ones"
                )
            seen[name] = number
    return False


def _names(model: MultiTaskModel) -> list[str]:
    return [task.name for task in model.tasks]


def _way_out(*heads: Any) -> str:
    for head in heads:
        if isinstance(head, QuantumHead) and type(head) is not QuantumHead:
            return "; a head that computes its blocks has with_own_weights(), which can be merged"
    return next((head.instead for head in heads if getattr(head, "instead", "")), "")


def _same(what: str, sides: Sequence[Any], which: str) -> None:
    """Raise an error unless the descriptions of model 1 and of another model are equal."""
    if sides[0] != sides[1]:
        raise InvalidInputError(f"{what}: model 1 has {sides[0]}; {which} has {sides[1]}")


def _check_pair(first: MultiTaskModel, other: MultiTaskModel, which: str) -> None:
    check_shape(first, other, which)
    theirs = {task.name: task for task in other.tasks}
    for task in (task for task in first.tasks if task.name in theirs):
        twins = task, theirs[task.name]
        sides = [f"{t.kind}, {t.n_outputs} outputs, classes {t.class_names}" for t in twins]
        _same(f"task {task.name!r} differs", sides, which)
        if isinstance(first.head, QuantumHead):
            circuits = [model.head.circuit for model in (first, other)]
            places = [(c.register(task.name), c.ansatz(task.name)) for c in circuits]
            sides = [f"wires {r.wires}, {r.readout}, {block}" for r, block in places]
            _same(f"task {task.name!r} is measured in another way", sides, which)
    if first.columns != other.columns:
        differences = column_differences(first.columns, other.columns)
        _same("the inputs have different columns, ranges or categories", differences, which)


def check_shape(first: MultiTaskModel, other: MultiTaskModel, which: str) -> None:
    """Raise an error unless the models' encoders and encodings have the same shape."""
    heads = first.head, other.head
    kinds = [type(head) for head in heads]
    if kinds[0] is not kinds[1] or kinds[0] not in (QuantumHead, LinearHead):
        raise InvalidInputError(
            f"merge takes models that all have a QuantumHead, or all a LinearHead; model 1 has a "
            f"{kinds[0].__name__}, {which} a {kinds[1].__name__}{_way_out(*heads)}"
        )
    if heads[0].n_features != heads[1].n_features:
        raise InvalidInputError(
            f"the heads take different numbers of features: model 1 {heads[0].n_features}, {which} "
            f"{heads[1].n_features}"
        )
    if kinds[0] is QuantumHead:
        pairs = [(head.circuit, head.angle_map) for head in heads]
        sides = [
            f"layout {c.layout}, {c.n_wires} wires, {c.encoding}, angle map {angle_map}"
            for c, angle_map in pairs
        ]
        _same("the circuits differ", sides, which)
    _check_encoders(first.encoder, other.encoder, which)


def _check_encoders(one: nn.Module, two: nn.Module, which: str) -> None:
    kinds = [type(encoder).__name__ for encoder in (one, two)]
    shapes = [{n: tuple(v.shape) for n, v in e.state_dict().items()} for e in (one, two)]
    if type(one) is not type(two) or shapes[0] != shapes[1]:
        names = [n for n in shapes[0] | shapes[1] if shapes[0].get(n) != shapes[1].get(n)]
        detail = [", ".join(f"{n} {s.get(n, 'missing')}" for n in names[:3]) for s in shapes]
        raise InvalidInputError(
            f"the encoders differ in shape: model 1 is a {kinds[0]} {detail[0]}, {which} a "
            f"{kinds[1]} {detail[1]}"
        )
    # Networks with equal weight shapes may differ in activations, strides or a pretrained base.
    for about in zip(_design(one), _design(two), strict=True):
        _same("the encoders differ", [f"{kinds[0]} {part}" for part in about], which)


def _design(encoder: nn.Module) -> list[str]:
    """Return an encoder's description without settings that only affect training."""
    layers = [
        f"{name}: {module}"
        for name, module in encoder.named_modules()
        if not any(module.children()) and not isinstance(module, nn.Dropout)
    ]
    describe: Any = getattr(encoder, "to_dict", None)
    if describe is None:
        return layers
    given = {k: v for k, v in describe().items() if k not in ONLY_IN_TRAINING}
    return [str(given), *layers]


def check_keep_last(models: Models, same_tasks: bool) -> None:
    """Raise an error if the models do not support ``keep_last=True``."""
    head = models[0].head
    if same_tasks or not isinstance(head, QuantumHead) or head.circuit.layout != "partitioned":
        raise InvalidInputError(
            "keep_last=True is for models of different tasks with a QuantumHead of the partitioned "
            f"layout, whose registers have features of their own; got a {type(head).__name__}"
            f"{' and the same tasks' if same_tasks else ''}"
        )
    _own_layer(models[0].encoder, len(models))


def shared_state(model: MultiTaskModel, blocks: bool, keep_last: bool = False) -> State:
    """Return copies of the tensors to merge: of the encoder, encoding and, if asked, blocks."""
    encoder, head = model.encoder, model.head
    values = {f"encoder.{n}": v for n, v in encoder.state_dict().items() if v.is_floating_point()}
    if keep_last:
        own = {id(p) for p in _own_layer(encoder, 2).parameters()}
        for name, parameter in encoder.named_parameters():
            if id(parameter) in own:
                del values[f"encoder.{name}"]
    elif isinstance(head, QuantumHead):
        values["encoding"] = head.encoding
        if blocks:
            values |= {"blocks": head.blocks(), "scales": head.scales()}
    elif blocks:
        values |= {f"head.{name}": value for name, value in head.state_dict().items()}
    return {name: value.detach().clone() for name, value in values.items()}


@torch.no_grad()
def set_shared(model: MultiTaskModel, state: Mapping[str, Tensor]) -> None:
    """Copy a state with the keys of `shared_state` into the model."""
    encoder = model.encoder.state_dict()
    for name, value in encoder.items():
        if f"encoder.{name}" in state:
            value.copy_(state[f"encoder.{name}"])
    head = model.head
    if isinstance(head, QuantumHead):
        if "encoding" in state:
            head.encoding.copy_(state["encoding"])
        if "blocks" in state:
            assert isinstance(head.blocks, TaskRows)
            head.blocks.parameter.copy_(state["blocks"])
            head.scales.parameter.copy_(state["scales"])
    else:
        own = {name: state.get(f"head.{name}", value) for name, value in head.state_dict().items()}
        head.load_state_dict(own)


def assembled(models: Models, state: Mapping[str, Tensor], same_tasks: bool) -> MultiTaskModel:
    """Return the model of all tasks with a merged shared state.

    Models of different tasks keep their blocks. In the shared layout, all blocks act on the same
    wires. In the partitioned layout, the models' registers are side by side, each with the merged
    encoding, and the encoder's last layer is repeated. If `state` has no encoding (``keep_last``),
    each model keeps its last layer and encoding.
    """
    first = models[0]
    merged = base = copy.deepcopy(first)
    set_shared(base, state)
    if not same_tasks:
        parts: Models = [base]
        if isinstance(first.head, QuantumHead) and first.head.circuit.layout == "partitioned":
            parts = [base] * len(models) if "encoding" in state else models
        several = len(parts) > 1
        layers = [_own_layer(part.encoder, len(parts)) for part in parts] if several else []
        head = _joined_head(models, base, parts)
        merged = MultiTaskModel(_with_layers(base.encoder, layers), head)
        merged.columns = first.columns
        merged.to(next(first.head.parameters()))
    for name in merged.scale.regressions:
        # If several models have a regression, average the target scales like the outputs.
        own = [m.target_scale([name]) for m in models if name in m.scale.regressions]
        mean, std = (torch.stack(parts).mean(0) for parts in zip(*own, strict=True))
        merged.set_target_scale(name, mean, std)
    return merged.train(first.training)


def _joined_head(models: Models, base: MultiTaskModel, parts: Models) -> Head:
    tasks = [task for model in models for task in model.tasks]
    state: State = {}
    for model in models:
        state |= model.head.state_dict()
    if not isinstance(base.head, QuantumHead):
        head = LinearHead(tasks, base.head.n_features, seed=0)
        return _loaded(head, state, models)
    circuit = base.head.circuit
    circuits = [model.head.circuit for model in models]
    if circuit.layout == "shared":
        blocks = {task.name: c.ansatz(task.name) for c in circuits for task in c.tasks}
        readouts = {name: r.readout for c in circuits for name, r in c.registers.items()}
        joined = rebuilt(circuit, blocks=blocks, tasks=tasks, readouts=readouts)
    else:
        # Merged and grown models already have one encoding per register group.
        widths, inner = separate_encodings(circuit)
        joined = joined_circuit(circuits, RegisterEncoding(widths * len(parts), inner))
    frozen = all(model.head.frozen for model in models)
    simulator, angle_map = base.head.simulator, base.head.angle_map
    quantum = QuantumHead(joined, simulator, angle_map=angle_map, frozen=frozen, seed=0)
    state["encoding"] = torch.cat([part.head.encoding.detach() for part in parts])
    return _loaded(quantum, state, models)


def _loaded(head: Head, state: State, models: Models) -> Head:
    """Load a state into the head, and freeze the tasks that are frozen in the models."""
    head.load_state_dict(state)
    for name in set().union(*(model.head.frozen_tasks for model in models)):
        head.freeze(name)
    return head


def _own_layer(encoder: nn.Module, copies: int) -> nn.Linear:
    """Return an encoder's last layer; raise an error unless it is a linear layer."""
    layer = last_layer(encoder)
    if layer is None:
        raise InvalidInputError(
            f"the encoder {type(encoder).__name__} does not end in a linear layer that could give "
            f"its features to {copies} groups of registers; use layout='shared'"
        )
    return layer


@torch.no_grad()
def _with_layers(encoder: nn.Module, layers: Sequence[nn.Linear]) -> nn.Module:
    """Replace the encoder's last layer by several layers with concatenated features, in place."""
    if not layers:
        return encoder
    layer = _own_layer(encoder, len(layers))
    names = [name for name, _ in layer.named_parameters()]
    # Compute all tensors first, because `layer` may be in `layers`.
    joined = {name: torch.cat([getattr(own, name) for own in layers]) for name in names}
    for name, value in joined.items():
        setattr(layer, name, nn.Parameter(value))
    layer.out_features *= len(layers)
    if hasattr(encoder, "out_features"):
        vars(encoder)["out_features"] = layer.out_features
    return encoder
