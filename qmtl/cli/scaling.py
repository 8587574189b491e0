"""``qmtl scaling``: parameters, cost and accuracy against the number of tasks."""

from pathlib import Path
from typing import Annotated

import typer

from qmtl.cli._options import expanded, parse_numbers
from qmtl.cli._output import make_folder

__all__ = ["scaling"]


def scaling(
    tasks: Annotated[
        str, typer.Option(metavar="T1,T2,...", help="Numbers of binary tasks.")
    ] = "2,4,8,16,32,64,128,256,512,1024",
    parts: Annotated[
        str, typer.Option(metavar="A,B,...", help="Parts to run.")
    ] = "parameters,cost,accuracy",
    data: Annotated[
        Path | None,
        typer.Option(
            callback=expanded,
            help="Folder of chest X-rays in CheXpert's layout, for accuracy on its findings. "
            "[digits, by halves of the ten classes]",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the accuracy part.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of the timed step.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the timed step.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Training runs at once.")] = 2,
    out: Annotated[
        Path, typer.Option(callback=expanded, help="Folder for CSV files and plots.")
    ] = Path("scaling"),
) -> None:
    """Count the parameters of heads, time a step of each, and train on growing lists of tasks.

    Parameters take seconds, cost and accuracy some minutes each. Tables and plots of an earlier
    run in the folder are replaced; finished training runs are stored and not done again.

    Examples of use:

    qmtl scaling

    qmtl scaling --parts parameters --tasks 2,16,128,1024 --out counts

    qmtl scaling --parts accuracy --data chestxray/nih1000 --seeds 5
    """
    from qmtl.experiments import AccuracySettings, ScalingSettings, run_scaling

    settings = ScalingSettings(
        tasks=parse_numbers("--tasks", tasks),
        parts=tuple(part.strip() for part in parts.split(",")),
        data=None if data is None else str(data),
        accuracy=AccuracySettings(seeds=seeds),
        batch_size=batch_size,
        threads=threads,
        jobs=jobs,
    )
    make_folder(out)
    run_scaling(settings, out)
    print(f"wrote {out}")
