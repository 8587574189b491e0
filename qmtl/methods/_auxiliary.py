"""MAXL: a network generates labels of an auxiliary task, whose training helps the main tasks."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from qmtl.errors import InvalidInputError
from qmtl.methods._method import Method, MethodSection, Step, TaskLosses
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task, chosen_tasks

__all__ = ["Auxiliary", "masked_softmax"]

CLASSES = ("binary", "multiclass")


def masked_softmax(scores: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Softmax over the sub-classes of each row's class; zero for sub-classes of other classes.

    Args:
        scores: scores (rows, classes · sub-classes), with the sub-classes of a class side by side.
        labels: the class of each row, int64 (rows,).
        n_classes: number of classes.

    Example:
        >>> masked_softmax(torch.zeros(1, 4), torch.tensor([1]), 2)
        tensor([[0.0000, 0.0000, 0.5000, 0.5000]])
    """
    by_class = scores.view(len(scores), n_classes, -1)
    mask = torch.nn.functional.one_hot(labels, n_classes).to(scores.dtype).unsqueeze(2)
    return (by_class.softmax(dim=2) * mask).flatten(1)


class Auxiliary(MethodSection):
    r"""Section ``[training.auxiliary]``: MAXL, auxiliary labels that are learned.

    A generator gives each row of a classification task a distribution over `subclasses` finer
    classes of its class. A linear layer on the encoder's features learns to predict this
    distribution, as a further loss. The generator is trained by the effect of this on the main
    tasks: it follows the gradient of their mean loss after one look-ahead step of length
    `look_ahead`,

        θ⁺ = θ - α ∇_θ [L(θ) + w L_aux(θ, φ)],    φ by ∇_φ [L(θ⁺) + λ Σ_k ȳ_k log ȳ_k],

    where ȳ are the labels' means over the rows of the batch: the last term keeps all sub-classes in
    use. After training, generator and layer are not part of the model.

    (Our reading: the generator's inputs are the encoder's features, without a gradient to the
    encoder, so that any encoder will do; in the paper it is a second network on the inputs. Losses
    are cross-entropies, where the paper has focal losses. Rows count by their weights.)

    Attributes:
        subclasses: number of sub-classes per class, ψ.
        weight: weight of the auxiliary loss, w; 0 trains as without it.
        entropy: weight of the entropy term, λ.
        look_ahead: length of the look-ahead step, α.
        hidden: number of units of the generator's hidden layer.
        tasks: names of the binary and multiclass tasks that get sub-classes; None for all of these
            kinds.

    Example:
        >>> from qmtl.training import TrainingSettings
        >>> TrainingSettings(auxiliary={"subclasses": 3}).auxiliary.weight
        1.0

    References:
        Liu, Davison and Johns, arXiv:1901.08933.
    """

    short: ClassVar[str | None] = "subclasses"
    excludes: ClassVar[tuple[str, ...]] = ("isolation", "loss")
    one_process: ClassVar[str | None] = "its look-ahead step is that of a whole batch"
    trials: ClassVar[tuple[Any, ...]] = ({"weight": 0.3}, {"weight": 1.0})

    subclasses: int = Field(5, ge=1)
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    entropy: float = Field(0.2, ge=0, allow_inf_nan=False)
    look_ahead: float = Field(0.01, gt=0, allow_inf_nan=False)
    hidden: int = Field(32, ge=1)
    tasks: list[str] | None = None

    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        """Build the method for the model and these tasks.

        Raises:
            InvalidInputError: if there is no binary or multiclass task, or one of `tasks` is of
                another kind.
        """
        by_name = {task.name: task for task in tasks}
        names = chosen_tasks(self.tasks, list(by_name))
        chosen = [by_name[name] for name in names if by_name[name].kind in CLASSES]
        if not chosen or (self.tasks is not None and len(chosen) < len(names)):
            kinds = {name: by_name[name].kind for name in names}
            raise InvalidInputError(
                f"auxiliary: sub-classes need tasks that are binary or multiclass, got {kinds}"
            )
        return _Maxl(self, model.head.n_features, chosen, seed)


class _Maxl(Method):
    needs_features = True

    def __init__(
        self, options: Auxiliary, n_features: int, tasks: Sequence[Task], seed: int
    ) -> None:
        super().__init__()
        self.options, self.tasks = options, tuple(tasks)
        self.n_classes = [max(2, task.n_outputs) for task in tasks]
        self.widths = [n * options.subclasses for n in self.n_classes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer = nn.Linear(n_features, sum(self.widths))
            self.generator = nn.Sequential(
                nn.Linear(n_features, options.hidden),
                nn.ReLU(),
                nn.Linear(options.hidden, sum(self.widths)),
            )

    def trained(self) -> list[nn.Parameter]:
        """No parameters if the weight is zero, since the generator would have no effect."""
        return super().trained() if self.options.weight else []

    def extra_loss(self, losses: TaskLosses, step: Step) -> Tensor | None:
        """The auxiliary loss, plus a term of value 0 that carries the generator's gradient."""
        features = losses.features
        assert features is not None
        labels = self._labels(losses, step)
        if not self.options.weight or not any(len(rows) for rows, *_ in labels):
            return None
        given = self.generator(features.detach())
        auxiliary, entropy = self.auxiliary_loss(features, given, labels)
        fixed, _ = self.auxiliary_loss(features, given.detach(), labels)
        moved = self._look_ahead(losses, fixed, step)
        parameters = list(self.generator.parameters())
        directions = self._directions(losses, moved, step)
        # By the chain rule, -α ⟨∇L(θ⁺), ∇_θ w L_aux(θ, φ)⟩ has the derivative of L(θ⁺) with respect
        # to φ. The head does not affect the auxiliary loss.
        reached = list(directions)
        total = self.options.entropy * entropy
        if reached and auxiliary.requires_grad:
            slopes = torch.autograd.grad(
                self.options.weight * auxiliary, reached, create_graph=True, allow_unused=True
            )
            for parameter, slope in zip(reached, slopes, strict=True):
                if slope is not None and slope.requires_grad:
                    total = total - self.options.look_ahead * (directions[parameter] * slope).sum()
        gradients = torch.autograd.grad(
            total, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        pairs = zip(parameters, gradients, strict=True)
        surrogate = sum(((p - p.detach()) * g).sum() for p, g in pairs)
        return self.options.weight * fixed + surrogate

    def _labels(self, losses: TaskLosses, step: Step) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each task with sub-classes: labelled rows, their classes, their shares."""
        found = []
        weights = losses.batch.sample_weight
        for task in self.tasks:
            column = losses.batch.targets[:, step.layout.column_slices[task.name].start]
            rows = (~column.isnan()).nonzero().flatten()
            shares = torch.ones_like(rows) if weights is None else weights[rows]
            shares = shares.to(losses.values.dtype)
            found.append((rows, column[rows].long(), shares / shares.sum()))
        return found

    def auxiliary_loss(
        self, features: Tensor, given: Tensor, labels: Sequence[tuple[Tensor, Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Means over tasks of the cross-entropy and of the entropy term.

        Args:
            features: features, shape (rows, features).
            given: the generator's scores, shape (rows, sub-classes of all tasks).
            labels: for each task, its rows, their classes, and their shares of the mean.
        """
        scores = self.layer(features).split(self.widths, dim=1)
        losses, entropies = [], []
        for own, theirs, (rows, classes, weights), n in zip(
            scores, given.split(self.widths, dim=1), labels, self.n_classes, strict=True
        ):
            if len(rows):
                soft = masked_softmax(theirs[rows], classes, n)
                losses.append(-weights @ (soft * own[rows].log_softmax(dim=1)).sum(dim=1))
                mean = weights @ soft
                entropies.append(torch.special.xlogy(mean, mean.clamp(min=1e-12)).sum())
        return torch.stack(losses).mean(), torch.stack(entropies).mean()

    def _look_ahead(
        self, losses: TaskLosses, auxiliary: Tensor, step: Step
    ) -> dict[nn.Parameter, Tensor]:
        """The model's trained parameters after a step of plain gradient descent."""
        ours = {id(p) for p in self.parameters()}
        parameters = [p for p in (*step.shared, *step.own) if id(p) not in ours]
        total = losses.values.mean() + self.options.weight * auxiliary
        gradients = torch.autograd.grad(
            total, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rate = self.options.look_ahead
        return {
            p: (p.detach() - rate * g).requires_grad_()
            for p, g in zip(parameters, gradients, strict=True)
        }

    def _directions(
        self, losses: TaskLosses, moved: dict[nn.Parameter, Tensor], step: Step
    ) -> dict[nn.Parameter, Tensor]:
        """The gradient of the main tasks' mean loss at the moved parameters."""
        model, batch = step.model, losses.batch
        state: dict[str, Any] = {
            name: moved[p] for name, p in model.named_parameters() if p in moved
        }
        # Only the training step itself may update the running statistics.
        state |= {name: buffer.clone() for name, buffer in model.named_buffers()}
        names = [task.name for task in step.tasks]
        inputs = batch.inputs.to(next(model.parameters()).dtype)
        logits = torch.func.functional_call(model, state, (inputs, names), {"joined": True})
        sums, counts = step.layout.loss_terms(
            logits,
            step.standardised(batch.targets),
            complete=batch.complete,
            sample_weight=batch.sample_weight,
        )
        there = counts > 0
        after = (sums[there] / counts[there]).mean()
        gradients = torch.autograd.grad(
            after, list(moved.values()), allow_unused=True, materialize_grads=True
        )
        return dict(zip(moved, gradients, strict=True))
