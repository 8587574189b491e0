"""Hypothesis strategies for head circuits, and random numbers to run them with."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from qmtl.circuit import (
    ENTANGLERS,
    Angle,
    AngleEncoding,
    ExpectationZ,
    Gate,
    HeadCircuit,
    IdentityAnsatz,
    IQPEncoding,
    PauliStrings,
    Probabilities,
    RealAmplitudes,
    RotationAnsatz,
)
from qmtl.tasks import Task

__all__ = [
    "Case",
    "ansatze",
    "binary_tasks",
    "cases",
    "encodings",
    "entangler_names",
    "gate_lists",
    "head_circuits",
    "random_angles",
    "random_case",
    "random_weights",
    "readouts_and_tasks",
]

# The ring first: Hypothesis favours what comes first.
entangler_names = st.sampled_from(sorted(ENTANGLERS, key=lambda name: name != "cz_ring"))


def binary_tasks(n: int) -> list[Task]:
    return [Task.binary(f"t{i}") for i in range(n)]


def random_angles(circuit, batch=3, dtype=torch.float64, seed=0, *, grad=False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    angles = torch.rand(batch, circuit.n_features, dtype=torch.float64, generator=generator)
    return ((2 * angles - 1) * torch.pi).to(dtype).requires_grad_(grad)


def random_weights(circuit, dtype=torch.float64, seed=0, *, grad=False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed + 1)
    sizes = {"encoding": circuit.n_encoding_weights}
    sizes |= {name: circuit.n_weights(name) for name in circuit.registers}
    return {
        name: torch.randn(size, dtype=torch.float64, generator=generator)
        .to(dtype)
        .requires_grad_(grad)
        for name, size in sizes.items()
    }


@dataclass(frozen=True)
class Case:
    """A circuit and where to evaluate it. Its repr is short: hypothesis prints it on failure."""

    circuit: HeadCircuit
    batch: int
    seed: int

    def angles(self, dtype=torch.float64, *, grad=False) -> Tensor:
        return random_angles(self.circuit, self.batch, dtype, self.seed, grad=grad)

    def weights(self, dtype=torch.float64, *, grad=False) -> dict[str, Tensor]:
        return random_weights(self.circuit, dtype, self.seed, grad=grad)


def random_case(circuit: HeadCircuit, batch: int = 3, seed: int = 0) -> Case:
    return Case(circuit, batch, seed)


@st.composite
def encodings(draw, max_layers=3):
    if draw(st.integers(0, 4)) == 4:
        return IQPEncoding(n_layers=draw(st.integers(1, 2)), pattern=draw(entangler_names))
    n_layers = draw(st.sampled_from([2, 1, *range(3, max_layers + 1)]))
    axes = draw(st.text("XYZ", min_size=1, max_size=2))
    reupload = draw(st.booleans())
    trainable = draw(st.sampled_from(["Z", "", "Y", "X", "ZY", "XZ", "YY"]))
    if not reupload and n_layers > 1 and not set(trainable) - {"Z"}:
        trainable = draw(st.sampled_from(["X", "Y", "YZ"]))
    slots = len(axes) * (n_layers if reupload else 1)
    return AngleEncoding(
        n_layers=n_layers,
        axes=axes,
        features_per_wire=draw(st.none() | st.integers(1, slots)),
        trainable=trainable,
        reupload=reupload,
        entangler=draw(entangler_names),
    )


ansatze = st.one_of(
    st.builds(RotationAnsatz, n_layers=st.integers(1, 3), entangler=entangler_names),
    st.builds(RealAmplitudes, n_layers=st.integers(1, 2), entangler=entangler_names),
    st.just(IdentityAnsatz()),
)


@st.composite
def readouts_and_tasks(draw, name, n_wires):
    """A task, and a readout of it that fits a register of `n_wires` wires."""
    kind = draw(st.sampled_from(["z", "strings", "probabilities", "probabilities"]))
    if kind == "probabilities":
        n = draw(st.integers(2, 2**n_wires))
        return Task.multiclass(name, n), Probabilities(n)
    if kind == "z":
        n = draw(st.integers(1, n_wires))
        most = max(1, (n_wires - 1) // max(1, n - 1))
        readout = ExpectationZ(n, step=draw(st.integers(1, most)))
    else:
        length = draw(st.integers(1, n_wires))
        string = st.text("IZ", min_size=length, max_size=length).filter(lambda s: "Z" in s)
        readout = PauliStrings(
            tuple(draw(st.lists(string, min_size=1, max_size=min(3, 2**length - 1), unique=True)))
        )
        n = readout.n_outputs
    kinds = [lambda: Task.multilabel(name, n), lambda: Task.regression(name, n)]
    kinds += [lambda: Task.binary(name)] if n == 1 else []
    return draw(st.sampled_from(kinds))(), readout


@st.composite
def head_circuits(draw, max_wires=9, max_tasks=5, layout=None, encoding=None, ansatz=None):
    if layout is None:
        layout = draw(st.sampled_from(["partitioned"] * 3 + ["shared"]))
    # Hypothesis favours what comes first: larger circuits, with cones inside them.
    n_tasks = draw(st.sampled_from(range(min(max_tasks, max_wires), 0, -1)))
    if layout == "shared":
        n_tasks = min(n_tasks, 4)
        sizes = [draw(st.integers(1, min(5, max_wires)))] * n_tasks
    else:
        sizes, left = [], max_wires
        for i in range(n_tasks):
            most = min(4, left - (n_tasks - 1 - i))
            sizes.append(draw(st.sampled_from([2, 1, 3, 4][:most] if most > 1 else [1])))
            left -= sizes[-1]
    names = [f"t{i}" for i in range(n_tasks)]
    pairs = [draw(readouts_and_tasks(name, size)) for name, size in zip(names, sizes, strict=True)]
    blocks = ansatze if ansatz is None else ansatz
    block = draw(st.one_of(blocks, st.fixed_dictionaries(dict.fromkeys(names, blocks))))
    where = {"n_wires": sizes[0]} if layout == "shared" else {}
    if layout == "partitioned":
        where = {"wires_per_task": dict(zip(names, sizes, strict=True))}
    return HeadCircuit(
        [task for task, _ in pairs],
        draw(encodings() if encoding is None else encoding),
        block,
        layout=layout,
        readouts={task.name: readout for task, readout in pairs},
        **where,
    )


@st.composite
def cases(draw, max_batch=5, **options):
    return Case(
        draw(head_circuits(**options)), draw(st.integers(1, max_batch)), draw(st.integers(0, 2**20))
    )


@st.composite
def gate_lists(draw, n_wires, max_gates=14):
    """Gates in no pattern at all, with constant angles."""
    names = ["Hadamard", "RX", "RY", "RZ"]
    names += ["CZ", "CZ", "CNOT", "CNOT", "IsingZZ"] if n_wires > 1 else []
    gates = []
    for _ in range(draw(st.integers(0, max_gates))):
        name = draw(st.sampled_from(names))
        wires = draw(st.permutations(range(n_wires)))[: 2 if name in names[4:] else 1]
        turns = name in ("RX", "RY", "RZ", "IsingZZ")
        angle = Angle(constant=draw(st.floats(0.3, 2.8))) if turns else None
        gates.append(Gate(name, tuple(wires), angle))
    return gates
