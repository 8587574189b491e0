"""Head parameters against the number of tasks: counts of real heads, closed forms, crossovers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from qmtl.circuit import HeadCircuit
from qmtl.errors import check_integer, check_rows, unknown_name
from qmtl.experiments._build import head_look
from qmtl.experiments._statistics import Fit, power_law
from qmtl.heads import HeadOptions, HeadType, build_head
from qmtl.plotting import axes_or_new, count_axis, legend_below, number_axis
from qmtl.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rule = Literal["matched", "fixed"]
DESIGN = "cz-ring"
DESIGNS: dict[str, str] = {"matched": DESIGN, "fixed": "shared-register"}
FIT_FROM = 16
WIDTH = 8
TITLES = {
    "matched": "representation grows with T (2 T features)",
    "fixed": "representation of 8 features for any T",
}
# Texts for `Crossover.smaller`.
NAMES = {"quantum": "the quantum head", "rival": "this head", "neither": "neither, they are equal"}


@dataclass(frozen=True)
class CountedHead:
    """A head under a rule for the width of the representation, and its number of parameters.

    *Matched*: the representation is as wide as the default circuit's features, two per binary task.
    In this capacity-matched setting, dense linear heads have O(T²) parameters. *Fixed*: the
    representation has eight features for any T (for the quantum head, the design
    ``shared-register``), and every head has O(T). The encoder is not counted: under the matched
    rule, all heads have the same. `closed_form` returns the number of trainable parameters for T
    tasks; `formula` is its text for T ≥ 3.
    """

    name: HeadType
    rule: Rule
    closed_form: Callable[[int], int]
    formula: str

    def build(self, n_tasks: int) -> Any:
        """Return the head, a torch module, for this many binary tasks."""
        # Rivals of a fixed width ignore the circuit's size.
        circuit = circuit_for(self.rule if self.name == "quantum" else "matched", n_tasks)
        return build_head(self.name, circuit, HeadOptions(width=WIDTH, seed=0))


HEADS: tuple[CountedHead, ...] = (
    # 2T encoding weights; six in each block; a scale per task.
    CountedHead("quantum", "matched", lambda n: 9 * n, "9 T"),
    CountedHead("linear", "matched", lambda n: (2 * n + 1) * n, "2 T² + T"),
    # A cone has six wires once the ring has at least six.
    CountedHead("local-cone", "matched", lambda n: (min(6, 2 * n) + 1) * n, "7 T"),
    CountedHead("local-register", "matched", lambda n: 3 * n, "3 T"),
    # Rank 3 without biases: 3 (2T + T); the rank never exceeds the number of tasks.
    CountedHead("low-rank", "matched", lambda n: 9 * n if n > 2 else (3 * n + 1) * n, "9 T"),
    # Two encoding weights, eight of the block, a linear layer on two wires.
    CountedHead("vqc-per-task", "matched", lambda n: 13 * n, "13 T"),
    CountedHead("quantum", "fixed", lambda n: 11 * n + 4, "11 T + 4"),
    CountedHead("fixed-width", "fixed", lambda n: (WIDTH + 1) * n, "9 T"),
    # One circuit of eight wires: 8 encoding weights and 32 of its block.
    CountedHead("shared-vqc", "fixed", lambda n: (WIDTH + 1) * n + 5 * WIDTH, "9 T + 40"),
)
"""Heads that `qmtl scaling` counts and trains, under both rules."""


@dataclass(frozen=True)
class HeadCount:
    """Parameters of one head, counted and by the closed form."""

    rule: str
    head: str
    tasks: int
    representation: int
    parameters: int
    closed_form: int
    formula: str


@dataclass(frozen=True)
class CircuitSize:
    """Size of a head circuit; in the shared layout, of one of its T equal circuits.

    `cone_wires` is the largest number of wires that a task's output depends on.
    """

    rule: str
    tasks: int
    circuits: int
    wires: int
    depth: int
    two_qubit_depth: int
    two_qubit_gates: int
    cone_wires: int


def circuit_for(rule: str, n_tasks: int) -> HeadCircuit:
    """Return the circuit of a rule for this many binary tasks, t0, t1, …"""
    if rule not in DESIGNS:
        raise unknown_name("rule", rule, DESIGNS)
    tasks = [Task.binary(f"t{i}") for i in range(check_integer("tasks", n_tasks))]
    return HeadCircuit.load(DESIGNS[rule], tasks)


def counted_head(name: str, rule: str = "matched") -> CountedHead:
    """Return the entry of `HEADS` with this name and rule."""
    found = {head.name: head for head in HEADS if head.rule == rule}
    if name not in found:
        raise unknown_name(f"head of the {rule} rule:", name, found)
    return found[name]


def count_head(head: CountedHead, n_tasks: int) -> HeadCount:
    """Build the head for this many binary tasks and count its trainable parameters.

    Example:
        >>> count_head(counted_head("quantum"), 4).parameters
        36
    """
    module = head.build(n_tasks)
    counted = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return HeadCount(
        head.rule,
        head.name,
        n_tasks,
        module.n_features,
        counted,
        head.closed_form(n_tasks),
        head.formula,
    )


def circuit_size(rule: str, n_tasks: int) -> CircuitSize:
    """Return wires, depth and two-qubit gates of a rule's circuit."""
    circuit = circuit_for(rule, n_tasks)
    # All registers are equal, but the ends of a small ring may share cones.
    some = [f"t{i}" for i in range(min(n_tasks, 3))]
    cone = max(len(circuit.light_cone(name).wires) for name in some)
    return CircuitSize(
        rule,
        n_tasks,
        n_tasks if circuit.layout == "shared" else 1,
        circuit.n_wires,
        circuit.depth,
        circuit.two_qubit_depth,
        circuit.two_qubit_gates,
        cone,
    )


@dataclass(frozen=True)
class Crossover:
    """The smallest T from which on the same one of two heads has fewer parameters.

    `smaller` names this head: ``quantum``, ``rival``, or ``neither`` for equal numbers.
    """

    tasks: int
    smaller: str


def crossover(rival: CountedHead, *, at_most: int = 1024) -> Crossover:
    """Compare a rival with the quantum head of the same rule, for 1 to `at_most` tasks.

    Example:
        >>> crossover(counted_head("linear"))
        Crossover(tasks=5, smaller='quantum')
        >>> crossover(counted_head("local-register"))
        Crossover(tasks=1, smaller='rival')
    """
    quantum = counted_head("quantum", rival.rule)

    def smaller(n: int) -> str:
        ours, theirs = quantum.closed_form(n), rival.closed_form(n)
        return "neither" if ours == theirs else "quantum" if ours < theirs else "rival"

    first, final = at_most, smaller(at_most)
    while first > 1 and smaller(first - 1) == final:
        first -= 1
    return Crossover(first, final)


def fitted_exponents(
    counts: Sequence[HeadCount], *, start: int = FIT_FROM
) -> dict[tuple[str, str], Fit]:
    """Fit exponents of parameters against tasks, from `start` tasks on, by rule and head.

    A head with fewer than two such counts is left out.

    Example:
        >>> counts = [count_head(counted_head("quantum"), n) for n in (16, 32, 64)]
        >>> round(fitted_exponents(counts)["matched", "quantum"].slope, 6)
        1.0
    """
    import pandas as pd

    table = pd.DataFrame([vars(count) for count in counts])
    return {
        key: power_law(own.tasks.tolist(), own.parameters.tolist())
        for key, own in table[table.tasks >= start].groupby(["rule", "head"], sort=False)
        if own.tasks.nunique() > 1
    }


def plot_parameters(counts: Sequence[HeadCount], rule: str, ax: "Axes | None" = None) -> "Axes":
    """Plot head parameters against tasks, log-log, with the crossovers of the quantum head."""
    check_rows("counts", counts, HeadCount)
    if rule not in (rules := {count.rule for count in counts}):
        raise unknown_name("rule:", rule, rules)
    ax = axes_or_new(ax)
    shown = [count for count in counts if count.rule == rule]
    largest = max(count.tasks for count in shown)
    for head, own in by_head(shown).items():
        ax.plot(
            [count.tasks for count in own],
            [count.parameters for count in own],
            # The quantum head's line hides those of rivals with as many parameters.
            label=f"{head}: {own[0].formula}",
            markersize=5,
            zorder=3 if head == "quantum" else 2,
            **head_look(head),
        )
        if head != "quantum":
            _mark_crossover(ax, head, rule, largest)
    tasks_axis(ax, [count.tasks for count in shown])
    count_axis(ax)
    ax.set(ylabel="trained head parameters", title=TITLES[rule])
    return ax


def _mark_crossover(ax: "Axes", head: str, rule: str, largest: int) -> None:
    found = crossover(counted_head(head, rule))
    if not 1 < found.tasks <= largest or found.smaller == "neither":
        return
    first, second = ("quantum", head) if found.smaller == "quantum" else (head, "quantum")
    ax.annotate(
        f"{first} smaller than {second}\nfrom T = {found.tasks}",
        (found.tasks, counted_head("quantum", rule).closed_form(found.tasks)),
        # Put the text in the corner above the rising lines.
        xytext=(0.04, 0.95),
        textcoords="axes fraction",
        va="top",
        fontsize=9,
        arrowprops={"arrowstyle": "->", "color": "0.3"},
    )


def by_head(found: Sequence[Any]) -> dict[str, list[Any]]:
    """Group results by their ``head``, in order."""
    heads = dict.fromkeys(one.head for one in found)
    return {head: [one for one in found if one.head == head] for head in heads}


def tasks_axis(ax: "Axes", tasks: Sequence[int]) -> None:
    """Label an x axis with numbers of tasks, and put the legend below it."""
    number_axis(ax, tasks)
    ax.set_xlabel("tasks T")
    legend_below(ax)


def tell_parameters(
    counts: Sequence[HeadCount], circuits: Sequence[CircuitSize], say: Callable[[str], None]
) -> None:
    """Say whether counted parameters agree with the closed forms, and how they grow."""
    wrong = [count for count in counts if count.parameters != count.closed_form]
    say(f"{len(counts)} heads built; closed form and count differ for {len(wrong)}")
    fits = fitted_exponents(counts)
    for head in HEADS:
        fit = fits.get((head.rule, head.name))
        text = f"{head.rule:8s} {head.name:15s} {head.formula:10s}"
        text += "" if fit is None else f" exponent {fit}"
        if head.name != "quantum":
            found = crossover(head)
            text += f"; fewer from T = {found.tasks}: {NAMES[found.smaller]}"
        say(text)
    for size in circuits:
        if size.tasks == max(circuit.tasks for circuit in circuits):
            each = f"{size.circuits} circuits, each of " if size.circuits > 1 else ""
            say(
                f"{size.rule} circuit at T = {size.tasks}: {each}{size.wires} wires, depth "
                f"{size.depth}, {size.two_qubit_gates} two-qubit gates in {size.two_qubit_depth} "
                f"layers, cones of {size.cone_wires} wires"
            )
