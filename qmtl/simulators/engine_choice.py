"""Which engine runs a group of equal cones, and whether cones are better run as one."""

from collections.abc import Sequence

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.simulators.amplitudes import AmplitudeEngine, build_program
from qmtl.simulators.eager import EagerEngine
from qmtl.simulators.engine import Engine
from qmtl.simulators.joint import JointEngine
from qmtl.simulators.pauli import LARGEST_PROGRAM, PauliEngine, pauli_program
from qmtl.simulators.plan import Group, Plan, build_plan

__all__ = ["choose_plan", "engine_of"]

# A Pauli operation takes four times as long as one on state vectors, which are longer loops; below
# some number of operations neither counts, and the Pauli kernel is the one that compiles faster.
PAULI_ADVANTAGE = 0.25
FEW_OPERATIONS = 2_000
# Basis states of the wires read together, above which no strings are looked for.
LARGEST_READOUT = 2**10
# The same, times the outputs, above which tasks are not read from one state.
LARGEST_JOINT_READOUT = 2**16
# Beyond it no machine has the memory for tables of a state's size, or for the states.
LARGEST_STATE = 2**26


def choose_plan(circuit: HeadCircuit, tasks: Sequence[str], chain: Sequence[str]) -> Plan:
    """The plan for these tasks: a cone for each, or one for all if a step takes less by it.

    The latter for the compiled engines, and only if all tasks depend on the same parameters of the
    encoding: a gradient by what a task does not depend on has to be zero, and not nearly so.

    Example:
        >>> from qmtl import AngleEncoding, HeadCircuit, Task
        >>> dense = AngleEncoding(entangler="all_to_all")
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(6)], dense)
        >>> (group,) = choose_plan(circuit, list(circuit.registers), ()).groups
        >>> len(group.members), group.amplitudes
        (1, 4096)
    """
    plan = build_plan(circuit, tasks, chain)
    if not _may_join(circuit, plan):
        return plan
    return min(plan, build_plan(circuit, tasks, chain, joint=True), key=_cost)


def _may_join(circuit: HeadCircuit, plan: Plan) -> bool:
    """Whether the tasks could run on one state, and it has fewer amplitudes than their own."""
    names = [task for group in plan.groups for task in group.tasks]
    if circuit.layout != "partitioned" or len(names) < 2 or len(set(names)) < len(names):
        return False
    if any(len(group.block_slots.feature_slots) for group in plan.groups):
        return False
    wires = {wire for group in plan.groups for wire in group.wires.ravel().tolist()}
    amplitudes = 1 << len(wires)
    if amplitudes > min(LARGEST_STATE, sum(group.amplitudes for group in plan.groups) - 1):
        return False
    registers = [circuit.register(task) for task in names]
    n_read = sum(len(r.readout.read_wires(len(r.wires))) for r in registers)
    if sum(r.readout.n_outputs for r in registers) << n_read > LARGEST_JOINT_READOUT:
        return False
    seen = {
        frozenset(gate for gate in circuit.light_cone(task).encoding if gate.angle is not None)
        for task in names
    }
    return len(seen) == 1


def _cost(plan: Plan) -> float:
    """Operations of a sample, those on Pauli strings counted by the time they take."""
    engines = [engine_of(group, compiled=True) for group in plan.groups]
    return sum(
        engine.step_operations(1) / (PAULI_ADVANTAGE if engine.name == PauliEngine.name else 1)
        for engine in engines
    )


def engine_of(group: Group, *, compiled: bool) -> Engine:
    """The compiled engine with the fewest operations, or torch; made once, kept with the group.

    Where a block depends on the sample, torch runs it.
    """
    kind = "compiled" if compiled else "eager"
    if kind not in group.kept:
        one: Engine = _cheapest(group) if compiled else EagerEngine(group)
        is_joint = len(group.members) < len(group.tasks)
        group.kept[kind] = JointEngine(one, group) if is_joint else one
    engine: Engine = group.kept[kind]
    return engine


def _cheapest(group: Group) -> Engine:
    # Logits are logarithms of probabilities, and small ones are precise as squares only.
    are_strings = bool((group.readout < 0).any(axis=1).all())
    are_strings = are_strings and group.readout.shape[1] <= LARGEST_READOUT
    amplitudes = (6 * group.steps + 4) << group.n_wires
    most = min(max(FEW_OPERATIONS, int(PAULI_ADVANTAGE * amplitudes)), LARGEST_PROGRAM)
    paulis = pauli_program(group.structure, most) if are_strings else None
    if paulis is not None and paulis.operations <= most:
        return PauliEngine(group, paulis)
    if 1 << group.n_wires > LARGEST_STATE:
        return EagerEngine(group)
    program = build_program(group)
    return EagerEngine(group) if program is None else AmplitudeEngine(program)
