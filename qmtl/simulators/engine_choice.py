"""Which engine runs a group of equal cones."""

from qmtl.simulators.amplitudes import AmplitudeEngine, build_program
from qmtl.simulators.eager import EagerEngine
from qmtl.simulators.engine import Engine
from qmtl.simulators.pauli import LARGEST_PROGRAM, PauliEngine, pauli_program
from qmtl.simulators.plan import Group

__all__ = ["engine_of"]

# A Pauli operation takes four times as long as one on state vectors, which are longer loops; below
# some number of operations neither counts, and the Pauli kernel is the one that compiles faster.
PAULI_ADVANTAGE = 0.25
FEW_OPERATIONS = 2_000
# Basis states of the wires read together, above which no strings are looked for.
LARGEST_READOUT = 2**10


def engine_of(group: Group, *, compiled: bool) -> Engine:
    """The compiled engine with the fewest operations, or torch; made once, kept with the group.

    Where a block depends on the sample, torch runs it.
    """
    kind = "compiled" if compiled else "eager"
    if kind not in group.kept:
        group.kept[kind] = _cheapest(group) if compiled else EagerEngine(group)
    engine: Engine = group.kept[kind]
    return engine


def _cheapest(group: Group) -> Engine:
    # Logits are logarithms of probabilities, and small ones are precise as squares only.
    are_strings = bool((group.readout < 0).any()) and group.readout.shape[1] <= LARGEST_READOUT
    amplitudes = (6 * group.steps + 4) << group.n_wires
    most = min(max(FEW_OPERATIONS, int(PAULI_ADVANTAGE * amplitudes)), LARGEST_PROGRAM)
    paulis = pauli_program(group.structure, most) if are_strings else None
    if paulis is not None and paulis.operations <= most:
        return PauliEngine(group, paulis)
    program = build_program(group)
    return EagerEngine(group) if program is None else AmplitudeEngine(program)
