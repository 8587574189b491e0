"""``qmtl trainability``: the variance of gradients against wires, layers and tasks."""

from pathlib import Path
from typing import Annotated

import typer

from qmtl.cli._options import expanded, parse_numbers
from qmtl.cli._output import make_folder

__all__ = ["trainability"]


def trainability(
    wires: Annotated[
        str, typer.Option(metavar="N1,N2,...", help="Wires of one register.")
    ] = "2,4,6,8,10",
    layers: Annotated[
        str, typer.Option(metavar="L1,L2,...", help="Layers of block and encoding.")
    ] = "1,2,4,8,16,32",
    tasks: Annotated[
        str, typer.Option(metavar="T1,T2,...", help="Tasks of two wires each.")
    ] = "1,2,4,8,16,32,64,128,256,512,1024",
    samples: Annotated[int, typer.Option(min=2, help="Random draws per circuit.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    out: Annotated[Path, typer.Option(callback=expanded, help="Folder for CSV and plots.")] = Path(
        "trainability"
    ),
) -> None:
    """Sample gradients at random weights, for local and global readouts, and fit their decay.

    Files of an earlier run in the folder are replaced.

    Example: qmtl trainability --wires 2,4,6,8 --layers 2,8 --samples 500 --out plateaus
    """
    from qmtl.experiments import TrainabilitySettings, run_trainability

    settings = TrainabilitySettings(
        wires=parse_numbers("--wires", wires, least=2),
        layers=parse_numbers("--layers", layers),
        tasks=parse_numbers("--tasks", tasks),
        samples=samples,
        seed=seed,
    )
    make_folder(out)
    run_trainability(settings, out)
    print(f"wrote {out}")
