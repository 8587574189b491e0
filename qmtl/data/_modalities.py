"""Several modalities in one flat input; a row may lack some of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError

__all__ = ["join_modalities"]


def join_modalities(modalities: Mapping[str, Any]) -> tuple[Tensor, dict[str, int]]:
    """Put the columns of several modalities side by side, after one presence flag for each.

    A row of a modality that is None or all NaN is missing: its flag and its columns are 0, and an
    encoder must not use these columns (`qmtl.encoders.Fusion` knows this layout).

    Args:
        modalities: name → array (N, width), or a list of N vectors and Nones.

    Returns:
        The inputs, float32 (N, modalities + all widths): a flag 1.0 or 0.0 per modality, then each
        modality's columns, all in the given order; and name → width.

    Raises:
        InvalidInputError: no modality, numbers of rows or widths differ, a row is NaN in part or
            infinite, or a row has no modality at all.

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
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
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
