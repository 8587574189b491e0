"""The cost of a plan before it runs: engines, cones, bytes, operations, and a rough time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from markupsafe import Markup

from qmtl._html import bytes_text, counted, duration_text, facts, listed, panel, table
from qmtl.simulators._engine import Engine
from qmtl.simulators._plan import Group

# A core of 2020 or later does at least this many operations per second, and many cores do two to
# four times as many: see scripts/bench_step. The estimate only has to tell seconds from hours.
OPERATIONS_PER_SECOND = 5e9
# Batch size, bytes of a number, and bytes that a step may take.
Size = tuple[int, int, int]
# Most rows of a table on a page.
MOST_GROUPS = 24


@dataclass(frozen=True)
class GroupCost:
    """The cost of a training step of one group of equal cones.

    Attributes:
        tasks: the tasks' names.
        n_cones: number of encoded states per sample: more than tasks if outputs run separately,
            fewer than tasks if they share states, 0 for a chain.
        cone_wires: number of wires of each cone.
        block_wires: number of wires that the task's block acts on, or all tasks' blocks if they
            share a state.
        amplitudes: number of complex amplitudes of all states of the batch.
        engine: name of the engine that runs the group.
        chunk: number of samples that run at a time to stay within the memory; 0 if not even one
            fits.
        bytes: estimated peak memory of forward and backward pass (for one sample if none fits).
        operations: estimated floating-point operations of forward and backward.
        sizes: size of the cone after each gate that widens it, backwards from the readout.
        ideal_wires: (under noise) number of wires of the tasks' widest cone without noise.
        numbers: (under noise) length of a sample's longest vector, instead of the amplitudes.
    """

    tasks: tuple[str, ...]
    n_cones: int
    cone_wires: int
    block_wires: int
    amplitudes: int
    engine: str
    chunk: int
    bytes: int
    operations: int
    sizes: tuple[int, ...]
    ideal_wires: int | None = None
    numbers: int | None = None

    def lines(self, batch_size: int) -> list[str]:
        """Return the group described in lines of text."""
        names = ", ".join(self.tasks[:3]) + (", …" if len(self.tasks) > 3 else "")
        who = f"  {counted(len(self.tasks), 'task')} ({names}): "
        if self.ideal_wires is not None:
            what = (
                f"cone {self.cone_wires} wires under noise, {self.ideal_wires} without, block "
                f"{self.block_wires}, vectors of up to {self.numbers} numbers per sample"
            )
        elif self.n_cones:
            what = (
                f"cone {self.cone_wires} wires, block {self.block_wires}, "
                f"{counted(self.n_cones, 'state')} of 2^{self.cone_wires} amplitudes per sample"
            )
        else:
            what = f"one chain of {self.cone_wires} wires, block {self.block_wires}"
        lines = [who + what]
        if self.sizes:
            grows = " → ".join(map(str, self.sizes[:12])) + (" → …" if self.sizes[12:] else "")
            lines.append(f"    the cone grows, from the readout back: {grows} wires")
        chunks = "" if self.chunk in (0, batch_size) else f", {self.chunk} samples at a time"
        return [*lines, f"    run as {self.engine}{chunks}"]

    @classmethod
    def of(cls, group: Group, engine: Engine, size: Size) -> "GroupCost":
        """Return the cost of a group of cones that an engine runs."""
        tasks, wires = tuple(dict.fromkeys(group.tasks)), group.structure
        cost = cls.of_chain(tasks, engine, (wires.n_wires, wires.n_inner), size)
        amplitudes = group.amplitudes * size[0]
        return replace(cost, n_cones=group.n_cones, amplitudes=amplitudes, sizes=group.sizes)

    @classmethod
    def of_chain(
        cls, tasks: tuple[str, ...], engine: Engine, wires: tuple[int, int], size: Size
    ) -> "GroupCost":
        """Return a chain's cost; `wires` counts those of the chain and of the widest block."""
        batch_size, itemsize, _ = size
        chunk = largest_chunk([engine], *size)
        needed = engine.step_bytes(chunk or 1, itemsize), engine.step_operations(batch_size)
        return cls(tasks, 0, *wires, 0, engine.name, chunk, *needed, ())


def largest_chunk(engines: Sequence[Engine], samples: int, itemsize: int, limit: int) -> int:
    """Return the number of samples that fit into `limit` bytes; 0 if not even one fits."""
    while samples and sum(e.step_bytes(samples, itemsize) for e in engines) > limit:
        samples //= 2
    return samples


@dataclass(frozen=True)
class Explanation:
    """The plan and cost of a simulation, as attributes and (by ``print``) as text.

    Attributes:
        n_tasks: number of tasks.
        n_wires: number of wires of the whole circuit.
        batch_size: number of rows per step.
        dtype: precision of the angles and of the simulation.
        limit: bytes that a step may take at once.
        groups: cost of each group of equal light cones.
    """

    n_tasks: int
    n_wires: int
    batch_size: int
    dtype: torch.dtype
    limit: int
    groups: tuple[GroupCost, ...]

    @property
    def amplitudes(self) -> int:
        """Number of complex amplitudes of all groups."""
        return sum(group.amplitudes for group in self.groups)

    @property
    def bytes(self) -> int:
        """Estimated peak memory of a training step."""
        total = sum(group.bytes for group in self.groups)
        # Chunks run one after another, and each frees its memory.
        return total if total <= self.limit else max(group.bytes for group in self.groups)

    @property
    def operations(self) -> int:
        """Estimated floating-point operations of a training step."""
        return sum(group.operations for group in self.groups)

    @property
    def fits(self) -> bool:
        """Whether the estimate is within the memory limit."""
        return all(group.chunk for group in self.groups) or not self.batch_size

    @property
    def seconds(self) -> float:
        """Rough time of a training step on one core, in seconds."""
        return self.operations / OPERATIONS_PER_SECOND

    def _repr_html_(self) -> str:
        title = f"Plan: {self.n_tasks:,} tasks on {self.n_wires:,} wires, batch {self.batch_size:,}"
        return panel(title, *self.html_parts())

    def html_parts(self) -> tuple[Markup, Markup]:
        """Return the step's cost, and a table with a row per group of equal cones."""
        rows: list[dict[str, object]] = [
            {
                "tasks": listed(group.tasks, 4),
                "cone (wires)": group.cone_wires,
                "block (wires)": group.block_wires,
                "states per sample": group.n_cones,
                "run as": group.engine,
                "samples at a time": group.chunk,
                "memory": bytes_text(group.bytes),
                "GFLOP per step": group.operations / 1e9,
            }
            for group in self.groups[:MOST_GROUPS]
        ]
        about = {"batch": self.batch_size, "precision": self._precision, "cost": self._cost}
        return facts(about), table(rows, len(self.groups))

    @property
    def _precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def _cost(self) -> str:
        """The cost of a step in words."""
        return (
            f"a training step takes about {bytes_text(self.bytes)} and "
            f"{self.operations / 1e9:.3g} GFLOP, some {duration_text(self.seconds)} on one core "
            f"(limit {bytes_text(self.limit)}{'' if self.fits else ': does not fit'})"
        )

    def __str__(self) -> str:
        first = (
            f"{self.n_tasks} tasks on {self.n_wires} wires, batch {self.batch_size}, "
            f"{self._precision}: {counted(len(self.groups), 'group')} of equal cones"
        )
        groups = [line for group in self.groups for line in group.lines(self.batch_size)]
        return "\n".join([first, *groups, f"  {self._cost}"])
