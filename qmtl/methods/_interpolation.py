"""MLTI: additional tasks, made by mixing the features and labels of two tasks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from qmtl.data import Split
from qmtl.errors import InvalidInputError
from qmtl.methods._method import Method, MethodSection, Step, TaskLosses
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task, labelled_rows, task_layout


def draw_beta(concentration: int, generator: torch.Generator) -> float:
    """Draw from Beta(c, c): the median of 2c - 1 uniform numbers.

    Example:
        >>> 0 < draw_beta(2, torch.Generator().manual_seed(0)) < 1
        True
    """
    drawn = torch.rand(2 * concentration - 1, dtype=torch.float64, generator=generator)
    return float(drawn.median())


class Interpolation(MethodSection):
    r"""Section ``[training.interpolation]``: MLTI, tasks that are mixtures of two tasks.

    In each step, some tasks i are replaced by a mixture with another task j of the same kind and
    number of outputs. With λ from Beta(c, c), features of rows with a label of i are mixed with
    those of rows with a label of j, drawn at random from the batch; labels and logits are mixed in
    the same way:

        h = λ h_r + (1 - λ) h_s,   z = λ z_i(h) + (1 - λ) z_j(h),   y = λ y_i(r) + (1 - λ) y_j(s).

    With λ = 1 this is the task i itself. In the paper each task has its own adapted network; in
    qmtl, the mixture has the mixed logits of both tasks. Its loss is the mixture of the losses for
    the two labels. For cross-entropies and squared errors, it has the gradient for mixed labels.

    A task without another of its kind and number of outputs is trained as usual. Disjoint data need
    an aggregator, because then a step has rows of several tasks.

    Attributes:
        share: the probability that a task is replaced in a step; 0 trains as without this method.
        concentration: c; the larger it is, the more evenly tasks are mixed.

    References:
        Yao, Zhang and Finn, arXiv:2106.02695.
    """

    short: ClassVar[str | None] = "share"
    excludes: ClassVar[tuple[str, ...]] = ("isolation", "loss", "flatness", "saliency")
    one_process: ClassVar[str | None] = "it mixes rows of a whole batch"
    trials: ClassVar[tuple[Any, ...]] = (0.3, 1.0)

    share: float = Field(0.5, ge=0, le=1)
    concentration: int = Field(2, ge=1)

    def check(self, settings: Any) -> None:
        if str(getattr(settings, "scalarizer", None)).lower() == "famo":
            raise ValueError(
                "interpolation does not go together with scalarizer 'famo', which measures the "
                "losses of each batch twice: they are mixed anew each time"
            )

    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        keys = [(task.kind, task.n_outputs) for task in tasks]
        others = {
            i: [j for j, other in enumerate(keys) if other == key and j != i]
            for i, key in enumerate(keys)
        }
        if len(tasks) > 1 and not any(others.values()):
            kinds = {task.name: f"{task.kind}, {task.n_outputs} outputs" for task in tasks}
            raise InvalidInputError(
                f"interpolation needs at least two tasks of the same kind and number of outputs, "
                f"got {kinds}"
            )
        return _Interpolating(self, tasks, others)


class _Interpolating(Method):
    needs_features = True

    def __init__(
        self, options: Interpolation, tasks: Sequence[Task], others: dict[int, list[int]]
    ) -> None:
        super().__init__()
        self.options, self.tasks, self.others = options, tuple(tasks), others
        self.is_disjoint = False

    def setup(self, step: Step, train: Split) -> None:
        labelled = labelled_rows(self.tasks, train.targets)
        self.is_disjoint = len(self.tasks) > 1 and int(labelled.sum(dim=0).max()) <= 1

    def losses(self, losses: TaskLosses, step: Step) -> TaskLosses:
        places = losses.places()
        if self.is_disjoint and len(places) == 1:
            raise InvalidInputError(
                "interpolation mixes rows of two tasks, but a step has rows of one: disjoint data "
                "need an aggregator, and tasks_per_step above 1"
            )
        there, values = set(places), list(losses.values)
        for n, place in enumerate(places):
            partners = [other for other in self.others[place] if other in there]
            random = step.generator
            if partners and float(torch.rand((), generator=random)) < self.options.share:
                number = int(torch.randint(len(partners), (), generator=random))
                mix = draw_beta(self.options.concentration, random)
                values[n] = self.mixed(losses, step, place, partners[number], mix)
        return replace(losses, values=torch.stack(values))

    def mixed(self, losses: TaskLosses, step: Step, first: int, second: int, mix: float) -> Tensor:
        """Return the loss of rows of one task mixed with random rows of another, for both tasks."""
        features, targets = losses.features, losses.batch.targets
        assert features is not None
        labelled = step.layout.labelled(targets)
        from_ = labelled[:, second].nonzero().flatten()
        drawn = torch.randint(len(from_), (len(features),), generator=step.generator)
        rows = from_[drawn.to(from_.device)]
        both = [self.tasks[first], self.tasks[second]]
        mixed = mix * features + (1 - mix) * features[rows]
        logits = step.model.logits(mixed, [task.name for task in both])
        ours, theirs = logits.chunk(2, dim=1)
        between = mix * ours + (1 - mix) * theirs
        known = step.standardised(targets)
        slices = [step.layout.column_slices[task.name] for task in both]
        # Rows without a label of the first task take no part.
        kept = labelled[:, [first]]
        own = known[:, slices[0]], torch.where(kept, known[rows][:, slices[1]], torch.nan)
        total, counted = losses.values.new_zeros(()), losses.batch.sample_weight
        rows_count = (None, None) if counted is None else (counted, counted[rows])
        for weight, task, labels, count in zip((mix, 1 - mix), both, own, rows_count, strict=True):
            sums, counts = task_layout((task,)).loss_terms(between, labels, sample_weight=count)
            total = total + weight * (sums / counts).squeeze()
        return total
