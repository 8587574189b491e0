"""Run the cells of a table: check first, then rounds in which the peers take turns."""

import os
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from peers.limits import one_thread, run_limited

# Largest absolute error of outputs and gradients.
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}
FINAL = ("over time", "out of memory")


@dataclass(frozen=True)
class Settings:
    """How cells are run."""

    rounds: int = 3
    seconds: float = 2.0
    time_limit: float = 300.0
    memory_limit: float = 8.0
    cpu: int | None = None
    pythons: dict[str, str] = field(default_factory=dict)


@dataclass
class Cell:
    """What is known of one peer at one number of tasks."""

    peer: object
    n_tasks: int
    status: str = "ok"
    errors: dict = field(default_factory=dict)
    error_dtype: str = ""
    versions: dict = field(default_factory=dict)
    first_ms: list = field(default_factory=list)
    round_ms: list = field(default_factory=list)
    n_steps: int = 0
    peak_mb: list = field(default_factory=list)

    @property
    def step_ms(self):
        """Median over the rounds of the rounds' medians; None where no step was timed."""
        known = [ms for ms in self.round_ms if ms is not None]
        return statistics.median(known) if known else None

    def ratio_to(self, other):
        """Median over the rounds of this cell's time over another's in the same round."""
        pairs = zip(self.round_ms, other.round_ms, strict=False)
        ratios = [own / ours for own, ours in pairs if own is not None and ours is not None]
        return statistics.median(ratios) if ratios else None

    def _check(self, errors, dtype):
        if not errors:
            return
        # The double-precision check is the sharper one; single precision's is kept without it.
        if not self.errors or dtype == "float64":
            self.errors, self.error_dtype = errors, dtype
        # A NaN is a disagreement, too.
        if not max(errors.values()) <= TOLERANCES[dtype]:
            self.status = "truncated" if self.peer.truncated else "disagrees"
            self.errors, self.error_dtype = errors, dtype

    def add_check(self, ran, dtype):
        """Take the outcome of a check without timing."""
        self.versions |= ran.events.get("ready", {}).get("versions", {})
        self._check(ran.events.get("check"), dtype)
        if ran.status.startswith("failed"):
            self.status = ran.status

    def add_round(self, ran):
        """Take the outcome of a timed round."""
        events = ran.events
        self.versions |= events.get("ready", {}).get("versions", {})
        if "first" in events:
            self.first_ms.append(events["first"]["ms"])
        self._check(events.get("check"), self.peer.timed)
        times = events.get("steps", {}).get("ms", [])
        self.round_ms.append(statistics.median(times) if times else None)
        self.n_steps += len(times)
        if "end" in events:
            self.peak_mb.append(events["end"]["peak_mb"])
        # Slow steps that were measured before the limit count.
        if ran.status != "ok" and not times:
            self.status = ran.status


def _run(peer, problem, dtype, settings, seconds):
    command = [settings.pythons.get(peer.name, sys.executable), "-m", "peers.cell", peer.name]
    command += [str(problem), dtype, "--seconds", str(seconds)]
    if settings.cpu is not None:
        command += ["--cpu", str(settings.cpu)]
    environment = one_thread(dict(os.environ))
    with tempfile.TemporaryDirectory() as empty:
        if peer.fresh_cache:
            environment["NUMBA_CACHE_DIR"] = empty
        return run_limited(
            command,
            seconds=settings.time_limit,
            gigabytes=settings.memory_limit,
            environment=environment,
        )


def run_cells(peers, n_tasks, problem: Path, settings, *, report=lambda line: None):
    """Check and time `peers` on one problem; a cell that cannot finish is not tried again."""
    cells = [Cell(peer, n_tasks) for peer in peers]
    for cell in cells:
        if cell.peer.checked != cell.peer.timed:
            report(f"T={n_tasks} check {cell.peer.name}")
            ran = _run(cell.peer, problem, cell.peer.checked, settings, 0.0)
            cell.add_check(ran, cell.peer.checked)
    for turn in range(settings.rounds):
        for cell in cells:
            if cell.status in FINAL or cell.status.startswith("failed"):
                continue
            report(f"T={n_tasks} round {turn + 1} {cell.peer.name}")
            cell.add_round(_run(cell.peer, problem, cell.peer.timed, settings, settings.seconds))
    return cells
