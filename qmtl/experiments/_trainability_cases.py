"""The circuits whose gradients are sampled for trainability."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from qmtl.circuit import (
    AngleEncoding,
    ExpectationZ,
    HeadCircuit,
    PauliStrings,
    Probabilities,
    Readout,
    RotationAnsatz,
)
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task

__all__ = ["INITIALS", "READOUTS", "Case", "TrainabilitySettings", "cases", "readout_of"]

READOUTS = ("local", "global-string", "global-projector")
INITIALS = ("uniform", "default")
SHALLOW = 2


@dataclass(frozen=True)
class Case:
    """One circuit whose gradient is sampled.

    Attributes:
        study: what is varied: wires, block layers, encoding layers or tasks.
        readout: ``local`` is Z on the first wire of the register, ``global-string`` Z⊗…⊗Z on all
            of its wires, ``global-projector`` the probability of |0…0⟩.
        initial: ``uniform`` draws every angle and weight from [0, 2π); ``default`` draws weights
            as `QuantumHead` does, and angles π·tanh(x/2) of standard normal x.
        entangler: of the block; the encoding has the default one.
        wires: of the register.
        block_layers: of the `RotationAnsatz`.
        encoding_layers: of the `AngleEncoding`.
        tasks: registers side by side; the gradient is the first task's.
    """

    study: str
    readout: str
    initial: str
    entangler: str
    wires: int
    block_layers: int
    encoding_layers: int = 2
    tasks: int = 1

    def circuit(self) -> HeadCircuit:
        """The head circuit, with binary tasks, or two classes for the projector."""
        readout = readout_of(self.readout, self.wires)
        make = Task.binary if readout.n_outputs == 1 else _two_classes
        made = [make(f"t{i}") for i in range(self.tasks)]
        return HeadCircuit(
            made,
            AngleEncoding(n_layers=self.encoding_layers),
            RotationAnsatz(self.block_layers, self.entangler),
            wires_per_task=self.wires,
            readouts={task.name: readout for task in made},
        )


@dataclass(frozen=True)
class TrainabilitySettings:
    """What is sampled.

    Attributes:
        wires: of the one register, for the study of wires.
        layers: of the block, and of the encoding; the study of wires has blocks of 2 layers and
            of the most given here. Layers are varied at the middle number of wires.
        tasks: numbers of tasks with two wires each, for the study of tasks.
        samples: random draws per circuit.
        seed: of the draws.
        entanglers: of encoding and block, by name.
    """

    wires: tuple[int, ...] = (2, 4, 6, 8, 10)
    layers: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    tasks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    samples: int = 200
    seed: int = 0
    entanglers: tuple[str, ...] = field(default=("cz_ring", "all_to_all"))

    def __post_init__(self) -> None:
        for name, least in (("wires", 2), ("layers", 1), ("tasks", 1)):
            values = getattr(self, name)
            if not values or any(value < least for value in values):
                raise InvalidInputError(
                    f"{name}: expected one or more integers >= {least}, got {list(values)}"
                )
        if self.samples < 2:
            raise InvalidInputError(f"samples: expected an integer >= 2, got {self.samples}")


def cases(settings: TrainabilitySettings) -> Iterator[Case]:
    """The circuits of all four studies, one after another.

    Example:
        >>> found = list(cases(TrainabilitySettings(wires=(2, 4), layers=(2, 4), tasks=(1, 8))))
        >>> sorted({case.study for case in found})
        ['block layers', 'encoding layers', 'tasks', 'wires']
    """
    deep = max(settings.layers)
    middle = sorted(settings.wires)[len(settings.wires) // 2]
    for initial in INITIALS:
        for readout in READOUTS:
            for entangler in settings.entanglers:
                for layers in sorted({SHALLOW, deep}):
                    for wires in settings.wires:
                        yield Case("wires", readout, initial, entangler, wires, layers)
                for layers in settings.layers:
                    yield Case("block layers", readout, initial, entangler, middle, layers)
            for layers in settings.layers:
                yield Case("encoding layers", readout, initial, "cz_ring", middle, SHALLOW, layers)
        for readout in ("local", "global-string"):
            for tasks in settings.tasks:
                yield Case("tasks", readout, initial, "cz_ring", 2, SHALLOW, tasks=tasks)


def _two_classes(name: str) -> Task:
    return Task.multiclass(name, 2)


def readout_of(name: str, wires: int) -> Readout:
    """The readout of that name, one of `READOUTS`, on a register of so many wires."""
    if name == "local":
        return ExpectationZ(1)
    if name == "global-string":
        return PauliStrings(("Z" * wires,))
    if name == "global-projector":
        return Probabilities(2)
    raise unknown_name("readout", name, READOUTS)
