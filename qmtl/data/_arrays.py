"""Make data sets from arrays; join several modalities in one input array."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.data._columns import TableColumns
from qmtl.data._dataset import MultiTaskData, Split, take_splits
from qmtl.data._learn import scale_of
from qmtl.data._splits import among_kept, choose_rows, label_codes
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task, as_numpy, check_tasks, check_varied, infer_task, row_weights


def from_arrays(
    X: Any,
    targets: Mapping[str, Any],
    *,
    tasks: Sequence[Task] | None = None,
    splits: Sequence[float] | Mapping[str, Any] = (0.7, 0.15, 0.15),
    seed: int = 0,
    groups: Any = None,
    name: str = "arrays",
    standardise: bool = False,
    sample_weight: Any = None,
) -> MultiTaskData:
    """Make a data set from inputs and one array of labels per task.

    Args:
        X: inputs (N, ...), at least 2-D: NumPy array, tensor, list or DataFrame. All become
            float32, which holds integers up to 2^24 exactly; an encoder of tokens converts its
            inputs with ``inputs.long()``.
        targets: task name → labels, see `Task.to_targets`. A tensor holds labels, too.
        tasks: the tasks, in the order that circuits use; None infers them from the labels, see
            `infer_task`.
        splits: three fractions (train, validation, test), stratified by the labels; or a dict of
            row numbers with these three keys.
        seed: seed of the split.
        groups: one value per row; rows of a group stay in one split.
        name: name of the data set.
        standardise: whether to scale each input column by mean and std of the train split (2-D
            only).
        sample_weight: weight of each row in losses, metrics and scales, (N,): a row of weight 2
            counts like two rows; a row of weight 0 is left out. None for 1 each.

    Raises:
        InvalidInputError: shapes, names or labels do not fit, or a classification has one class.

    Warns:
        UserWarning: a regression target has one value, or float32 makes an input column almost
            constant.

    Example:
        >>> X = [[float(i), 1.0] for i in range(20)]
        >>> data = from_arrays(X, {"odd": [i % 2 for i in range(20)]})
        >>> data
        MultiTaskData('arrays', inputs=(2,), train=14, validation=3, test=3, tasks: odd (binary))
    """
    inputs = _as_inputs(X)
    names = [str(name) for name in getattr(X, "columns", ())]
    if not len(set(names)) == len(names) == inputs.shape[1]:
        names = []
    if not isinstance(targets, Mapping) or not targets:
        raise InvalidInputError(
            f"targets: expected a dict of task name → labels, got {type(targets).__name__}"
        )
    weights, numbers = row_weights(sample_weight, len(inputs)), torch.arange(len(inputs))
    given = isinstance(splits, Mapping)
    if weights is not None and not bool(weights.all()):
        splits = among_kept(splits, numbers.numpy(), (weights > 0).numpy())
        numbers = weights.nonzero().flatten()
        targets = {key: _rows(values, numbers, len(inputs)) for key, values in targets.items()}
        groups = None if groups is None else _rows(groups, numbers, len(inputs))
        inputs, weights = inputs[numbers], weights[numbers]
    if tasks is None:
        tasks = [infer_task(key, values) for key, values in targets.items()]
    tasks = check_tasks(tasks)
    labels = _as_targets(tasks, targets, numbers)
    for task in tasks:
        check_varied(task, labels[task.name])
    indices = choose_rows(len(inputs), splits, seed, label_codes(tasks, labels), groups)
    columns = None
    if standardise:
        columns = _columns_of(inputs, indices[0], names, weights)
        scale = torch.tensor([entry[1:] for entry in columns.numeric], dtype=torch.float64)
        inputs = (inputs - scale[:, 0]) / scale[:, 1]
    elif names:  # so that predictions for a data frame find its columns by name
        columns = TableColumns(tuple((name, 0.0, 1.0) for name in names))
    _warn_of_rounding(inputs, names)
    parts = take_splits(Split(inputs.float(), labels, numbers, weights), indices)
    return MultiTaskData(
        name, tasks, *parts, columns=columns, split_seed=None if given else int(seed)
    )


def as_samples(values: Any, name: str = "inputs") -> Tensor:
    """Convert an array, list or data frame (N, ...) to a tensor of the same number type.

    Reversed, big-endian and masked arrays and pandas' nullable numbers are supported; missing
    values become NaN. Errors use `name` for the inputs.

    Raises:
        InvalidInputError: no numbers, or rows of different lengths.

    Example:
        >>> as_samples(np.array([[1.0], [2.0]], dtype=">f8")[::-1])
        tensor([[2.],
                [1.]], dtype=torch.float64)
    """
    if isinstance(values, Tensor):
        if values.is_complex():
            raise InvalidInputError(f"{name} must be real numbers, got {values.dtype}")
        if values.layout != torch.strided:
            raise InvalidInputError(f"{name} must be a dense tensor, got {values.layout}")
        return values
    is_complex = isinstance(values, np.ndarray) and np.iscomplexobj(values)
    if values is None or is_complex:
        what = "complex numbers" if is_complex else "None"
        raise InvalidInputError(f"{name} must be real numbers, got {what}")
    try:
        values = as_numpy(values)
        if hasattr(values, "to_numpy"):
            values = _frame_numbers(values)
        if isinstance(values, np.ma.MaskedArray):
            values = np.ma.filled(values.astype(np.float64), np.nan)
        array = np.asarray(values)
        if array.dtype.kind == "O":
            if any(isinstance(value, str) for value in array.ravel()):
                raise ValueError("texts")
            array = array.astype(np.float64)
        if array.dtype == np.longdouble:  # torch has no such type
            array = array.astype(np.float64)
        if array.dtype.kind not in "biuf":
            raise ValueError(str(array.dtype))
        # A copy, because torch needs the machine's byte order and writable memory.
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError) as error:
        hint = "; qmtl.data.from_frame makes inputs of columns with texts and dates"
        hint = hint if hasattr(values, "columns") else ""
        raise InvalidInputError(
            f"{name} must be an array of numbers with samples in the first dimension, got "
            f"{type(values).__name__} that is not numeric or has rows of different lengths{hint}"
        ) from error


def _frame_numbers(values: Any) -> np.ndarray:
    kinds = {getattr(dtype, "kind", "O") for dtype in getattr(values, "dtypes", ())}
    if kinds & set("mM"):  # pandas would write nanoseconds
        raise TypeError("dates")
    if hasattr(values, "dtypes") and kinds <= set("iu"):
        return np.asarray(values.to_numpy())
    return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))


def _rows(values: Any, rows: Tensor, n: int) -> Any:
    """Select rows of an array, column or list of length n; the result has the same type."""
    if not hasattr(values, "__len__") or len(values) != n:
        return values  # the caller's later checks raise
    places: Any = rows.numpy()
    if hasattr(values, "iloc"):
        return values.iloc[places]
    if isinstance(values, np.ndarray | Tensor):
        return values[places]
    return [values[place] for place in places]


def _as_targets(
    tasks: tuple[Task, ...], targets: Mapping[str, Any], numbers: Tensor
) -> dict[str, Tensor]:
    names = [task.name for task in tasks]
    for key in targets:
        if key not in names:
            raise unknown_name("task in targets:", key, names)
    labels = {}
    for task in tasks:
        if task.name not in targets:
            raise InvalidInputError(f"targets: there are no labels for task '{task.name}'")
        values = targets[task.name]
        labels[task.name] = task.to_targets(as_numpy(values), rows=numbers.tolist())
        if len(labels[task.name]) != len(numbers):
            raise InvalidInputError(
                f"targets: task '{task.name}' has {len(labels[task.name])} labels for "
                f"{len(numbers)} rows"
            )
    return labels


def _as_inputs(values: Any) -> Tensor:
    """Return inputs as float64 (N, ...), because scaling comes before rounding to float32."""
    inputs = as_samples(values, "X").detach().cpu().double()
    if inputs.ndim < 2:
        raise InvalidInputError(
            f"X: expected at least 2 dimensions (rows, inputs), got shape {tuple(inputs.shape)}; "
            f"for one input per row use shape (N, 1)"
        )
    if not inputs.numel():
        raise InvalidInputError(f"X: expected rows and inputs, got shape {tuple(inputs.shape)}")
    return inputs


def _columns_of(
    inputs: Tensor, train: Tensor, names: Sequence[str], weights: Tensor | None
) -> TableColumns:
    if inputs.ndim != 2:
        raise InvalidInputError(
            f"standardise: expected inputs (N, inputs), got shape {tuple(inputs.shape)}"
        )
    names = names or [f"x{i}" for i in range(inputs.shape[1])]
    rows = inputs[train].numpy()
    finite = np.where(np.isfinite(rows), rows, np.nan)  # MultiTaskData raises for bad rows
    own = None if weights is None else weights[train].numpy()
    scales = (scale_of(column, own) for column in finite.T)
    return TableColumns(tuple((name, *scale) for name, scale in zip(names, scales, strict=True)))


def _warn_of_rounding(inputs: Tensor, names: Sequence[str]) -> None:
    """Warn if float32 makes a column almost constant, such as times in seconds since 1970."""
    if inputs.ndim != 2:
        return
    span = inputs.amax(0) - inputs.amin(0)
    step = inputs.abs().amax(0) * torch.finfo(torch.float32).eps
    lost = ((span > 0) & (span < 100 * step)).nonzero().flatten().tolist()
    if lost:
        first = names[lost[0]] if names else f"number {lost[0]}"
        warnings.warn(
            f"X: column {first} differs between rows by less than float32 can tell well; give "
            f"standardise=True, or subtract its mean",
            UserWarning,
            stacklevel=3,
        )


def join_modalities(modalities: Mapping[str, Any]) -> tuple[Tensor, dict[str, int]]:
    """Put the columns of several modalities side by side, after one presence flag for each.

    A row of a modality that is None or all NaN is missing: its flag and its columns are 0, and an
    encoder must not use these columns. `qmtl.encoders.Fusion` takes this layout.

    Args:
        modalities: name → array (N, width), or a list of N vectors and Nones.

    Returns:
        The inputs, float32 (N, modalities + all widths): a flag 1.0 or 0.0 per modality, then each
        modality's columns, all in the given order; and name → width.

    Raises:
        InvalidInputError: there is no modality, numbers of rows or widths differ, a row holds
            infinity or only some NaN, or a row lacks all modalities.

    Example:
        >>> join_modalities({"text": [[1.0, 2.0], [3.0, 4.0]], "audio": [None, [5.0]]})
        (tensor([[1., 0., 1., 2., 0.],
                [1., 1., 3., 4., 5.]]), {'text': 2, 'audio': 1})
    """
    if not isinstance(modalities, Mapping) or not modalities:
        raise InvalidInputError(
            f"modalities: expected a dict of name → array (N, width), got {modalities!r}"
        )
    blocks = {str(name): _block(str(name), values) for name, values in modalities.items()}
    lengths = {name: len(block) for name, block in blocks.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidInputError(f"modalities: the numbers of rows differ: {lengths}")
    present = np.stack([~np.isnan(block).all(axis=1) for block in blocks.values()], axis=1)
    if not present.any(axis=1).all():
        row = int((~present.any(axis=1)).argmax())
        raise InvalidInputError(f"modalities: row {row} has none of {', '.join(blocks)}")
    columns = [np.nan_to_num(block, nan=0.0) for block in blocks.values()]
    inputs = np.concatenate([present.astype(np.float32), *columns], axis=1, dtype=np.float32)
    return torch.from_numpy(inputs), {name: block.shape[1] for name, block in blocks.items()}


def _block(name: str, values: Any) -> np.ndarray:
    values = as_numpy(values)
    try:
        if isinstance(values, list | tuple):
            values = _with_missing_rows(name, values)
        block = np.asarray(values, dtype=np.float32)
    except InvalidInputError:  # InvalidInputError is a ValueError, too
        raise
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"modality '{name}': expected numbers (N, width), or a list of vectors of one width "
            f"and Nones"
        ) from error
    if block.ndim != 2 or not block.size:
        raise InvalidInputError(f"modality '{name}': expected shape (N, width), got {block.shape}")
    nan = np.isnan(block)
    bad = np.isinf(block).any(axis=1) | (nan.any(axis=1) & ~nan.all(axis=1))
    if bad.any():
        raise InvalidInputError(
            f"modality '{name}': row {int(bad.argmax())} holds infinity, or NaN in some columns "
            f"only; a missing row is NaN in all of them, or None"
        )
    return block


def _with_missing_rows(name: str, rows: list[Any] | tuple[Any, ...]) -> np.ndarray:
    widths = {len(row) for row in rows if row is not None}
    if len(widths) != 1:
        raise InvalidInputError(
            f"modality '{name}': expected vectors of one width, got "
            f"{'only missing rows' if not widths else f'the widths {sorted(widths)}'}"
        )
    width = widths.pop()
    return np.array([[np.nan] * width if row is None else np.asarray(row) for row in rows],
                    dtype=np.float32)  # fmt: skip
