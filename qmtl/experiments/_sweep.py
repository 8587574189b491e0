"""Sweeps: cells that run in parallel, with stored results, so that no cell runs twice."""

import hashlib
import json
import math
import os
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from qmtl._io import __version__, write_json
from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError, QmtlError, as_path, check_integer, missing_extra

FORMAT = 2


class Cell(ABC):
    """A training run or measurement, as a frozen dataclass; `run` returns a dataclass `finds`."""

    finds: ClassVar[type[Any]]

    @abstractmethod
    def run(self) -> Any:
        """Do the cell's work and return its result."""

    @property
    @abstractmethod
    def label(self) -> str:
        """A short text for messages and file names."""

    def depends_on(self) -> Any:
        """Return all that the result depends on, as JSON data; by default, the fields."""
        return asdict(cast(Any, self))

    @property
    def key(self) -> str:
        """SHA-256 of the kind of cell, of `depends_on`, and of qmtl's version."""
        whole = [__version__, type(self).__name__, self.depends_on()]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """A unique file name: the label and the beginning of the key."""
        words = "".join(c if c.isalnum() or c in ".-" else " " for c in self.label).split()
        return f"{'-'.join(words)[:60]}-{self.key[:16]}"


@dataclass(frozen=True)
class Failure:
    """The record of a cell that ended in an error; the next run tries it again."""

    label: str
    error: str
    traceback: str


class CellStore:
    """A folder with one JSON file per cell; several processes may write to it at once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = as_path(folder, "folder")

    def path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name}.json"

    def read(self, cell: Cell) -> Any:
        """Return the stored result of a cell; None if there is no file, or it cannot be read."""
        try:
            content = json.loads(self.path(cell).read_text(encoding="utf-8"))
            if (content["format"], content["key"]) != (FORMAT, cell.key):
                return None
            kind = {"finished": cell.finds, "failed": Failure}[content["status"]]
            return TypeAdapter(kind).validate_python(_nan(content["found"]))
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None

    def write(self, cell: Cell, found: Any) -> None:
        """Store a cell's result; a failure never replaces a result."""
        failed = isinstance(found, Failure)
        if failed and isinstance(self.read(cell), cell.finds):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"format": FORMAT, "key": cell.key, "cell": cell.label}
        status = {"status": "failed" if failed else "finished", "found": asdict(found)}
        write_json(self.path(cell), about | status)


def _nan(content: Any) -> Any:
    """Convert null to NaN, which JSON lacks."""
    if isinstance(content, dict):
        return {key: _nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_nan(value) for value in content]
    return math.nan if content is None else content


class Workers:
    """Runs cells in joblib's processes on this machine, or on a Ray cluster.

    Args:
        jobs: number of cells at once; None for one per core (of the cluster).
        cluster: None for processes on this machine; ``"local"`` for a Ray cluster that starts on
            this machine and stops afterwards; or the address of a running cluster (``"auto"``,
            ``"host:port"``, ``"ray://host:port"``), whose machines must have the data and the
            output under the same paths.

    Raises:
        InvalidInputError: if `jobs` is below one.

    Example:
        >>> Workers(jobs=1).threads == os.cpu_count()
        True
    """

    def __init__(self, jobs: int | None = None, cluster: str | None = None) -> None:
        if jobs is not None:
            jobs = check_integer("jobs", jobs)
        self.cluster = cluster
        # The number of a cluster's cores is only known after connecting.
        self.jobs = jobs or (os.cpu_count() or 1 if cluster is None else None)

    @property
    def threads(self) -> int:
        """Threads per cell, so that cells times threads do not exceed this machine's cores."""
        if self.cluster is not None or self.jobs is None:
            return 1
        return max(1, (os.cpu_count() or 1) // self.jobs)

    def map(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[Any]:
        """Yield results as they become available (from a cluster: all at the end)."""
        from joblib import Parallel, delayed, parallel_config

        calls = (delayed(function)(*each) for each in arguments)
        if self.cluster is None:
            with parallel_config("loky", inner_max_num_threads=self.threads):
                yield from Parallel(self.jobs, return_as="generator_unordered")(calls)
            return
        with _ray(self.cluster):
            yield from Parallel(self.jobs or -1, pre_dispatch="all")(calls)


Report = Callable[[Cell, Any, int, int], None]


def run_cells(
    cells: Sequence[Cell],
    store: CellStore | None,
    workers: Workers | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Run the cells without a stored result; return all results, by the cells' keys.

    Failed cells run again. Each result goes to the store as soon as its cell ends, so that an
    interrupted sweep loses none. Without workers, cells run one after another in this process.
    `report` gets each finished cell, its result, and the numbers of finished and of all cells.

    Raises:
        QmtlError: if a worker process was killed.
    """
    workers = workers or Workers(jobs=1)
    by_key = {cell.key: cell for cell in cells}
    stored = {} if store is None else {key: store.read(cell) for key, cell in by_key.items()}
    found = {k: one for k, one in stored.items() if not isinstance(one, Failure | None)}
    missing = [cell for key, cell in by_key.items() if key not in found]
    arguments = [(cell, store, workers.threads, os.getpid()) for cell in missing]
    try:
        for key, result in workers.map(_run, arguments) if arguments else ():
            found[key] = result
            if report is not None:
                report(by_key[key], result, len(found), len(by_key))
    except Exception as error:
        if type(error).__name__ not in ("TerminatedWorkerError", "RayActorError"):
            raise
        where = "" if store is None else f"; finished cells are kept in {store.folder}"
        raise QmtlError(
            f"a worker process was killed, most likely because memory ran out{where}: run the same "
            f"command again, with fewer --jobs"
        ) from None
    return found


def results_of(cells: Sequence[Cell], found: Mapping[str, Any]) -> list[Any]:
    """Return the results of the cells, in order; raise `QmtlError` if some of them failed."""
    results = [found[cell.key] for cell in cells]
    failures = [one for one in results if isinstance(one, Failure)]
    if failures:
        first = f"{failures[0].label}: {failures[0].error}"
        raise QmtlError(f"{len(failures)} of {len(cells)} cells failed; {first}")
    return results


def _run(cell: Cell, store: CellStore | None, threads: int, parent: int) -> tuple[str, Any]:
    """Run a cell and store its result; an error becomes a `Failure`, so that others continue."""
    if os.getpid() != parent:
        _end_with(parent)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = cell.run()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        found = Failure(cell.label, reason, traceback.format_exc())
    finally:
        torch.set_num_threads(before)
    if store is not None:
        store.write(cell, found)
    return cell.key, found


@cache
def _end_with(parent: int) -> None:
    """End this worker as soon as its parent has ended, even if the parent was killed."""
    if os.getppid() != parent:  # a worker of a cluster
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _ray(address: str) -> Iterator[None]:
    """Connect to a Ray cluster, and make it the backend of joblib."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise missing_extra("a Ray cluster needs the package ray", "ray") from None
    from joblib import parallel_config

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(f"cluster {address!r} cannot be reached: {reason}") from None
    try:
        register_ray()
        # One core per cell, since each cell runs with one thread.
        with parallel_config("ray", ray_remote_args={"num_cpus": 1}):
            yield
    finally:
        ray.shutdown()
        sys.stdout.flush()


def fingerprint(data: MultiTaskData, *, inputs: bool = True) -> str:
    """Hash the tasks, and the labels, weights, row numbers and inputs of all splits (SHA-256).

    Without inputs, the hash does not depend on how a machine rounds them.
    """
    digest = hashlib.sha256(json.dumps([task.to_dict() for task in data.tasks]).encode())
    for name, split in data.splits.items():
        tensors = {"index": split.index, **split.targets}
        tensors |= {"inputs": split.inputs} if inputs else {}
        weights = [] if split.sample_weight is None else [("sample_weight", split.sample_weight)]
        for key, tensor in [*sorted(tensors.items()), *weights]:
            array = np.ascontiguousarray(tensor.numpy())
            digest.update(f"{name} {key} {array.dtype} {array.shape}".encode())
            digest.update(array.data)
    return digest.hexdigest()
