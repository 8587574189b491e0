"""Experiments of many runs: bench, scaling, trainability, noise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from qmtl._io import console
from qmtl.cli._options import (
    Overrides,
    complete_heads,
    complete_recipe,
    parse_numbers,
    path_argument,
    path_option,
)
from qmtl.cli._output import make_folder
from qmtl.errors import InvalidInputError

if TYPE_CHECKING:
    from qmtl.experiments import Recipe


SCALES = "0,0.5,1,2,4"


def bench(
    recipes: Annotated[
        list[str],
        path_argument(
            "Built-in recipes, or .toml files.", metavar="RECIPE...", autocompletion=complete_recipe
        ),
    ],
    heads: Annotated[
        str | None,
        Option(
            metavar="A,B,...", help="Types of heads. [the recipe's]", autocompletion=complete_heads
        ),
    ] = None,
    seeds: Annotated[int | None, Option(min=1, help="Number of seeds. [the recipe's]")] = None,
    seed: Annotated[int | None, Option(min=0, help="The first seed. [0]")] = None,
    set_: Overrides = None,
    grid: Annotated[
        list[str] | None,
        Option(
            metavar="KEY=V1,V2,...",
            help="Values that every head tries, instead of the recipe's grid; repeatable.",
        ),
    ] = None,
    out: Annotated[Path, path_option("Output folder, with a subfolder for each recipe.")] = Path(
        "bench"
    ),
    jobs: Annotated[int | None, Option(min=1, help="Cells at once. [one per core]")] = None,
    cluster: Annotated[
        str | None, Option(metavar="ADDRESS", help="Ray cluster: local, auto, HOST:PORT or ray://…")
    ] = None,
) -> None:
    """Compare heads on every seed, each with its best values of the grid.

    A cell is one training run. Finished cells are stored; repeat the command to run missing cells.

    Examples of use:

    qmtl bench digits

    qmtl bench digits --heads quantum,linear --seeds 3 --set training.max_epochs=10

    qmtl bench my.toml --grid training.learning_rate=0.003,0.01 --jobs 2 --out bench
    """
    from qmtl.experiments import Workers, parse_grid, read_recipe

    overrides = [*(set_ or [])]
    types = None if heads is None else [name.strip() for name in heads.split(",")]
    for key, value in {"heads": types, "seeds": seeds, "first_seed": seed}.items():
        if value is not None:
            overrides.append(f"bench.{key}={value!r}")
    values = {} if grid is None else {"bench.grid": parse_grid(grid)}
    chosen = [read_recipe(recipe, overrides).with_values(values) for recipe in recipes]
    names = [recipe.name for recipe in chosen]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInputError(
                f"two recipes have the name {name!r}, and would share a folder; give one of them "
                f"another name, in its file"
            )
    make_folder(out)
    workers = Workers(jobs, cluster)
    failed = sum(_run(recipe, out / recipe.name, workers) for recipe in chosen)
    if failed:
        raise InvalidInputError(
            f"{failed} cells failed, see the tables; the same command tries them again"
        )


def _run(recipe: "Recipe", folder: Path, workers: Any) -> int:
    """Run one recipe, write and show its tables; return the number of failed cells."""
    from rich.console import Console

    from qmtl.experiments import bench as run_bench
    from qmtl.experiments import show_bench, write_bench

    progress = Console(stderr=True, markup=False, highlight=False)

    def report(cell: Any, found: Any, done: int, all_: int) -> None:
        took = getattr(found, "error", None) or f"{found.seconds:.1f} s"
        progress.print(f"{recipe.name} {done}/{all_}: {cell.label}: {took}", soft_wrap=True)

    summary = run_bench(recipe, folder, workers, report)
    write_bench(summary, recipe, folder)
    show_bench(summary, console())
    print(f"wrote {folder}; all tables are in {folder / 'table.md'}")
    return len(summary.failures)


def scaling(
    tasks: Annotated[
        str, Option(metavar="T1,T2,...", help="Numbers of binary tasks; accuracy: at most 32.")
    ] = "2,4,8,16,32,64,128,256,512,1024",
    parts: Annotated[
        str, Option(metavar="A,B,...", help="Parts to run.")
    ] = "parameters,cost,accuracy",
    data: Annotated[
        Path | None,
        path_option(
            "Folder of chest X-rays in CheXpert's layout, for accuracy on its findings. "
            "[digits, by halves of the ten classes]"
        ),
    ] = None,
    seeds: Annotated[int, Option(min=1, help="Number of seeds of the accuracy part.")] = 3,
    batch_size: Annotated[int, Option(min=1, help="Number of rows of the timed step.")] = 32,
    threads: Annotated[int, Option(min=1, help="Number of threads of the timed step.")] = 1,
    jobs: Annotated[int, Option(min=1, help="Number of training runs at once.")] = 2,
    out: Annotated[Path, path_option("Folder for CSV files and plots.")] = Path("scaling"),
) -> None:
    """Count the parameters of heads, time their training steps, and train on growing sets of tasks.

    The part parameters takes seconds; cost and accuracy take some minutes each. Tables and plots in
    the folder are replaced; finished training runs are stored and not repeated.

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


def trainability(
    wires: Annotated[
        str, Option(metavar="N1,N2,...", help="Numbers of wires of one register.")
    ] = "2,4,6,8,10",
    layers: Annotated[
        str, Option(metavar="L1,L2,...", help="Numbers of layers of block and encoding.")
    ] = "1,2,4,8,16,32",
    tasks: Annotated[
        str, Option(metavar="T1,T2,...", help="Numbers of tasks of two wires each.")
    ] = "1,2,4,8,16,32,64,128,256,512,1024",
    samples: Annotated[int, Option(min=2, help="Number of random draws per circuit.")] = 200,
    seed: Annotated[int, Option(min=0, help="Seed of the draws.")] = 0,
    out: Annotated[Path, path_option("Folder for CSV and plots.")] = Path("trainability"),
) -> None:
    """Sample gradients at random weights, for local and global readouts, and fit their decay.

    Earlier files in the folder are replaced.

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


def noise(
    run: Annotated[Path | None, path_argument("Run directory of the model to evaluate.")] = None,
    backend: Annotated[str | None, Option(help="A fake IBM backend, such as fake_fez.")] = None,
    relaxation: Annotated[bool, Option(help="Whether wires relax, also while idle.")] = True,
    file: Annotated[
        Path | None, path_option("File with the noise.", "--noise", metavar="FILE")
    ] = None,
    one_qubit: Annotated[float, Option(min=0, max=1, help="Error rate of one-wire gates.")] = 0.0,
    two_qubit: Annotated[float, Option(min=0, max=1, help="Error rate of two-wire gates.")] = 0.0,
    readout: Annotated[float, Option(min=0, max=1, help="Error rate of reading a bit.")] = 0.0,
    scale: Annotated[
        str | None,
        Option(metavar="S1,S2,...", help=f"Factors by which the noise is scaled. [{SCALES}]"),
    ] = None,
    shots: Annotated[
        int | None, Option(min=1, help="Number of measurements per sample. [exact values]")
    ] = None,
    extrapolate: Annotated[
        str | None,
        Option(
            metavar="METHOD",
            help="Zero-noise extrapolation from the scales >= 1: richardson (the polynomial "
            "through all), linear or exponential.",
        ),
    ] = None,
    split: Annotated[str | None, Option(help="train, validation or test. [test]")] = None,
    seed: Annotated[int, Option(min=0, help="Seed of the shots, or of the study.")] = 0,
    study: Annotated[
        bool,
        Option(
            "--study", help="Without a run: robustness by number of tasks, depth and entangler."
        ),
    ] = False,
    out: Annotated[
        Path | None, path_option("Folder for CSV and plot. [RUN/noise or noise]")
    ] = None,
) -> None:
    """Evaluate a run under noise of several strengths, or study which heads are robust.

    Earlier files in the folder are replaced.

    Examples of use:

    qmtl noise runs/seed1 --backend fake_fez --scale 0,0.5,1,2,4

    qmtl noise runs/seed1 --two-qubit 0.01 --readout 0.02 --shots 1024 --extrapolate linear

    qmtl noise --study --one-qubit 0.0003 --two-qubit 0.003 --readout 0.01
    """
    from qmtl.experiments import NoiseSection, run_robustness, run_study

    if (run is None) != study:
        raise InvalidInputError("give a run directory, or --study, and not both")
    of_runs = {"scale": scale, "split": split, "shots": shots, "extrapolate": extrapolate}
    for name, value in of_runs.items():
        if study and value is not None:
            raise InvalidInputError(f"--study does not take --{name}")
    scales = parse_numbers("--scale", SCALES if scale is None else scale, least=0, kind=float)
    numbers = {"one_qubit": one_qubit, "two_qubit": two_qubit, "readout": readout}
    if (backend is not None) + (file is not None) + any(numbers.values()) != 1:
        raise InvalidInputError(
            "give the noise once: --backend NAME, --noise FILE, or --one-qubit, --two-qubit and "
            "--readout"
        )
    if not relaxation and backend is None:
        raise InvalidInputError("--no-relaxation needs --backend")
    saved = None if file is None else str(file)
    source = NoiseSection(backend=backend, relaxation=relaxation, file=saved, **numbers)
    folder = out if out is not None else (Path("noise") if run is None else run / "noise")
    if run is None:
        make_folder(folder)
        run_study(source.device_noise, folder, seed)
    else:
        options: Any = {"shots": shots, "extrapolate": extrapolate, "seed": seed}
        run_robustness(run, source, folder, scales, split=split or "test", **options)
    print(f"wrote {folder}")
