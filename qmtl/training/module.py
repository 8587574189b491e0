"""The Lightning module: one step of multi-task training, with a scalarizer or an aggregator."""

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from qmtl.errors import InvalidInputError, ModelFileError, QmtlError
from qmtl.model import MultiTaskModel
from qmtl.tasks.stacked import labelled_rows, stacked_loss_terms
from qmtl.training.batches import Batch, rows_by_task
from qmtl.training.combine import (
    PerTask,
    fixed_size,
    has_state,
    make_combiner,
    move_tensors,
    of_tasks,
)
from qmtl.training.evaluate import score
from qmtl.training.gradients import aggregate, set_gradients
from qmtl.training.local_rows import Locality
from qmtl.training.optimizers import make_optimizer, make_schedule
from qmtl.training.parallel import sum_over_processes
from qmtl.training.settings import TrainingSettings
from qmtl.training.state import combiner_state, load_combiner_state

__all__ = ["CHECKPOINT_VERSION", "MultiTaskModule"]

CHECKPOINT_VERSION = 1
# Settings that shape the state in a checkpoint.
STATE_SETTINGS = ("optimizer", "schedule", "scalarizer", "aggregator")
Row = dict[str, Any]


class MultiTaskModule(pl.LightningModule):
    """Trains a `MultiTaskModel` on `qmtl.training.Batch`es.

    Gradients are taken by ``torch.autograd.grad`` for exactly the parameters that the batch's
    tasks have, so a task without labels keeps its weights and optimiser state bit for bit, in one
    process and in several.

    Args:
        model: what to train.
        settings: how.
    """

    def __init__(self, model: MultiTaskModel, settings: TrainingSettings) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.settings = settings
        n_tasks = len(model.tasks)
        self.uses_jacobian = settings.aggregator is not None
        dtype = next(model.parameters()).dtype
        self.combiner: Any = make_combiner(settings, n_tasks, dtype)
        # What learns from all losses of a step together cannot go on without one of them.
        self.needs_all_tasks = _steps_itself(self.combiner) or (
            self.uses_jacobian and fixed_size(self.combiner)
        )
        self.own = [model.task_parameters(task.name) for task in model.tasks]
        owned = {id(p) for parameters in self.own for p in parameters}
        self.shared = [p for p in model.parameters() if p.requires_grad and id(p) not in owned]
        self.locality = Locality.of(model) if self.uses_jacobian else None
        self.all_parameters = list(self.parameters())
        self.history: list[Row] = []
        # Absent tasks keep their last loss, for DWA.
        self.register_buffer("last_losses", torch.ones(n_tasks))
        self._epoch_sums = torch.zeros(2, n_tasks)
        self._validation: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def configure_optimizers(self) -> Any:
        """One optimiser; the encoder's parameters, the head's, and the scalarizer's own."""
        settings = self.settings
        head = settings.head_learning_rate or settings.learning_rate
        groups: list[dict[str, Any]] = [
            {
                "params": list(self.model.encoder.parameters()),
                "weight_decay": settings.weight_decay,
            },
            {"params": list(self.model.head.parameters()), "lr": head},
            {"params": [p for p in self.combiner.parameters() if not _steps_itself(self.combiner)]},
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = make_optimizer(settings, groups)
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
        present, losses, logits, features = self._losses(batch)
        if not present:
            raise InvalidInputError(f"the batch {batch_index} has no label of any task")
        self.check_present(present, self.global_step)
        for parameter in self.all_parameters:
            parameter.grad = None
        if self.uses_jacobian:
            self._aggregate(present, losses, logits, features)
        else:
            self._scalarize(present, losses)
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.settings.gradient_clip)
        optimizer: Any = self.optimizers()
        optimizer.step()
        if hasattr(self.combiner, "update"):
            # FAMO measures how the step changed the losses of the same batch.
            with torch.no_grad():
                self.combiner.update(self._losses(batch)[1])

    def check_present(self, present: Sequence[int], step: int) -> None:
        """Raise if the combiner needs labels of all tasks, and a step has not got them.

        Raises:
            InvalidInputError: naming a task without labels.
        """
        if not self.needs_all_tasks or len(present) == len(self.model.tasks):
            return
        absent = [task.name for i, task in enumerate(self.model.tasks) if i not in present]
        kind, others = (
            ("aggregator", "'upgrad'") if self.uses_jacobian else ("scalarizer", "'mean' or 'uw'")
        )
        raise InvalidInputError(
            f"{kind} {getattr(self.settings, kind)!r} keeps state per task and needs labels of all "
            f"tasks in each step; {absent[0]!r} has none in step {step}. Use larger batches, or "
            f"another {kind} such as {others}"
        )

    def _losses(self, batch: Batch) -> tuple[list[int], Tensor, list[Tensor], Tensor | None]:
        """Tasks with labels in the step, their losses, shape (present,), and their logits; the
        features, if all logits are of the same.

        A loss is this process's share of the mean over all processes' labels: values are global,
        gradients local, so that the processes' gradients add up to the gradient of the mean.
        """
        tasks = self.model.tasks
        labelled = labelled_rows(tasks, batch.targets)
        counts = labelled.any(dim=1).to(self.device, torch.float32)
        present = (sum_over_processes(counts) > 0).nonzero().flatten().tolist()
        if not present:
            return [], counts[:0], [], None
        names = [tasks[i].name for i in present]
        targets = {name: batch.targets[name] for name in names}
        rows = rows_by_task(labelled, present)
        if rows is not None:
            targets = {name: targets[name][own] for name, own in zip(names, rows, strict=True)}
        logits, features = self._logits(batch, names, rows)
        local = stacked_loss_terms(
            [tasks[i] for i in present], logits, self.model.standardise_all(targets)
        )
        total = sum_over_processes(local.detach())
        losses = local[:, 0] / total[:, 1]
        losses = losses + (total[:, 0] / total[:, 1] - losses).detach()
        self._check_finite(names, losses)
        if torch.is_grad_enabled():
            self.last_losses[present] = losses.detach().to(self.last_losses.dtype)
            self._epoch_sums[:, present] += total.T.to(self._epoch_sums.dtype)
        return present, losses, [logits[name] for name in names], features

    def _logits(
        self,
        batch: Batch,
        tasks: Sequence[str] | None = None,
        rows: Sequence[Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Logits of the tasks (None: all), on all rows, or for each task on its own rows.

        And the features, if these are the same for all.
        """
        # Data are float32; a float64 model wants its own.
        inputs = batch.inputs.to(next(self.model.parameters()).dtype)
        try:
            features = self.model.encoder(inputs)
            if rows is None or tasks is None:
                return self.model.head(features, tasks=tasks), features
            logits: dict[str, Tensor] = {}
            for name, own in zip(tasks, rows, strict=True):
                logits |= self.model.head(features[own], tasks=[name])
            return logits, None
        except InvalidInputError as error:
            # Inputs were finite when the data were made: it is the encoder that diverged.
            names = ", ".join(repr(task.name) for task in self.model.tasks)
            raise InvalidInputError(
                f"tasks {names}, epoch {self.current_epoch}, step {self.global_step}: {error}; if "
                f"the encoder diverged, try a smaller learning rate or gradient_clip"
            ) from None

    def _check_finite(self, names: Sequence[str], losses: Tensor) -> None:
        for name, loss in zip(names, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                raise QmtlError(
                    f"the loss of task {name!r} is {loss} in epoch {self.current_epoch}, step "
                    f"{self.global_step}; try a smaller learning rate or gradient_clip"
                )

    def _total(self, present: Sequence[int], losses: Tensor) -> Tensor:
        """The scalarizer of the tasks that are present."""
        total: Tensor
        if isinstance(self.combiner, PerTask):
            total = self.combiner(losses, present)
        elif has_state(self.combiner):
            total = self.combiner(self._all_losses(present, losses))
        elif len(present) < len(self.model.tasks):
            total = of_tasks(self.combiner, present)(losses)
        else:
            total = self.combiner(losses)
        return total

    def _all_losses(self, present: Sequence[int], losses: Tensor) -> Tensor:
        """Losses of all tasks; those of absent ones are constants."""
        values: Tensor = self.last_losses.to(losses.dtype).clone()
        return values.index_put((torch.tensor(present, device=losses.device),), losses)

    def _scalarize(self, present: Sequence[int], losses: Tensor) -> None:
        own = [p for i in present for p in self.own[i]]
        weights: list[nn.Parameter] = []
        if isinstance(self.combiner, PerTask):
            weights = self.combiner.weights(present)
        elif not _steps_itself(self.combiner):
            weights = list(self.combiner.parameters())
        parameters = [*self.shared, *own]
        try:
            total = self._total(present, losses)
        except ValueError as error:
            name = self.settings.scalarizer
            reason = " ".join(str(error).split())
            raise InvalidInputError(f"scalarizer {name!r}: {reason}") from None
        gradients = torch.autograd.grad(total, [*parameters, *weights], allow_unused=True)
        set_gradients(parameters, gradients[: len(parameters)])
        # The scalarizer saw the global losses: its own gradient is whole already.
        for weight, gradient in zip(weights, gradients[len(parameters) :], strict=True):
            weight.grad = None if gradient is None else gradient.contiguous()

    def _aggregate(
        self,
        present: Sequence[int],
        losses: Tensor,
        logits: Sequence[Tensor],
        features: Tensor | None,
    ) -> None:
        own = [p for i in present for p in self.own[i]]
        try:
            aggregate(
                losses, logits, own, self.shared, self.combiner,
                chunk=self.settings.jacobian_chunk,
                features=features,
                locality=None if self.locality is None else self.locality.of_tasks(present),
            )  # fmt: skip
        except ValueError as error:
            raise InvalidInputError(
                f"aggregator {self.settings.aggregator!r}: {' '.join(str(error).split())}"
            ) from None

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
        self._validation.append((self._logits(batch)[0], batch.targets))

    def on_validation_epoch_end(self) -> None:
        """Losses and metrics of the validation split."""
        parts, self._validation = self._validation, []
        names = [task.name for task in self.model.tasks]
        logits = {name: torch.cat([part[0][name] for part in parts]) for name in names}
        targets = {name: torch.cat([part[1][name] for part in parts]) for name in names}
        scores = score(self.model, logits, targets)
        losses = [values["loss"] for values in scores.values() if not math.isnan(values["loss"])]
        mean = sum(losses) / len(losses) if losses else math.nan
        self.log("validation_loss", mean, prog_bar=True, batch_size=1)
        for name, values in scores.items():
            for metric, value in values.items():
                self._record("validation", name, metric, value)

    def _record(self, split: str, task: str, metric: str, value: float) -> None:
        epoch = self.current_epoch
        self.history.append(
            {"epoch": epoch, "split": split, "task": task, "metric": metric, "value": value}
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the combiner's state and the history."""
        checkpoint["qmtl"] = {
            "version": CHECKPOINT_VERSION,
            "settings": {name: getattr(self.settings, name) for name in STATE_SETTINGS},
            "combiner": combiner_state(self.combiner),
            "history": [dict(row) for row in self.history],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put back what `on_save_checkpoint` added."""
        extra = checkpoint.get("qmtl", {})
        if extra.get("version") != CHECKPOINT_VERSION:
            raise ModelFileError(
                f"the checkpoint has version {extra.get('version')}, expected {CHECKPOINT_VERSION}"
            )
        for name, value in extra["settings"].items():
            given = getattr(self.settings, name)
            if value != given:
                raise ModelFileError(f"the checkpoint has {name} {value!r}, the settings {given!r}")
        load_combiner_state(self.combiner, extra["combiner"])
        self.history = [dict(row) for row in extra["history"]]


def _steps_itself(combiner: nn.Module) -> bool:
    # FAMO owns an optimiser for its logits and must be alone in stepping them.
    return hasattr(combiner, "update")
