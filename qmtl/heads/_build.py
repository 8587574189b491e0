"""Build a head by its type: the quantum head, its rivals, and its ablations."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import BeforeValidator, Field

from qmtl._sections import Section, Seed
from qmtl.circuit import Encoding, HeadCircuit, without_blocks, without_entanglers
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads._extended import ExtendedHead
from qmtl.heads._gated import GatedHead, common_circuit
from qmtl.heads._head import Head
from qmtl.heads._linear import LinearHead, LocalLinearHead
from qmtl.heads._low_rank import LowRankLinearHead
from qmtl.heads._peers import SharedVQCHead, VQCPerTaskHead
from qmtl.heads._quantum import QuantumHead
from qmtl.heads._shared_blocks import HyperHead, MixtureHead

HeadType = Literal[
    "quantum",
    "linear",
    "local-cone",
    "local-register",
    "low-rank",
    "fixed-width",
    "vqc-per-task",
    "shared-vqc",
    "quantum-no-block",
    "quantum-frozen",
    "quantum-no-entangler",
    "mixture",
    "hyper",
]
"""A type of head: ``head.type`` of a recipe."""
HEAD_TYPES: tuple[HeadType, ...] = get_args(HeadType)
"""All types of heads that `build_head` knows."""
HEADS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        QuantumHead, LinearHead, LocalLinearHead, LowRankLinearHead, VQCPerTaskHead, SharedVQCHead,
        ExtendedHead, GatedHead, MixtureHead, HyperHead,
    )
}  # fmt: skip
"""Classes of heads by the names that saved models use."""


class HeadOptions(Section):
    """Options of a head other than its type and circuit.

    Args:
        simulator: simulator of heads that have a circuit: a name, or a `Simulator`.
        angle_map: map from features to angles, for heads that have a circuit, see `QuantumHead`.
        initial: initial weights of heads that have a circuit, see `QuantumHead`.
        width: (fixed-width, shared-vqc) number of features of the representation, for any number of
            tasks. With 8 features, a linear head has 9 parameters per binary task, as has the
            quantum head by default.
        rank: (low-rank) width of the bottleneck; None chooses it, and whether the outputs have a
            bias, so that the number of parameters is closest to the quantum head's.
        seed: seed of the initial weights; None draws it from torch's global generator.
        gates: whether tasks of one kind also have a common predictor, which a gate per task mixes
            with the task's own predictor; gates reveal outlier tasks, see `GatedHead`.
        inventory: (mixture) number of blocks that tasks share and mix, see `MixtureHead`.
        token: (hyper) length of each task's token, see `HyperHead`.

    Example:
        >>> HeadOptions(width=4).rank is None
        True
    """

    simulator: Any = "lightcone"
    angle_map: Literal["narrow", "tanh", "identity"] = "narrow"
    initial: Literal["equator", "normal", "uniform"] = "equator"
    width: int = Field(8, ge=1)
    rank: int | None = Field(None, ge=1)
    seed: int | None = None
    gates: bool = False
    inventory: int = Field(2, ge=1)
    token: int = Field(2, ge=1)

    @property
    def of_circuits(self) -> dict[str, Any]:
        """The options that heads with a circuit take."""
        names = ("simulator", "angle_map", "initial", "seed")
        return {name: getattr(self, name) for name in names}


def _one_model(value: Any) -> Any:
    if value == "single-task":
        raise ValueError(
            "single-task models are several models; to compare with them, use compare = "
            "['single-task'] or qmtl bench --heads single-task,...; to train one of them, use "
            "data.tasks = ['its name'] and head.type = 'linear'"
        )
    return value


class _HeadType(Section):
    type: Annotated[HeadType, BeforeValidator(_one_model)] = "quantum"


class HeadSection(HeadOptions, _HeadType):
    """Section ``[head]``: quantum, a rival, or an ablation, with the keys of `HeadOptions`.

    Attributes:
        type: type of the head, see `build_head`.
        single_task: head of each single-task model that a comparison trains: ``linear``, on a
            representation as wide as the shared one, or ``quantum``, on the task's own register.
        simulator: name of the simulator of heads that have a circuit.
        seed: seed of the initial weights.
    """

    single_task: Literal["linear", "quantum"] = "linear"
    simulator: str = "lightcone"
    seed: Seed = 0


def build_head(
    head_type: HeadType, circuit: HeadCircuit, options: HeadOptions | None = None
) -> Head:
    """Return a head of the given type for the circuit's tasks.

    Args:
        head_type: one of `HEAD_TYPES`. ``quantum``: the circuit itself. ``quantum-no-block``: the
            circuit with the identity as blocks (with ``initial="equator"``, with fixed quarter
            turns of the read wires). ``quantum-no-entangler``: the circuit without two-qubit gates.
            ``quantum-frozen``: the circuit with untrained random weights. ``linear``: dense, on the
            circuit's features. ``local-register`` and ``local-cone``: linear, on the features of a
            task's register or light cone. ``low-rank``: linear, through a bottleneck.
            ``fixed-width``: dense, on ``options.width`` features. ``vqc-per-task`` and
            ``shared-vqc``: circuits, then linear layers. ``mixture``: see `MixtureHead`.
            ``hyper``: see `HyperHead`.
        circuit: the quantum head's circuit; other heads have its tasks and sizes.
        options: see `HeadOptions`.

    Returns:
        The head; its ``n_features`` is the number of features that the encoder must compute. With
        ``options.gates`` the head is a `GatedHead` of two heads of that type, if at least two tasks
        are of one kind.

    Raises:
        InvalidInputError: for an unknown type, or a circuit that does not suit the type.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(16)])
        >>> {kind: build_head(kind, circuit).n_features for kind in ("low-rank", "fixed-width")}
        {'low-rank': 32, 'fixed-width': 8}
    """
    if head_type not in _BUILDERS:
        raise unknown_name("head type", head_type, HEAD_TYPES)
    options = options or HeadOptions()
    common = common_circuit(circuit) if options.gates else None
    if common is None:
        return _BUILDERS[head_type](circuit, options)
    return GatedHead(*(_BUILDERS[head_type](own, options) for own in (circuit, common)))


def head_parameters(
    head_type: HeadType,
    circuit: HeadCircuit,
    options: HeadOptions | None = None,
    *,
    trainable: bool = True,
) -> int:
    """Return the number of parameters of `build_head`'s head.

    Args:
        head_type: one of `HEAD_TYPES`.
        circuit: the quantum head's circuit.
        options: see `HeadOptions`.
        trainable: whether to count only trained weights, without those that ``quantum-frozen``
            freezes.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(16)])
        >>> {kind: head_parameters(kind, circuit) for kind in ("quantum", "linear", "low-rank")}
        {'quantum': 144, 'linear': 528, 'low-rank': 144}
    """
    with torch.device("meta"):
        seeded = (options or HeadOptions()).model_copy(update={"seed": 0})
        head = build_head(head_type, circuit, seeded)
    return sum(p.numel() for p in head.parameters() if p.requires_grad or not trainable)


def _quantum(circuit: HeadCircuit, options: HeadOptions, *, frozen: bool = False) -> QuantumHead:
    return QuantumHead(circuit, **options.of_circuits, frozen=frozen)


def _low_rank(circuit: HeadCircuit, options: HeadOptions) -> LowRankLinearHead:
    if options.rank is None:
        return LowRankLinearHead.matching(circuit, seed=options.seed)
    return LowRankLinearHead(circuit.tasks, circuit.n_features, options.rank, seed=options.seed)


def _shared_vqc(circuit: HeadCircuit, options: HeadOptions) -> SharedVQCHead:
    """Return a head with one circuit: the given one's encoding, and its first task's block."""
    n_wires = _wires_for(options.width, circuit.encoding)
    ansatz = circuit.ansatz(circuit.tasks[0].name)
    return SharedVQCHead(circuit.tasks, n_wires, circuit.encoding, ansatz, **options.of_circuits)


def _wires_for(width: int, encoding: Encoding) -> int:
    """Return the smallest number of wires on which the encoding takes at least `width` features."""
    for n_wires in range(1, width + 1):
        if encoding.n_features(n_wires) >= width:
            return n_wires
    raise InvalidInputError(
        f"{encoding} takes {encoding.n_features(width)} features on {width} wires, fewer than the "
        f"width {width} of the shared circuit"
    )


_BUILDERS: dict[HeadType, Callable[[HeadCircuit, HeadOptions], Head]] = {
    "quantum": _quantum,
    "linear": lambda c, o: LinearHead(c.tasks, c.n_features, seed=o.seed),
    "local-register": lambda c, o: LocalLinearHead.on_registers(c, seed=o.seed),
    "local-cone": lambda c, o: LocalLinearHead.on_cones(c, seed=o.seed),
    "low-rank": _low_rank,
    "fixed-width": lambda c, o: LinearHead(c.tasks, o.width, seed=o.seed),
    "vqc-per-task": lambda c, o: VQCPerTaskHead(c, **o.of_circuits),
    "shared-vqc": _shared_vqc,
    # Without the quarter turns, all initial slopes would be zero, an unfair comparison.
    "quantum-no-block": lambda c, o: _quantum(without_blocks(c, turned=o.initial == "equator"), o),
    "quantum-frozen": lambda c, o: _quantum(c, o, frozen=True),
    "quantum-no-entangler": lambda c, o: _quantum(without_entanglers(c), o),
    "mixture": lambda c, o: MixtureHead(c, **o.of_circuits, inventory=o.inventory),
    "hyper": lambda c, o: HyperHead(c, **o.of_circuits, token=o.token),
}
