"""``qmtl export``: a trained head as OpenQASM 3."""

from pathlib import Path
from typing import Annotated

import typer

from qmtl.cli._options import RunDirectory, expanded
from qmtl.cli._output import make_folder, write_out
from qmtl.errors import InvalidInputError

__all__ = ["export"]


def export(
    run: RunDirectory,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this task; repeatable. [all tasks]"),
    ] = None,
    symbolic: Annotated[
        bool, typer.Option("--symbolic", help="Weights as inputs, not as their trained values.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=expanded,
            help="File; a folder where each task has a circuit of its own. [standard output]",
        ),
    ] = None,
) -> None:
    """Export a run's trained head as OpenQASM 3, with its weights bound and features symbolic.

    Features are the encoding angles, in radians, that the encoder and the head's angle map make of
    an input. Where tasks share one register each task has a circuit of its own.

    Examples of use:

    qmtl export runs/seed1 --out head.qasm

    qmtl export runs/seed1 --task parity --symbolic
    """
    from qmtl.heads import QuantumHead
    from qmtl.model import load

    head = load(run / "model").head
    if not isinstance(head, QuantumHead):
        raise InvalidInputError(
            f"the head of {run} is a {type(head).__name__}; OpenQASM holds the circuit of a "
            f"QuantumHead"
        )
    names = task or list(head.circuit.registers)
    if head.circuit.layout == "partitioned" or len(names) == 1:
        write_out(out, head.to_qasm(names, bound=not symbolic))
        return
    if out is None:
        raise InvalidInputError(
            f"the tasks share a register, so that each has a circuit: give --out FOLDER, or one "
            f"--task of {', '.join(names)}"
        )
    make_folder(out)
    for number, name in enumerate(names):
        # A task's name need not be one that a file may have.
        plain = "".join(letter if letter.isalnum() else "_" for letter in name)
        write_out(out / f"{number}-{plain}.qasm", head.to_qasm([name], bound=not symbolic))
