"""Gradient affinity: how far two tasks' gradients agree, and whether there is enough evidence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from qmtl._calls import evaluating
from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError, check_integer, unknown_name
from qmtl.methods._gradients import LossesOfRows
from qmtl.model import MultiTaskModel
from qmtl.plotting import axes_or_new, plain
from qmtl.tasks import Task, labelled_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# Takes features, indices of their rows, and tasks; returns a number per task.
Sums = Callable[[Tensor, Tensor, Sequence[Task]], Tensor]
# Takes two tasks, and how often each block counts in each resample; returns the gradients' inner
# product and squared lengths, each (resamples,).
Products = Callable[[int, int, np.ndarray], list[np.ndarray]]

NO_EVIDENCE = 0.3
"""Overlap below which cosines of gradients were indistinguishable from noise."""
CAUTION = 0.4
"""Overlap from which on cosines of gradients recovered a known structure."""
SKETCH = 2**17
"""Longer gradients are hashed to this length, which changes inner products by about 0.3 %."""


@dataclass(frozen=True)
class Affinity:
    """The agreement of the tasks' gradients, pair by pair.

    Attributes:
        names: names of the tasks.
        pairs: a row per pair: ``first``, ``second``; ``shared_rows``, the number of rows with both
            labels; ``overlap``, their share of the rows with either label; ``cosine`` of the two
            gradients on the shared rows, with the ends ``low`` and ``high`` of its 95% bootstrap
            interval (NaN with fewer than two shared rows, or if no parameter affects both tasks);
            and a ``verdict``: ``no evidence`` below 30% overlap or without a cosine, ``caution``
            below 40%, else ``aligned`` or ``opposed`` if the interval excludes zero, else
            ``undecided``.
        by: variables of the gradients, "parameters" or "features".
    """

    names: tuple[str, ...]
    pairs: "DataFrame"
    by: str

    def matrix(self, column: str = "cosine") -> "DataFrame":
        """Return one column of `pairs` as a symmetric table of tasks by tasks.

        Its diagonal is 1 for ``cosine`` and ``overlap``, and missing for the other columns.
        """
        import pandas as pd

        full = pd.DataFrame(index=self.names, columns=self.names, dtype=self.pairs[column].dtype)
        for first, second, value in self.pairs[["first", "second", column]].itertuples(index=False):
            full.loc[first, second] = full.loc[second, first] = value
        if column in ("cosine", "overlap"):
            for name in self.names:
                full.loc[name, name] = 1.0
        return full

    def groups(self, n_groups: int) -> list[list[str]]:
        """Divide the tasks into groups of similar gradients, by average linkage of 1 - cosine.

        Raises:
            InvalidInputError: if a pair has no evidence, or there are fewer tasks than groups.
        """
        from scipy.cluster.hierarchy import fcluster, linkage

        if not 1 <= n_groups <= len(self.names):
            raise InvalidInputError(
                f"n_groups must be between 1 and {len(self.names)} tasks, got {n_groups}"
            )
        silent = self.pairs[self.pairs["verdict"] == "no evidence"]
        if len(silent):
            first = silent.iloc[0]
            raise InvalidInputError(
                f"tasks cannot be grouped: there is no evidence on {len(silent)} of "
                f"{len(self.pairs)} pairs, such as {first['first']!r} and {first['second']!r} with "
                f"{first['overlap']:.0%} overlap; at least {NO_EVIDENCE:.0%} is needed"
            )
        if len(self.names) == 1:
            return [list(self.names)]
        # The pairs are in the order of scipy's condensed distances.
        distances = 1 - self.pairs["cosine"].to_numpy()
        labels = fcluster(linkage(distances, "average"), n_groups, "maxclust")
        found: dict[int, list[str]] = {}
        for name, label in zip(self.names, labels, strict=True):
            found.setdefault(int(label), []).append(name)
        return list(found.values())

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw a heat map of the cosines; hatch pairs without evidence, and mark doubtful ones.

        A ``?`` marks caution, and brackets mark an interval that includes zero.
        """
        from matplotlib.patches import Rectangle

        ax = axes_or_new(ax)
        cosines, verdicts = self.matrix(), self.matrix("verdict")
        known = cosines.mask(verdicts == "no evidence")
        image = ax.imshow(known.to_numpy(), cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
        n = len(self.names)
        for i, j in np.ndindex(n, n):
            value, verdict = cosines.iat[i, j], verdicts.iat[i, j]
            if verdict == "no evidence":
                # Fixed colours, which do not change on a dark page.
                box = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="#d9d9d9", edgecolor="#999999")
                box.set(hatch="///", linewidth=0)
                ax.add_patch(box)
            elif i != j and n <= 14:
                text = {"caution": f"{value:z.2f}?", "undecided": f"({value:z.2f})"}
                colour = "#ffffff" if abs(value) > 0.6 else "#000000"
                shown = text.get(verdict, f"{value:z.2f}")
                ax.text(j, i, shown, ha="center", va="center", fontsize=7, color=colour)
        names = [plain(name, 22) for name in self.names]
        ax.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(n), names)
        ax.tick_params(length=0, labelsize=8)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        figure: Any = ax.get_figure()
        figure.colorbar(image, ax=ax, label="cosine of gradients", shrink=0.8)
        ax.set_title("gradient affinity" + ("" if self.by == "parameters" else " at the features"))
        doubts = set(self.pairs["verdict"])
        notes = {
            "undecided": "( ) the interval includes 0",
            "caution": f"? below {CAUTION:.0%} overlap",
            "no evidence": "hatched: no evidence",
        }
        ax.set_xlabel("   ".join(note for key, note in notes.items() if key in doubts), fontsize=8)
        return ax


def affinity(
    model: MultiTaskModel,
    data: MultiTaskData,
    *,
    split: str = "validation",
    of: Literal["labels", "losses"] = "labels",
    by: Literal["parameters", "features"] = "parameters",
    n_bootstrap: int = 1000,
    n_blocks: int = 32,
    seed: int = 0,
) -> Affinity:
    """Compute the cosine of every two tasks' gradients on the rows that have labels of both.

    The model is evaluated without dropout, and does not change. Train it first, because the
    gradients of random heads do not depend on how tasks are related. Each interval is for one pair:
    for about 5% of unrelated pairs, it excludes zero.

    Args:
        model: the model.
        data: data whose tasks are among the model's.
        split: the split whose rows to use; those of ``validation`` were not trained on.
        of: the quantity to differentiate. ``"labels"``: the product of labels and logits,
            ``Σ (y - ȳ)·logit``, which shows how each task uses the encoder whenever it has learned
            something. ``"losses"``: the losses, which show whether tasks help or hinder each other
            in the next step. After convergence these gradients are only noise, so train for an
            epoch or two.
        by: ``"parameters"``: the trainable shared parameters of encoder and encoding, through which
            tasks help or hinder each other. ``"features"``: the features of every row, the only
            choice with a frozen encoder. A pair's cosine leaves out variables that only one of the
            two tasks depends on, such as features outside the other's light cone.
        n_bootstrap: number of resamples of the rows, for the intervals.
        n_blocks: number of random blocks of rows. Resampling blocks needs only one gradient per
            block; with fewer rows, each row is a block.
        seed: seed of blocks, resamples and sketches.

    Raises:
        InvalidInputError: if the model lacks a task of the data, or has no shared parameters that
            are trained.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits(tasks=["parity", "has_loop"])
        >>> head = qmtl.QuantumHead(qmtl.HeadCircuit(data.tasks), seed=0)
        >>> model = MultiTaskModel(qmtl.encoders.MLP(64, out_features=head.n_features), head)
        >>> found = affinity(model, data)
        >>> found.pairs.loc[0, ["shared_rows", "overlap"]].tolist()
        [359.0, 1.0]

    References:
        Zhang and Cheng, arXiv:2604.07848, for the limits of 30 and 40%. The definition of
        overlap, a share of the rows with a label of either task, is qmtl's interpretation.
    """
    import pandas as pd

    losses = LossesOfRows(model, data, split)
    if by not in ("parameters", "features"):
        raise unknown_name("by", by, ["parameters", "features"])
    if of not in ("labels", "losses"):
        raise unknown_name("of", of, ["labels", "losses"])
    sums = losses.sums if of == "losses" else losses.misfits
    for name, value in (("n_bootstrap", n_bootstrap), ("n_blocks", n_blocks)):
        check_integer(name, value, 2)
    tasks = data.tasks
    if by == "parameters" and not model.shared_parameters():
        raise InvalidInputError("the model has no trainable shared parameter; give by='features'")
    labelled = labelled_rows(tasks, losses.rows.targets).numpy()
    by_mask: dict[bytes, list[tuple[int, int]]] = {}
    pairs = list(combinations(range(len(tasks)), 2))
    for i, j in pairs:
        by_mask.setdefault((labelled[i] & labelled[j]).tobytes(), []).append((i, j))
    found: dict[tuple[int, int], tuple[float, float, float]] = {}
    for places in by_mask.values():
        shared = np.flatnonzero(labelled[places[0][0]] & labelled[places[0][1]])
        found |= dict.fromkeys(places, (np.nan,) * 3)
        if len(shared) < 2:
            continue
        # A new generator for each mask, so that a pair's numbers do not depend on other tasks.
        rng = np.random.default_rng(seed)
        shared = rng.permutation(shared)
        blocks = [torch.from_numpy(b) for b in np.array_split(shared, min(n_blocks, len(shared)))]
        counts = rng.multinomial(len(blocks), [1 / len(blocks)] * len(blocks), n_bootstrap)
        counts = np.concatenate([np.ones((1, len(blocks))), counts])
        numbers = sorted({task for pair in places for task in pair})
        chosen = [tasks[t] for t in numbers]
        with evaluating(model), torch.enable_grad():
            if by == "features":
                products = _by_features(losses, sums, chosen, blocks)
            else:
                products = _by_parameters(losses, sums, chosen, blocks, seed)
        place = {task: number for number, task in enumerate(numbers)}
        for i, j in places:
            found[i, j] = _cosines(products(place[i], place[j], counts))
    names = tuple(task.name for task in tasks)
    table = []
    for i, j in pairs:
        shared, either = (labelled[i] & labelled[j]).sum(), (labelled[i] | labelled[j]).sum()
        overlap = float(shared / either) if either else 0.0
        verdict = _verdict(overlap, *found[i, j])
        table.append((names[i], names[j], int(shared), overlap, *found[i, j], verdict))
    columns = ["first", "second", "shared_rows", "overlap", "cosine", "low", "high", "verdict"]
    return Affinity(names, pd.DataFrame(table, columns=columns), by)


def _verdict(overlap: float, cosine: float, low: float, high: float) -> str:
    if overlap < NO_EVIDENCE or np.isnan(cosine):
        return "no evidence"
    if overlap < CAUTION:
        return "caution"
    return "aligned" if low > 0 else "opposed" if high < 0 else "undecided"


def _by_parameters(
    losses: LossesOfRows, sums: Sums, tasks: Sequence[Task], blocks: Sequence[Tensor], seed: int
) -> Products:
    """Return products of gradients with respect to shared parameters, summed over each block."""
    parameters = losses.model.shared_parameters()

    def gradients_on(rows: Tensor) -> Tensor:
        features = losses.model.encoder(losses.inputs[rows])
        return _each(sums(features, rows, tasks), parameters)

    support = _support(gradients_on(torch.cat(list(blocks))))
    every, some = support.all(0), support.any(0) & ~support.all(0)
    found = []
    for rows in blocks:
        own = gradients_on(rows)
        found.append(torch.cat([_sketched(own[:, every], seed), own[:, some]], 1))
    gradients = torch.stack(found, 1)
    n_common = gradients.shape[2] - int(some.sum())
    support = torch.cat([support.new_ones(len(tasks), n_common), support[:, some]], 1)

    def products(i: int, j: int, counts: np.ndarray) -> list[np.ndarray]:
        both = support[i] & support[j]
        first, second = (gradients[task][:, both] for task in (i, j))
        grams = first @ second.T, first @ first.T, second @ second.T
        arrays = [gram.double().numpy(force=True) for gram in grams]
        return [np.einsum("nb,bc,nc->n", counts, a, counts, optimize=True) for a in arrays]

    return products


def _by_features(
    losses: LossesOfRows, sums: Sums, tasks: Sequence[Task], blocks: Sequence[Tensor]
) -> Products:
    """Return products of gradients with respect to every row's features; rows share no feature."""
    rows = torch.cat(list(blocks))
    features = losses.model.encoder(losses.inputs[rows]).detach().requires_grad_()
    gradients = _each(sums(features, rows, tasks), [features])
    gradients = gradients.view(len(tasks), *features.shape).double()
    support = _support(gradients.abs().amax(1))
    starts = np.cumsum([0, *map(len, blocks[:-1])])

    def products(i: int, j: int, counts: np.ndarray) -> list[np.ndarray]:
        both = support[i] & support[j]
        first, second = (gradients[task][:, both] for task in (i, j))
        by_row = first * second, first * first, second * second
        # A block that is drawn twice counts twice.
        return [counts @ np.add.reduceat(a.sum(1).numpy(force=True), starts) for a in by_row]

    return products


def _each(losses: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Return the gradients of several losses, each as a flat vector: (losses, numbers)."""
    rows = []
    for loss in losses:
        parts = torch.autograd.grad(loss, inputs, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def _support(gradients: Tensor) -> Tensor:
    """Return which variables each task depends on: (tasks, numbers), up to rounding."""
    sizes = gradients.abs()
    return sizes > 1e-9 * sizes.amax(1, keepdim=True)


def _cosines(products: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Return the cosine of all rows (the first entries) and its 95% bootstrap interval."""
    inner, first, second = products
    squares = first * second
    if not squares[0] > 0:
        return np.nan, np.nan, np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.clip(inner / np.sqrt(squares), -1, 1)
    low, high = np.nanquantile(cosines[1:], [0.025, 0.975])
    return float(cosines[0]), float(low), float(high)


def _sketched(vectors: Tensor, seed: int) -> Tensor:
    """Shorten long vectors, (any number, n), by a count sketch: signed sums in random buckets.

    Inner products are preserved on average, with an error of about 1/sqrt(`SKETCH`) of the vectors'
    lengths (Charikar, Chen and Farach-Colton, 2002).
    """
    n, device = vectors.shape[1], vectors.device
    if n <= SKETCH:
        return vectors
    generator = torch.Generator().manual_seed(seed)
    buckets = torch.randint(SKETCH, (n,), generator=generator)
    signs = torch.randint(2, (n,), generator=generator) * 2 - 1
    sketched = vectors.new_zeros(len(vectors), SKETCH)
    return sketched.index_add_(1, buckets.to(device), vectors * signs.to(device))
