"""The command line. Each command imports what it needs when it runs."""

import gc
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, TextIO

from typer import Abort, BadParameter, Exit, Option, Typer
from typer.core import TyperGroup

from qmtl._io import __version__
from qmtl.cli import circuits, doctor, ibm, models, recipes, results, studies
from qmtl.cli._output import set_streams
from qmtl.errors import QmtlError

__all__ = ["app", "main"]

EXAMPLES = """\
Examples of use:

qmtl train digits --out runs/first

qmtl evaluate runs/first --split validation

qmtl bench digits --heads quantum,linear --seeds 3

qmtl train --help

qmtl --install-completion
"""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            # Typer would exit without the message, which says how to continue.
            _tell(interrupt)
            raise Exit(130) from None


# Click's UsageError; Typer does not export it.
_UsageError: Any = BadParameter.__base__

app = Typer(
    name="qmtl",
    cls=_Commands,
    help="Quantum heads for multi-task learning.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
# The order is the order in the help.
for command in (
    recipes.recipes, recipes.init, models.train, results.runs, results.evaluate,
    results.affinity, results.predict, results.report, models.adapt, models.merge, studies.bench,
    studies.noise, studies.scaling, studies.trainability,
):  # fmt: skip
    app.command()(command)
app.add_typer(circuits.app, name="circuits")
app.command()(circuits.explain)
app.command()(results.export)
app.add_typer(ibm.app, name="ibm")
app.command()(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"qmtl {__version__}")
        raise Exit


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; for a wrong call or input, print one line and exit with status 2."""
    # Importing torch and Lightning creates a million objects. With the default thresholds, garbage
    # collection would take a tenth of a short command's time.
    gc.set_threshold(100_000, 20, 100)
    set_streams()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            sys.exit(app(prog_name="qmtl", standalone_mode=False))
    except _UsageError as error:
        _tell_usage(error)
        sys.exit(2)
    except Abort:
        print("qmtl: aborted", file=sys.stderr)
        sys.exit(1)
    except (QmtlError, OSError) as error:
        # For example, an OSError says that the disk is full.
        print(f"qmtl: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        # torch raises a RuntimeError of its own on CPUs.
        known = ("out of memory", "can't allocate memory")
        if isinstance(error, RuntimeError) and not any(words in reason for words in known):
            raise
        print(f"qmtl: out of memory: {reason}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        _tell(interrupt)
        sys.exit(130)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning; qmtl's warnings take one line, without the position in the code."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        text = f"warning: {' '.join(str(message).split())}\n"
    (file or sys.stderr).write(text)


def _tell_usage(error: Any) -> None:
    """Print a usage error on one line; for a group without a command, print the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    command, options = "qmtl", []
    if error.ctx is not None:
        command = error.ctx.command_path
        options = [name for option in error.ctx.command.params for name in option.opts]
    hint = f"see {command} --help"
    if "--set" in options and hasattr(error, "option_name"):
        hint = f"a recipe's keys go with --set, as in --set training.max_epochs=3; {hint}"
    message = " ".join(error.format_message().split()).removesuffix(".")
    print(f"qmtl: {message[0].lower()}{message[1:]}; {hint}", file=sys.stderr)


def _tell(interrupt: KeyboardInterrupt) -> None:
    print("; ".join(["qmtl: interrupted", *map(str, interrupt.args)]), file=sys.stderr)
