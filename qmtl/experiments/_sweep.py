"""Running cells side by side: joblib's processes on this machine, or a Ray cluster."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from qmtl.errors import InvalidInputError, MissingDependencyError, QmtlError
from qmtl.experiments._cells import CellResult, CellStore, Failure
from qmtl.experiments._grid import Cell
from qmtl.experiments._run_cell import run_cell

__all__ = ["Workers", "run_cells"]

Record = CellResult | Failure
Report = Callable[[Cell, Record], None]


class Workers:
    """Where cells run.

    Args:
        jobs: cells at once; None for one per core (of the cluster).
        cluster: None for processes on this machine; ``"local"`` for a Ray cluster that is started
            on this machine and stopped afterwards; or the address of one that runs
            (``"auto"``, ``"host:port"``, ``"ray://host:port"``), whose machines see the data and
            the output under the same paths.

    Raises:
        InvalidInputError: `jobs` is below one.

    Example:
        >>> Workers(jobs=1).threads == os.cpu_count()
        True
    """

    def __init__(self, jobs: int | None = None, cluster: str | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise InvalidInputError(f"jobs: expected at least 1, got {jobs}")
        self.cluster = cluster
        # The cores of a cluster are counted when it is there.
        self.jobs = jobs or (os.cpu_count() or 1 if cluster is None else None)

    @property
    def threads(self) -> int:
        """Threads per cell: cells times threads do not exceed the cores of this machine."""
        if self.cluster is not None or self.jobs is None:
            return 1
        return max(1, (os.cpu_count() or 1) // self.jobs)

    def map(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[Any]:
        """Results in the order in which they come (on a cluster: all of them at the end)."""
        from joblib import Parallel, delayed

        calls = (delayed(function)(*each) for each in arguments)
        if self.cluster is None:
            with _threads(self.threads):
                yield from Parallel(self.jobs, return_as="generator_unordered")(calls)
            return
        with _ray(self.cluster):
            yield from Parallel(self.jobs or -1, pre_dispatch="all")(calls)


def run_cells(
    cells: Sequence[Cell], store: CellStore, workers: Workers, report: Report | None = None
) -> dict[str, Record]:
    """Run the cells that the store has no result of; failed ones are tried again.

    Args:
        cells: what to run.
        store: keeps every result as soon as it is there, so that what has finished is never run
            again, however a sweep ends.
        workers: where to run.
        report: called with every cell and its result when it has been run.

    Returns:
        The cells' keys and their results, stored ones included.

    Raises:
        QmtlError: a worker process was killed.
    """
    by_key = {cell.key: cell for cell in cells}
    stored = {key: store.read(cell) for key, cell in by_key.items()}
    results = {key: found for key, found in stored.items() if isinstance(found, CellResult)}
    missing = [cell for key, cell in by_key.items() if key not in results]
    arguments = [(cell, store, workers.threads) for cell in missing]
    records: dict[str, Record] = dict(results)
    try:
        for record in workers.map(run_cell, arguments) if arguments else ():
            records[record.key] = record
            if report is not None:
                report(by_key[record.key], record)
    except Exception as error:
        if type(error).__name__ not in ("TerminatedWorkerError", "RayActorError"):
            raise
        raise QmtlError(
            "a worker process was killed, most likely for want of memory; finished cells are "
            f"kept in {store.folder}: run the same command again, with fewer --jobs"
        ) from None
    return records


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Limit the threads of the libraries in the worker processes, which are not started yet."""
    from joblib import parallel_config

    with parallel_config("loky", inner_max_num_threads=n):
        yield


@contextmanager
def _ray(address: str) -> Iterator[None]:
    """Ray as joblib's backend, connected to a cluster."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise MissingDependencyError(
            'a Ray cluster needs the package ray; install it with: pip install "qmtl[ray]"'
        ) from None
    from joblib import parallel_config

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(f"cluster {address!r} cannot be reached: {reason}") from None
    try:
        register_ray()
        # One core per cell: cells run with one thread.
        with parallel_config("ray", ray_remote_args={"num_cpus": 1}):
            yield
    finally:
        ray.shutdown()
        sys.stdout.flush()
