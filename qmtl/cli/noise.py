"""``qmtl noise``: what noise does to a trained run, or to heads of many shapes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmtl.cli._options import Split, expanded, parse_scales
from qmtl.cli._output import make_folder
from qmtl.errors import InvalidInputError

if TYPE_CHECKING:
    from qmtl.experiments import NoiseSection

__all__ = ["noise"]


def noise(
    run: Annotated[
        Path | None,
        typer.Argument(callback=expanded, help="A run directory, whose model is evaluated."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="A fake IBM backend, such as fake_fez.")
    ] = None,
    relaxation: Annotated[
        bool, typer.Option(help="Whether the backend's wires relax, in gates and while they wait.")
    ] = True,
    file: Annotated[
        Path | None,
        typer.Option("--noise", metavar="FILE", callback=expanded, help="Noise saved as JSON."),
    ] = None,
    one_qubit: Annotated[float, typer.Option(min=0, max=1, help="Error of one-wire gates.")] = 0.0,
    two_qubit: Annotated[float, typer.Option(min=0, max=1, help="Error of two-wire gates.")] = 0.0,
    readout: Annotated[float, typer.Option(min=0, max=1, help="Error of reading a bit.")] = 0.0,
    scale: Annotated[
        str, typer.Option(metavar="S1,S2,...", help="Factors by which the noise is scaled.")
    ] = "0,0.5,1,2,4",
    shots: Annotated[
        int | None, typer.Option(min=1, help="Measurements per sample; without it, exact values.")
    ] = None,
    extrapolate: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Zero-noise extrapolation from the scales >= 1: richardson (the polynomial "
            "through all), linear or exponential.",
        ),
    ] = None,
    split: Split = "test",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shots, or of the study.")] = 0,
    study: Annotated[
        bool,
        typer.Option(
            "--study",
            help="Without a run: robustness against number of tasks, depth and entangler.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(callback=expanded, help="Folder for CSV and plot. [RUN/noise, or noise]"),
    ] = None,
) -> None:
    """Evaluate a run under noise of several strengths; or study which heads are robust.

    Files of an earlier call in the folder are replaced.

    Examples of use:

    qmtl noise runs/seed1 --backend fake_fez --scale 0,0.5,1,2,4

    qmtl noise runs/seed1 --two-qubit 0.01 --readout 0.02 --shots 1024 --extrapolate linear

    qmtl noise --study --one-qubit 0.0003 --two-qubit 0.003 --readout 0.01
    """
    from qmtl.experiments import run_robustness, run_study

    if (run is None) != study:
        raise InvalidInputError("give a run directory, or --study, and not both")
    if study and (shots is not None or extrapolate is not None):
        raise InvalidInputError("--study takes neither --shots nor --extrapolate")
    scales = parse_scales("--scale", scale)
    source = _source(backend, relaxation, file, one_qubit, two_qubit, readout)
    folder = out if out is not None else (Path("noise") if run is None else run / "noise")
    if run is None:
        make_folder(folder)
        run_study(source.device_noise, folder, seed)
    else:
        run_robustness(
            run,
            source.device_noise,
            folder,
            scales,
            split=split,
            shots=shots,
            extrapolate=extrapolate,
            seed=seed,
            source=source.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        )
    print(f"wrote {folder}")


def _source(
    backend: str | None,
    relaxation: bool,
    file: Path | None,
    one_qubit: float,
    two_qubit: float,
    readout: float,
) -> "NoiseSection":
    from qmtl.experiments import NoiseSection

    numbers = {"one_qubit": one_qubit, "two_qubit": two_qubit, "readout": readout}
    if (backend is not None) + (file is not None) + any(numbers.values()) != 1:
        raise InvalidInputError(
            "give the noise once: --backend NAME, --noise FILE, or --one-qubit, --two-qubit and "
            "--readout"
        )
    saved = None if file is None else str(file)
    return NoiseSection(backend=backend, relaxation=relaxation, file=saved, **numbers)
