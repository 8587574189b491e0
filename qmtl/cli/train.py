"""``qmtl train``: train a recipe into a run directory."""

from pathlib import Path
from typing import Annotated

from typer import Option

from qmtl.cli._options import (
    Overrides,
    SeedOption,
    complete_head,
    complete_recipe,
    path_argument,
    path_option,
    with_seed,
)
from qmtl.cli._output import show_run
from qmtl.errors import InvalidInputError


def train(
    recipe: Annotated[
        str | None,
        path_argument(
            "A built-in recipe (digits), or a path to a .toml file.", autocompletion=complete_recipe
        ),
    ] = None,
    out: Annotated[Path | None, path_option("New run directory. [runs/NAME-TIME]")] = None,
    set_: Overrides = None,
    seed: SeedOption = None,
    compare: Annotated[
        list[str] | None,
        Option(
            metavar="HEAD",
            help="Also train a head of this type, such as linear; repeatable.",
            autocompletion=complete_head,
        ),
    ] = None,
    resume: Annotated[
        Path | None, path_option("Continue a run, or train it longer.", metavar="DIR")
    ] = None,
    report: Annotated[bool, Option("--report", help="Also write RUN/report.html.")] = False,
) -> None:
    """Train a recipe and show the result per task.

    Examples of use:

    qmtl train digits

    qmtl train digits --seed 1 --compare linear --out runs/seed1

    qmtl train --resume runs/seed1 --set training.max_epochs=80
    """
    from qmtl.experiments import is_first_process, read_recipe, resume_run, start_run

    if (recipe is None) == (resume is None):
        raise InvalidInputError("give a recipe, or --resume DIR, and not both")
    if resume is not None:
        if compare or out or seed is not None:
            raise InvalidInputError(
                "--resume takes its recipe from the run, without --compare, --out and --seed; use "
                "--set for more epochs or another learning rate"
            )
        results = resume / "results.json"
        before = results.stat().st_mtime_ns if results.is_file() else None
        run = resume_run(resume, set_ or ())
        if before == results.stat().st_mtime_ns:
            done = run.results["epochs"]
            wanted = read_recipe(resume / "recipe.toml", set_ or ()).training.max_epochs
            if set_ and wanted is not None and wanted <= done:
                print(
                    f"the run {resume} has trained {done} epochs already, and max_epochs is "
                    f"{wanted}; nothing was trained"
                )
            else:
                print(f"the run {resume} had finished already; nothing was trained")
    else:
        assert recipe is not None
        overrides = with_seed(set_, seed)
        if compare:
            overrides.append(f"compare={compare!r}")
        run = start_run(read_recipe(recipe, overrides), out)
    if is_first_process():
        show_run(run)
        if report:
            from qmtl.experiments import write_report

            print(f"report: {write_report([run.path], run.path / 'report.html')}")
