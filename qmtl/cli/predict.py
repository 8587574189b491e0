"""``qmtl predict``: a table in, predictions out."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from qmtl.cli._options import Delimiter, RunDirectory, expanded
from qmtl.cli._output import check_out, write_out
from qmtl.errors import InvalidInputError

__all__ = ["predict"]


def predict(
    run: RunDirectory,
    table: Annotated[
        Path, typer.Argument(callback=expanded, help="CSV with the run's input columns.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(callback=expanded, help="CSV to write; standard output by default."),
    ] = None,
    delimiter: Delimiter = None,
) -> None:
    """Predict every task for the rows of a CSV file.

    Example: qmtl predict runs/seed1 new.csv --out predictions.csv
    """
    import json

    from qmtl._io import as_csv
    from qmtl.data import TableColumns, read_table
    from qmtl.experiments import Run
    from qmtl.model import load
    from qmtl.training import prediction_rows

    check_out(out)
    opened = Run.read(run)
    columns_file = opened.path / "inputs.json"
    if not columns_file.is_file():
        raise InvalidInputError(f"the run {run} was not trained on a table: it has no inputs.json")
    try:
        columns = TableColumns.from_dict(json.loads(columns_file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InvalidInputError(f"{columns_file} is damaged: {error}") from None
    categories = [name for name, _ in columns.categorical]
    rows = read_table(table, delimiter, texts=categories)
    header = [str(name) for name in rows.columns]
    missing = [name for name in columns.names if name not in header]
    if missing:
        raise InvalidInputError(
            f"{table}: the header lacks {_some(missing)} of the columns that the run's model "
            f"needs; it has {_some(header)}"
        )
    for name, unseen in columns.unseen(rows).items():
        print(
            f"warning: {table}: column {name!r} has {_some(unseen)}, which the run has not seen "
            f"and takes as blank",
            file=sys.stderr,
        )
    model = load(opened.path / "model")
    try:
        inputs = columns.encode(rows)
    except InvalidInputError as error:
        raise InvalidInputError(f"{table}: {error}") from None
    # As in the files that training writes: from 0, without the header.
    predictions = prediction_rows(model, inputs, (rows.index - 2).tolist())
    write_out(out, as_csv(predictions))


def _some(names: list[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:8])
    return listed if len(names) <= 8 else f"{listed} and {len(names) - 8} more"
