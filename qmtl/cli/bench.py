"""``qmtl bench``: heads compared on the same encoder, splits, seeds and settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmtl.cli._options import Overrides, complete_heads, complete_recipe, expanded
from qmtl.errors import InvalidInputError

if TYPE_CHECKING:
    from qmtl.experiments import Recipe

__all__ = ["bench"]


def bench(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE...",
            help="Built-in recipes, or .toml files.",
            callback=expanded,
            autocompletion=complete_recipe,
        ),
    ],
    heads: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Types of heads. [the recipe's]",
            autocompletion=complete_heads,
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds. [the recipe's]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The first seed. [0]")] = None,
    set_: Overrides = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2,...",
            help="Values that every head tries, in place of the recipe's grid; repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            callback=expanded, help="Folder; each recipe gets a folder of its name in it."
        ),
    ] = Path("bench"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Cells at once. [one per core]")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Ray cluster: local, auto, HOST:PORT or ray://…"),
    ] = None,
) -> None:
    """Compare heads on every seed, each at its best setting of the grid.

    Finished cells are stored: the same command, run again, runs only what is missing.

    Examples of use:

    qmtl bench digits

    qmtl bench digits --heads quantum,linear --seeds 3 --set training.max_epochs=10

    qmtl bench my.toml --grid training.learning_rate=0.003,0.01 --jobs 2 --out bench
    """
    from qmtl.experiments import Workers, parse_grid, read_recipe

    overrides = [*(set_ or [])]
    if heads is not None:
        overrides.append(f"bench.heads={[name.strip() for name in heads.split(',')]!r}")
    if seeds is not None:
        overrides.append(f"bench.seeds={seeds}")
    if seed is not None:
        overrides.append(f"bench.first_seed={seed}")
    values: dict[str, Any] = {} if grid is None else {"bench.grid": parse_grid(grid)}
    chosen = [read_recipe(recipe, overrides).with_values(values) for recipe in recipes]
    names = [recipe.name for recipe in chosen]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInputError(
                f"two recipes have the name {name!r}, and would share a folder; give one of them "
                f"another name, in its file"
            )
    workers = Workers(jobs, cluster)
    failed = sum(_run(recipe, out / recipe.name, workers) for recipe in chosen)
    if failed:
        raise InvalidInputError(
            f"{failed} cells failed, see the tables; the same command tries them again"
        )


def _run(recipe: "Recipe", folder: Path, workers: Any) -> int:
    """Run one recipe, write and show its tables; the number of failed cells."""
    from rich.console import Console

    from qmtl.experiments import bench as run_bench
    from qmtl.experiments import show_bench, write_bench

    progress = Console(stderr=True, markup=False, highlight=False)

    def report(cell: Any, found: Any, done: int, all_: int) -> None:
        took = getattr(found, "error", None) or f"{found.seconds:.1f} s"
        progress.print(f"{recipe.name} {done}/{all_}: {cell.label}: {took}", soft_wrap=True)

    summary = run_bench(recipe, folder, workers, report)
    write_bench(summary, recipe, folder)
    show_bench(summary, Console(markup=False, emoji=False, highlight=False, soft_wrap=False))
    print(f"wrote {folder}; all tables are in {folder / 'table.md'}")
    return len(summary.failures)
