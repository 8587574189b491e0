"""The Lightning module: one step of multi-task training, with a scalarizer or an aggregator."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from qmtl.errors import InvalidInputError, ModelFileError, QmtlError
from qmtl.model import MultiTaskModel
from qmtl.tasks import task_layout
from qmtl.training._batches import Batch
from qmtl.training._combine import (
    combiner_state,
    fixed_size,
    has_state,
    is_sum,
    load_combiner_state,
    make_combiner,
    move_tensors,
    scalarize,
)
from qmtl.training._evaluate import joined_scores
from qmtl.training._jacobian import (
    SharedJacobian,
    n_processes,
    set_gradients,
    sum_over_processes,
)
from qmtl.training._optimizers import make_optimizer, make_schedule
from qmtl.training._result import History
from qmtl.training._settings import TrainingSettings

__all__ = ["CHECKPOINT_VERSION", "MultiTaskModule"]

CHECKPOINT_VERSION = 2
# Settings that shape the state in a checkpoint.
STATE_SETTINGS = ("optimizer", "schedule", "scalarizer", "aggregator")


class MultiTaskModule(pl.LightningModule):
    """Trains a `MultiTaskModel` on `qmtl.training.Batch`es.

    Logits, targets and losses of all tasks are joined tensors. A task without labels in a step has
    no loss, and the optimiser steps each task's rows of the head's parameters for themselves: such
    a task keeps its weights and optimiser state bit for bit, in one process and in several.

    Args:
        model: what to train.
        settings: how.
    """

    def __init__(self, model: MultiTaskModel, settings: TrainingSettings) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.settings = settings
        self.layout = task_layout(model.tasks)
        n_tasks = len(model.tasks)
        self.uses_jacobian = settings.aggregator is not None
        self.dtype_of_model = next(model.parameters()).dtype
        self.combiner: Any = make_combiner(settings, n_tasks, self.dtype_of_model)
        # What learns from all losses of a step together cannot go on without one of them.
        self.needs_all_tasks = _steps_itself(self.combiner) or (
            self.uses_jacobian and fixed_size(self.combiner)
        )
        self._rows: Any = model.task_rows()
        self.own = [p for rows in self._rows for p in rows.parameters() if p.requires_grad]
        owned = {id(p) for p in self.own}
        self.shared = [p for p in model.parameters() if p.requires_grad and id(p) not in owned]
        self.weights: list[nn.Parameter] = []
        if not self.uses_jacobian and not _steps_itself(self.combiner):
            self.weights = list(self.combiner.parameters())
        self.jacobian: SharedJacobian | None = None
        if self.uses_jacobian:
            self.jacobian = SharedJacobian(
                model, self.shared, self.own, self.combiner, settings.jacobian_chunk
            )
        self._history = History()
        # Absent tasks keep their last loss, for DWA.
        self.keeps_losses = not self.uses_jacobian and has_state(self.combiner)
        self.register_buffer("last_losses", torch.ones(n_tasks))
        self._scale: tuple[Tensor, Tensor] | None = None
        self._epoch_sums = torch.zeros(2, n_tasks)
        self._validation: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> Any:
        """One optimiser; the encoder's parameters, the head's, and the scalarizer's own."""
        settings, model = self.settings, self.model
        head = settings.head_learning_rate or settings.learning_rate
        place = {task.name: i for i, task in enumerate(model.tasks)}
        row_of: dict[nn.Parameter, Tensor] = {}
        for rows in self._rows:
            tasks = torch.tensor([place[name] for name in rows.names])
            row_of |= dict.fromkeys(rows.parameters(), tasks[rows.row_of.cpu()])
        own = list(model.head.parameters())
        groups: list[dict[str, Any]] = [
            {"params": list(model.encoder.parameters()), "weight_decay": settings.weight_decay},
            {"params": own, "lr": head, "row_of": [row_of.get(p) for p in own]},
            {"params": self.weights},
        ]
        if is_sum(self.combiner):
            groups[-1]["row_of"] = [torch.arange(len(place))]
        optimizer = make_optimizer(settings, [group for group in groups if group["params"]])
        schedule = make_schedule(settings, optimizer)
        return {"optimizer": optimizer} | ({"lr_scheduler": schedule} if schedule else {})

    def on_train_start(self) -> None:
        """Bring the combiner's fixed weights to the device of the losses."""
        move_tensors(self.combiner, self.device)

    def on_train_epoch_start(self) -> None:
        """Seed everything random from the run's seed and the epoch, so that runs resume."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.current_epoch)
        self._epoch_sums = torch.zeros_like(self._epoch_sums, device=self.device)

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """One optimiser step on one batch."""
        losses, present, step = self._losses(batch, record=True)
        if not len(losses):
            raise InvalidInputError(f"the batch {batch_index} has no label of any task")
        self.check_present(present, self.global_step)
        for parameter in (*self.shared, *self.own, *self.weights):
            parameter.grad = None
        if self.jacobian is None:
            self._scalarize(losses, present)
        else:
            try:
                self.jacobian.aggregate(losses, present, step)
            except ValueError as error:
                raise InvalidInputError(
                    f"aggregator {self.settings.aggregator!r}: {' '.join(str(error).split())}"
                ) from None
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.settings.gradient_clip)
        optimizer: Any = self.optimizers()
        optimizer.step(present=self._stepped(present))
        if hasattr(self.combiner, "update"):
            # FAMO measures how the step changed the losses of the same batch.
            with torch.no_grad():
                self.combiner.update(self._losses(batch)[0])

    def _stepped(self, present: Tensor | None) -> Tensor | None:
        """Which tasks' rows the optimiser steps, bool (tasks,); None for all."""
        if present is None and not any(rows.frozen for rows in self._rows):
            return None
        mask = torch.zeros(len(self.model.tasks), dtype=torch.bool, device=self.device)
        mask[slice(None) if present is None else present] = True
        frozen = {name for rows in self._rows for name in rows.frozen}
        kept = [task.name not in frozen for task in self.model.tasks]
        return mask & torch.tensor(kept, device=self.device)

    def check_present(self, present: Tensor | None, step: int) -> None:
        """Raise if the combiner needs labels of all tasks, and a step has not got them.

        Args:
            present: the places of tasks with labels, int64; None for all.
            step: its number.

        Raises:
            InvalidInputError: naming a task without labels.
        """
        if present is None or not self.needs_all_tasks or len(present) == len(self.model.tasks):
            return
        there = set(present.tolist())
        absent = [task.name for i, task in enumerate(self.model.tasks) if i not in there]
        kind, others = (
            ("aggregator", "'upgrad'") if self.uses_jacobian else ("scalarizer", "'mean' or 'uw'")
        )
        raise InvalidInputError(
            f"{kind} {getattr(self.settings, kind)!r} keeps state per task and needs labels of all "
            f"tasks in each step; {absent[0]!r} has none in step {step}. Use larger batches, or "
            f"another {kind} such as {others}"
        )

    def _losses(self, batch: Batch, *, record: bool = False) -> tuple[Tensor, Tensor | None, Any]:
        """Losses of the tasks with labels in the step, shape (present,); their places, None for
        all; and what the Jacobian's rows are taken from, if that is wanted and all tasks are
        computed from the same features.

        A loss is this process's share of the mean over all processes' labels: values are global,
        gradients local, so that the processes' gradients add up to the gradient of the mean.
        """
        targets = self._standardised(batch.targets)
        own = None if batch.complete else rows_by_task(self.layout.labelled(batch.targets))
        step = None
        with self._where():
            if own is None:
                logits, step = self._logits(batch, record=record)
            else:
                sums, counts = self._terms_by_task(batch, targets, own)
        if own is None:
            sums, counts = self.layout.loss_terms(logits, targets, complete=batch.complete)
        present, alone = None, n_processes() == 1
        total = sum_over_processes(torch.stack([sums.detach(), counts]))
        if not alone:
            counts = total[1]
            sums = sums + (total[0] - sums).detach()
        if not (batch.complete and alone) and not bool(counts.all()):
            present = counts.nonzero().flatten()
            sums, counts = sums[present], counts[present]
        losses = sums / counts
        self._check_finite(losses, present)
        if record:
            self._epoch_sums += total
            if self.keeps_losses:
                places = slice(None) if present is None else present
                self.last_losses[places] = losses.detach().to(self.last_losses.dtype)
        return losses, present, step

    def _standardised(self, targets: Tensor) -> Tensor:
        if self.layout.dtype != torch.float64:
            return targets
        if self._scale is None:
            self._scale = self.model.target_scale()
        mean, std = self._scale
        return (targets - mean) / std

    def _terms_by_task(
        self, batch: Batch, targets: Tensor, own: list[tuple[int, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Loss terms of all tasks, of which each is computed on its own rows only."""
        tasks = self.layout.tasks
        features = self.model.encoder(self._inputs(batch))
        parts = []
        for i, rows in own:
            name = tasks[i].name
            whole = len(rows) == len(features)
            logits = self.model.logits(features if whole else features[rows], [name])
            wanted = targets[:, self.layout.column_slices[name]]
            wanted = wanted if whole else wanted[rows]
            parts.append(task_layout((tasks[i],)).loss_terms(logits, wanted))
        places = torch.tensor([i for i, _ in own], device=features.device)
        sums, counts = (torch.cat(part) for part in zip(*parts, strict=True))
        zeros = sums.new_zeros(len(tasks))
        return zeros.index_copy(0, places, sums), zeros.index_copy(0, places, counts)

    def _inputs(self, batch: Batch) -> Tensor:
        # Data are float32; a float64 model wants its own.
        return batch.inputs.to(self.dtype_of_model)

    def _logits(self, batch: Batch, *, record: bool = False) -> tuple[Tensor, Any]:
        """Joined logits of all tasks, and what the Jacobian's rows are taken from."""
        if record and self.jacobian is not None and self.jacobian.n_groups is not None:
            step = self.jacobian.forward(self._inputs(batch))
            return step.logits, step
        return self.model(self._inputs(batch), joined=True), None

    @contextmanager
    def _where(self) -> Iterator[None]:
        """Say in which step the head was given what it cannot take."""
        try:
            yield
        except InvalidInputError as error:
            # Inputs were finite when the data were made: it is the encoder that diverged.
            names = ", ".join(repr(task.name) for task in self.model.tasks)
            raise InvalidInputError(
                f"tasks {names}, epoch {self.current_epoch}, step {self.global_step}: {error}; if "
                f"the encoder diverged, try a smaller learning rate or gradient_clip"
            ) from None

    def _check_finite(self, losses: Tensor, present: Tensor | None) -> None:
        if math.isfinite(float(losses.detach().sum())):
            return
        places = range(len(losses)) if present is None else present.tolist()
        for place, loss in zip(places, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                raise QmtlError(
                    f"the loss of task {self.model.tasks[place].name!r} is {loss} in epoch "
                    f"{self.current_epoch}, step {self.global_step}; try a smaller learning rate "
                    f"or gradient_clip"
                )

    def _scalarize(self, losses: Tensor, present: Tensor | None) -> None:
        parameters = [*self.shared, *self.own]
        try:
            total = scalarize(self.combiner, losses, present, self.last_losses)
        except ValueError as error:
            name = self.settings.scalarizer
            reason = " ".join(str(error).split())
            raise InvalidInputError(f"scalarizer {name!r}: {reason}") from None
        gradients = torch.autograd.grad(
            total, [*parameters, *self.weights], allow_unused=True,
            materialize_grads=n_processes() > 1,
        )  # fmt: skip
        set_gradients(parameters, gradients[: len(parameters)])
        # The scalarizer saw the global losses: its own gradient is whole already.
        for weight, gradient in zip(self.weights, gradients[len(parameters) :], strict=True):
            weight.grad = None if gradient is None else gradient.contiguous()

    def on_train_epoch_end(self) -> None:
        """Record the epoch's training losses, and step what steps once per epoch."""
        sums, counts = self._epoch_sums.tolist()
        for task, total, count in zip(self.model.tasks, sums, counts, strict=True):
            if count:
                self._record("train", task.name, "loss", total / count)
        if hasattr(self.combiner, "step"):
            self.combiner.step()
        schedule: Any = self.lr_schedulers()
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            schedule.step(self.trainer.callback_metrics["validation_loss"])
        elif schedule is not None:
            schedule.step()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Keep logits and targets; metrics are of the whole split."""
        with self._where():
            self._validation.append((self._logits(batch)[0], batch.targets))

    def on_validation_epoch_end(self) -> None:
        """Losses and metrics of the validation split."""
        parts, self._validation = self._validation, []
        logits, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        scores = joined_scores(self.model, logits, targets)
        losses = [values["loss"] for values in scores.values() if not math.isnan(values["loss"])]
        mean = sum(losses) / len(losses) if losses else math.nan
        self.log("validation_loss", mean, prog_bar=True, batch_size=1)
        for name, values in scores.items():
            for metric, value in values.items():
                self._record("validation", name, metric, value)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row per epoch, split, task and metric, as in `qmtl.Result`."""
        return self._history.rows()

    def _record(self, split: str, task: str, metric: str, value: float) -> None:
        self._history.add(self.current_epoch, (split, task, metric), value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the combiner's state and the history."""
        checkpoint["qmtl"] = {
            "version": CHECKPOINT_VERSION,
            "settings": {name: getattr(self.settings, name) for name in STATE_SETTINGS},
            "combiner": combiner_state(self.combiner),
            "history": self._history.to_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put back what `on_save_checkpoint` added.

        Raises:
            ModelFileError: for a checkpoint of another version, or of other settings.
        """
        extra = checkpoint.get("qmtl", {})
        if extra.get("version") != CHECKPOINT_VERSION:
            raise ModelFileError(
                f"the checkpoint has version {extra.get('version')}, expected "
                f"{CHECKPOINT_VERSION}: it cannot be resumed by this version of qmtl (version 1 "
                f"kept the optimiser's state by task); train anew"
            )
        for name, value in extra["settings"].items():
            given = getattr(self.settings, name)
            if value != given:
                raise ModelFileError(f"the checkpoint has {name} {value!r}, the settings {given!r}")
        load_combiner_state(self.combiner, extra["combiner"])
        self._history = History.from_dict(extra["history"])


def rows_by_task(labelled: Tensor) -> list[tuple[int, Tensor]] | None:
    """Each task with its own rows, if every row of the batch has the labels of one task; else None.

    Args:
        labelled: bool (rows, tasks).

    Example:
        >>> rows_by_task(torch.tensor([[True, False], [False, True]]))
        [(0, tensor([0])), (1, tensor([1]))]
    """
    if labelled.shape[1] < 2 or not bool((labelled.sum(dim=1) == 1).all()):
        return None
    task_of_row = labelled.int().argmax(dim=1)
    return [(i, (task_of_row == i).nonzero().flatten()) for i in task_of_row.unique().tolist()]


def _steps_itself(combiner: nn.Module) -> bool:
    # FAMO owns an optimiser for its logits and must be alone in stepping them.
    return hasattr(combiner, "update")
