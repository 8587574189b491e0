"""Auxiliary tasks: labels that are learned (MAXL), and self-supervised tasks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from qmtl._calls import called_with, seeded
from qmtl.data import MultiTaskData, Split
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.methods._method import Method, MethodSection, Step, TaskLosses
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task, chosen_tasks

CLASSES = ("binary", "multiclass")


def masked_softmax(scores: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Return the softmax over the sub-classes of each row's class; zero for the other classes.

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
    distribution, as a further loss. The generator is trained to help the main tasks: it follows the
    gradient of their mean loss after one look-ahead step of length `look_ahead`,

        θ⁺ = θ - α ∇_θ [L(θ) + w L_aux(θ, φ)],    φ by ∇_φ [L(θ⁺) + λ Σ_k ȳ_k log ȳ_k],

    where ȳ are the means of the generated labels over the batch. The last term keeps all
    sub-classes in use. After training, generator and layer are not part of the model.

    In the paper, the generator is a second network on the inputs. In qmtl, its inputs are the
    detached features of the encoder, so that it works with any encoder. qmtl uses cross-entropies,
    the paper focal losses. Row weights count.

    Attributes:
        subclasses: number of sub-classes per class, ψ.
        weight: weight of the auxiliary loss, w; 0 trains as without it.
        entropy: weight of the entropy term, λ.
        look_ahead: length of the look-ahead step, α.
        hidden: number of units of the generator's hidden layer.
        tasks: names of the tasks that get sub-classes; None for all binary and multiclass ones.

    References:
        Liu, Davison and Johns, arXiv:1901.08933.
    """

    short: ClassVar[str | None] = "subclasses"
    excludes: ClassVar[tuple[str, ...]] = ("isolation", "loss")
    one_process: ClassVar[str | None] = "its look-ahead step needs the whole batch"
    trials: ClassVar[tuple[Any, ...]] = ({"weight": 0.3}, {"weight": 1.0})

    subclasses: int = Field(5, ge=1)
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    entropy: float = Field(0.2, ge=0, allow_inf_nan=False)
    look_ahead: float = Field(0.01, gt=0, allow_inf_nan=False)
    hidden: int = Field(32, ge=1)
    tasks: list[str] | None = None

    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
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
        with seeded(seed):
            self.layer = nn.Linear(n_features, sum(self.widths))
            self.generator = nn.Sequential(
                nn.Linear(n_features, options.hidden),
                nn.ReLU(),
                nn.Linear(options.hidden, sum(self.widths)),
            )

    def trained(self) -> list[nn.Parameter]:
        # With weight 0 there is no auxiliary loss, and nothing to train.
        return super().trained() if self.options.weight else []

    def extra_loss(self, losses: TaskLosses, step: Step) -> Tensor | None:
        """Return the auxiliary loss, plus a term of value 0 with the generator's gradient."""
        features = losses.features
        assert features is not None
        labels = self._labels(losses, step)
        if not self.options.weight or not any(len(rows) for rows, *_ in labels):
            return None
        given = self.generator(features.detach())
        auxiliary, entropy = self.auxiliary_loss(features, given, labels)
        fixed, _ = self.auxiliary_loss(features, given.detach(), labels)
        parameters = list(self.generator.parameters())
        directions = self._directions(losses, fixed, step)
        # By the chain rule, L(θ⁺) and -α ⟨∇L(θ⁺), ∇_θ w L_aux(θ, φ)⟩ have the same derivative with
        # respect to φ. The head does not affect the auxiliary loss.
        total = self.options.entropy * entropy
        if directions and auxiliary.requires_grad:
            slopes = torch.autograd.grad(
                self.options.weight * auxiliary, list(directions), create_graph=True,
                allow_unused=True,
            )  # fmt: skip
            for direction, slope in zip(directions.values(), slopes, strict=True):
                if slope is not None and slope.requires_grad:
                    total = total - self.options.look_ahead * (direction * slope).sum()
        gradients = torch.autograd.grad(
            total, parameters, retain_graph=True, materialize_grads=True
        )
        pairs = zip(parameters, gradients, strict=True)
        surrogate = sum(((p - p.detach()) * g).sum() for p, g in pairs)
        return self.options.weight * fixed + surrogate

    def _labels(self, losses: TaskLosses, step: Step) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return each task's labelled rows, their classes, and their weights, which sum to 1."""
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
        """Return the cross-entropy and the entropy term, each as a mean over tasks.

        The generator's scores are `given`, (rows, sub-classes of all tasks).
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

    def _directions(
        self, losses: TaskLosses, auxiliary: Tensor, step: Step
    ) -> dict[nn.Parameter, Tensor]:
        """Return the gradients of the main tasks' mean loss at θ⁺, for the model's parameters."""
        ours = {id(p) for p in self.parameters()}
        parameters = [p for p in (*step.shared, *step.own) if id(p) not in ours]
        total = losses.values.mean() + self.options.weight * auxiliary
        gradients = torch.autograd.grad(
            total, parameters, retain_graph=True, materialize_grads=True
        )
        moved = {
            p: (p.detach() - self.options.look_ahead * g).requires_grad_()
            for p, g in zip(parameters, gradients, strict=True)
        }
        model, batch = step.model, losses.batch
        state: dict[str, Any] = {
            name: moved[p] for name, p in model.named_parameters() if p in moved
        }
        # Only the training step itself may update the running statistics.
        state |= {name: buffer.clone() for name, buffer in model.named_buffers()}
        names = [task.name for task in step.tasks]
        inputs = batch.inputs.to(next(model.parameters()).dtype)
        logits = called_with(model, state, (inputs, names), {"joined": True})
        sums, counts = step.loss_terms_of(logits, batch)
        there = counts > 0
        after = (sums[there] / counts[there]).mean()
        found = torch.autograd.grad(after, list(moved.values()), materialize_grads=True)
        return dict(zip(moved, found, strict=True))


KINDS = ("rotation", "intensity", "domain")
QUARTERS = 4


def with_auxiliary_tasks(
    data: MultiTaskData,
    kinds: Sequence[str] = ("rotation", "intensity"),
    *,
    image: tuple[int, int] | None = None,
    domain: Any = None,
    seed: int = 0,
) -> MultiTaskData:
    """Append self-supervised tasks, which are ordinary tasks, to the data's own.

    * ``rotation``: the number of quarter turns of an image, four classes. Every split gets a second
      copy of its rows, each rotated at random, with only this label.
    * ``intensity``: mean and standard deviation of the pixels, a regression with two targets.
    * ``domain``: the origin of a row, such as its hospital or view; binary or multiclass.

    Args:
        data: data with images, (N, channels, H, W), or with flat rows of pixels.
        kinds: the tasks to add, in this order.
        image: height and width of flat images (N, channels·H·W); None if the data have image shape.
        domain: codes 0, 1, ... of all rows that `qmtl.data.Split.index` counts; NaN or a negative
            number means missing.
        seed: seed of the rotations.

    Raises:
        InvalidInputError: for an unknown kind, a task that exists already, images that are not
            square (rotation), sizes that do not fit, or a single domain.

    Example:
        >>> from qmtl.data import digits
        >>> data = with_auxiliary_tasks(digits(tasks=["parity"]), image=(8, 8))
        >>> [(task.name, task.kind) for task in data.tasks]
        [('parity', 'binary'), ('rotation', 'multiclass'), ('intensity', 'regression')]

    References:
        Ghamizi et al., arXiv:2302.02907: such tasks beside the main ones in adversarial training.
    """
    kinds = [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("kind of auxiliary task:", kind, KINDS)
        if kind in [task.name for task in data.tasks]:
            raise InvalidInputError(f"the data already have a task {kind!r}")
    splits: dict[str, Any] = data.splits
    added: dict[str, Task] = {}
    targets: dict[str, dict[str, Tensor]] = {name: {} for name in splits}
    if "intensity" in kinds:
        added["intensity"] = Task.regression("intensity", 2)
        for name, split in splits.items():
            pixels = split.inputs.double().flatten(1)
            moments = pixels.mean(1), pixels.std(1, correction=0)
            targets[name]["intensity"] = torch.stack(moments, dim=1)
    if "domain" in kinds:
        added["domain"], found = _domain(splits, domain)
        for name, codes in found.items():
            targets[name]["domain"] = codes
    for name, split in splits.items():
        splits[name] = replace(split, targets=split.targets | targets[name])
    if "rotation" in kinds:
        added["rotation"] = Task.multiclass("rotation", QUARTERS)
        size = _square(data.train.inputs, image)
        generator = torch.Generator().manual_seed(seed)
        for name, split in splits.items():
            splits[name] = _with_turned_rows(split, size, generator)
    return replace(data, tasks=(*data.tasks, *(added[kind] for kind in kinds)), **splits)


def _domain(splits: dict[str, Split], domain: Any) -> tuple[Task, dict[str, Tensor]]:
    if domain is None:
        raise InvalidInputError("the auxiliary task 'domain' needs domain, a code for each row")
    codes = np.asarray(domain, dtype=float)
    needed = 1 + max(int(split.index.max()) for split in splits.values())
    if codes.ndim != 1 or len(codes) < needed:
        raise InvalidInputError(
            f"domain must have one code for each of the {needed} rows of the original data, got "
            f"shape {codes.shape}"
        )
    codes = np.where(codes < 0, np.nan, codes)
    n_domains = len(np.unique(codes[~np.isnan(codes)]))
    if n_domains < 2:
        raise InvalidInputError(f"domain must have two codes at least, got {n_domains}")
    task = Task.binary("domain") if n_domains == 2 else Task.multiclass("domain", n_domains)
    if n_domains > 2:
        codes = np.where(np.isnan(codes), -100, codes)
    return task, {n: task.to_targets(codes[split.index.numpy()]) for n, split in splits.items()}


def _square(inputs: Tensor, image: tuple[int, int] | None) -> tuple[int, int]:
    """Return the height and width of the images, which must be square."""
    width = int(inputs[0].numel())
    if inputs.ndim == 4:
        image = image or (inputs.shape[2], inputs.shape[3])
    if image is None:
        raise InvalidInputError(
            f"the auxiliary task 'rotation' needs image, the height and width of the images, for "
            f"inputs of shape {tuple(inputs.shape[1:])}"
        )
    height, length = image
    if height != length or height < 1 or width % (height * length):
        raise InvalidInputError(
            f"the auxiliary task 'rotation' turns square images, whose pixels are the inputs; got "
            f"image {tuple(image)} for inputs of shape {tuple(inputs.shape[1:])}"
        )
    return height, length


def _with_turned_rows(split: Split, size: tuple[int, int], generator: torch.Generator) -> Split:
    """Append a rotated copy of every row, with only the rotation's label."""
    n_rows = len(split)
    quarters = torch.randint(QUARTERS, (n_rows,), generator=generator)
    images = split.inputs.reshape(n_rows, -1, *size)
    turned = torch.empty_like(images)
    for quarter in range(QUARTERS):
        own = quarters == quarter
        turned[own] = images[own].rot90(quarter, dims=(2, 3))
    targets = {}
    for name, values in split.targets.items():
        nothing = torch.nan if values.is_floating_point() else -100
        targets[name] = torch.cat([values, torch.full_like(values, nothing)])
    targets["rotation"] = torch.cat([torch.full((n_rows,), -100), quarters])
    inputs = torch.cat([split.inputs, turned.reshape_as(split.inputs)])
    weights = split.sample_weight
    weights = None if weights is None else weights.repeat(2)
    return Split(inputs, targets, split.index.repeat(2), weights)
