"""Choose the engine of a group of equal cones, and whether the cones of all tasks run as one."""

from collections.abc import Sequence

from qmtl.circuit import HeadCircuit
from qmtl.simulators._amplitudes import AmplitudeEngine, build_program
from qmtl.simulators._engine import Engine
from qmtl.simulators._pauli import LARGEST_PROGRAM, PauliEngine, pauli_program
from qmtl.simulators._plan import Group, Plan, build_plan
from qmtl.simulators._torch import TorchEngine

# A Pauli operation takes twice as long as a state-vector operation, which runs in longer loops.
# Small programs of both kinds are equally fast; for these, the Pauli kernel is chosen because it
# compiles faster.
PAULI_ADVANTAGE = 0.5
FEW_OPERATIONS = 2_000
# Largest number of basis states of a readout for which Z-strings are tried.
LARGEST_READOUT = 2**10
# Largest number of basis states times outputs for which tasks may share one state.
LARGEST_JOINT_READOUT = 2**16
# No machine has the memory for larger tables or states.
LARGEST_STATE = 2**26


def choose_plan(circuit: HeadCircuit, tasks: Sequence[str], plan: Plan) -> Plan:
    """Choose a cone for each task, or one cone for all if that makes a step cheaper.

    One cone for all is only possible if all tasks depend on the same parameters of the encoding:
    otherwise rounding would give a task gradients that must be exactly zero.
    """
    if not _may_join(circuit, plan):
        return plan
    return min(plan, build_plan(circuit, tasks, plan.chain, joint=True), key=_cost)


def _may_join(circuit: HeadCircuit, plan: Plan) -> bool:
    """Return whether the tasks could share one state that has fewer amplitudes than their own."""
    wires = {wire for group in plan.groups for wire in group.wires.ravel().tolist()}
    amplitudes = 1 << len(wires)
    if amplitudes > min(LARGEST_STATE, sum(group.amplitudes for group in plan.groups) - 1):
        return False
    names = [task for group in plan.groups for task in group.tasks]
    if circuit.layout != "partitioned" or len(names) < 2 or len(set(names)) < len(names):
        return False
    if any(group.structure.block_slots[0] for group in plan.groups):
        return False
    registers = [circuit.register(task) for task in names]
    owned = [wire for register in registers for wire in register.wires]
    # Blocks on the same wires are alternatives: they must not run one after another on one state.
    if len(set(owned)) < len(owned) and any(map(circuit.block_gates, names)):
        return False
    n_read = sum(len(r.readout.read_wires(len(r.wires))) for r in registers)
    if sum(r.readout.n_outputs for r in registers) << n_read > LARGEST_JOINT_READOUT:
        return False
    seen = {
        frozenset(gate for gate in circuit.light_cone(task).encoding if gate.angle is not None)
        for task in names
    }
    return len(seen) == 1


def _cost(plan: Plan) -> float:
    """Count operations per sample, with those on Pauli strings weighted by their time."""
    engines = [engine_of(group, compiled=True) for group in plan.groups]
    return sum(
        engine.step_operations(1) / (PAULI_ADVANTAGE if engine.name == PauliEngine.name else 1)
        for engine in engines
    )


def engine_of(group: Group, *, compiled: bool) -> Engine:
    """Return the compiled engine with the fewest operations, or the torch engine.

    The torch engine runs blocks that depend on the sample.
    """
    if not compiled:
        return TorchEngine(group)
    structure = group.structure
    # Logits are logarithms of probabilities. Only squares of amplitudes give precise small
    # probabilities, so Pauli strings are used for Z-strings only.
    are_strings = all(min(row) < 0 for row in structure.readout)
    are_strings = are_strings and len(structure.readout[0]) <= LARGEST_READOUT
    amplitudes = (6 * structure.steps + 4) << structure.n_wires
    most = min(max(FEW_OPERATIONS, int(PAULI_ADVANTAGE * amplitudes)), LARGEST_PROGRAM)
    if are_strings and group.joint is None:
        paulis = pauli_program(structure, most)
        if paulis is not None and paulis.operations <= most:
            return PauliEngine(group, paulis)
    if 1 << structure.n_wires > LARGEST_STATE:
        return TorchEngine(group)
    program = build_program(group)
    return TorchEngine(group) if program is None else AmplitudeEngine(program)
