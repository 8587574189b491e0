"""``qmtl doctor``: versions, devices, extras, missing packages, and the time of a step."""

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import typer

from qmtl._html import counted
from qmtl._io import __version__

# Numbers of tasks and rows of the steps that are timed.
SIZES = ((5, 32), (128, 256))


@dataclass(frozen=True)
class Needed:
    """A requirement and its installed version."""

    name: str
    wanted: str
    installed: str | None
    extra: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.wanted}"

    @property
    def state(self) -> str:
        """``ok``, ``missing``, or ``unfit`` (an unsuitable version is installed)."""
        from packaging.specifiers import SpecifierSet

        if self.installed is None:
            return "missing"
        fits = SpecifierSet(self.wanted).contains(self.installed, prereleases=True)
        return "ok" if fits else "unfit"


def declared() -> list[str]:
    """Return the requirements of the installed package, from its metadata."""
    return metadata.requires("qmtl") or []


def needed(requirements: Iterable[str]) -> list[Needed]:
    """Return requirements with installed versions: first those without an extra, then by extra."""
    from packaging.requirements import Requirement

    found = []
    for text in requirements:
        requirement = Requirement(text)
        if requirement.name == "qmtl":  # an extra that only combines others
            continue
        extras = re.findall(r'extra == "([^"]+)"', str(requirement.marker or ""))
        for extra in ("", *extras):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted = str(requirement.specifier)
                try:
                    installed = metadata.version(requirement.name)
                except metadata.PackageNotFoundError:
                    installed = None
                found.append(Needed(requirement.name, wanted, installed, extra))
                break
    return sorted(found, key=lambda one: (one.extra, one.name.lower()))


def doctor() -> None:
    """Print versions, devices, extras and missing packages, and time a training step.

    The exit status is 1 if a required package is missing or the simulator does not work. Extras
    are optional.

    Example: qmtl doctor
    """
    from rich.console import Console

    # Keep long paths and lists on one line, so that users can paste them into issues.
    console = Console(markup=False, highlight=False, soft_wrap=True)
    found = needed(declared())
    core = [one for one in found if not one.extra]
    console.print(_system())
    console.print(_packages(core))
    console.print(_extras([one for one in found if one.extra]))
    console.print(_devices())
    engine, works = _engine()
    console.print(engine)
    if works:
        console.print(_threads())
    wrong = [one for one in core if one.state != "ok"]
    for one in wrong:
        had = f"; {one.installed} is installed" if one.installed else ""
        command = "pip install -c scripts/constraints.txt -e ."
        console.print(f"{one} is {one.state}{had}; in the clone of qmtl: {command}")
    if wrong or not works:
        raise typer.Exit(1)
    console.print("all is well")


def _system() -> str:
    return (
        f"qmtl {__version__} in {Path(__file__).parents[1]}\n"
        f"Python {platform.python_version()} in {sys.prefix}\n"
        f"{platform.platform()}, {platform.machine()}\n"
    )


def _packages(core: list[Needed]) -> str:
    width = max((len(one.name) for one in core), default=0)
    lines = ["packages"]
    for one in core:
        mark = "" if one.state == "ok" else f"  {one.state}"
        lines.append(f"  {one.name:{width}}  {one.installed or '–':14} {one.wanted}{mark}")
    return "\n".join(lines) + "\n"


def _extras(optional: list[Needed]) -> str:
    lines = ["extras (the commands are for the clone of qmtl)"]
    names = sorted({one.extra for one in optional})
    width = max(map(len, names), default=0)
    for name in names:
        parts = [one for one in optional if one.extra == name]
        absent = [str(one) for one in parts if one.state != "ok"]
        if absent:
            fix = f'pip install -c scripts/constraints.txt -e ".[{name}]"'
            lines.append(f"  {name:{width}}  missing {', '.join(absent)}: {fix}")
        else:
            versions = ", ".join(f"{one.name} {one.installed}" for one in parts)
            lines.append(f"  {name:{width}}  {versions}")
    return "\n".join(lines) + "\n"


def _devices() -> str:
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"devices\n  torch cannot be imported: {' '.join(str(error).split())}\n"
    threads = counted(torch.get_num_threads(), "thread")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    simulators = sorted(entry.name for entry in metadata.entry_points(group="pennylane.plugins"))
    return (
        "devices\n"
        f"  CPU        {os.cpu_count()} cores, torch uses {threads}\n"
        f"  CUDA       {', '.join(gpus) or 'none'}\n"
        f"  MPS        {'yes' if torch.backends.mps.is_available() else 'no'}\n"
        f"  PennyLane  {', '.join(simulators)}\n"
    )


def _engine() -> tuple[str, bool]:
    """Run a training step of a small head; return the report, and whether the step works."""
    started = time.perf_counter()
    try:
        import torch

        from qmtl.circuit import HeadCircuit
        from qmtl.heads import QuantumHead
        from qmtl.tasks import Task

        head = QuantumHead(HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]), seed=0)
        sum(values.sum() for values in head(torch.zeros(2, 4)).values()).backward()
        works = head.encoding.grad is not None and bool(head.encoding.grad.isfinite().all())
    except Exception as error:
        # The command's purpose is to report errors.
        return f"light cones: {type(error).__name__}: {' '.join(str(error).split())}", False
    took = time.perf_counter() - started
    return f"light cones: a first training step in {took:.2f} s, kernels included", works


def _threads() -> str:
    """Return the times of a training step with one thread and with torch's number of threads."""
    import torch
    from torch.utils.benchmark import Timer

    before = torch.get_num_threads()
    counts = sorted({1, before if before > 1 else os.cpu_count() or 1})
    lines = ["a training step of an MLP and a quantum head, the median"]
    for n_tasks, batch_size in SIZES:
        step = _step(n_tasks, batch_size)
        times = []
        for count in counts:
            timer = Timer("step()", globals={"step": step}, num_threads=count)
            median = timer.blocked_autorange(min_run_time=0.3).median
            times.append(f"{1000 * median:.1f} ms with {counted(count, 'thread')}")
        sizes = f"{counted(n_tasks, 'task')}, {batch_size} rows"
        lines.append(f"  {sizes:19}  {', '.join(times)}")
    return "\n".join(lines) + "\n"


def _step(n_tasks: int, batch_size: int) -> Callable[[], None]:
    """Return a function that runs one training step of binary tasks, as `fit` does."""
    import torch

    from qmtl.circuit import HeadCircuit
    from qmtl.encoders import MLP
    from qmtl.heads import QuantumHead
    from qmtl.model import MultiTaskModel
    from qmtl.tasks import Task

    circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(n_tasks)])
    encoder = MLP(64, 64, out_features=circuit.n_features, seed=0)
    model = MultiTaskModel(encoder, QuantumHead(circuit, seed=0))
    optimizer = torch.optim.Adam(model.parameters())
    inputs = torch.zeros(batch_size, 64)
    targets = torch.zeros(batch_size, n_tasks)

    def step() -> None:
        optimizer.zero_grad()
        logits = model(inputs, joined=True)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).backward()
        optimizer.step()

    return step
