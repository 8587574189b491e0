"""The Lightning module: one step of multi-task training, with a scalarizer or an aggregator."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from qmtl._growth import last_layer
from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError, ModelFileError, QmtlError
from qmtl.heads import Head
from qmtl.model import MultiTaskModel
from qmtl.tasks import chosen_tasks, task_layout
from qmtl.training._batches import Batch, MultiTaskDataModule
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
from qmtl.training._settings import HEAD_PACE, TrainingSettings

__all__ = ["CHECKPOINT_VERSION", "MultiTaskModule", "set_target_scales"]

CHECKPOINT_VERSION = 2
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
# Settings that shape the state in a checkpoint.
STATE_SETTINGS = ("optimizer", "schedule", "scalarizer", "aggregator", "monitor")


class MultiTaskModule(pl.LightningModule):
    """Trains a `MultiTaskModel` on `qmtl.training.Batch`es.

    Logits, targets and losses of all tasks are joined tensors. A task without labels in a step has
    no loss, and the optimiser steps each task's rows of the head's parameters for themselves: such
    a task keeps its weights and optimiser state bit for bit, in one process and in several.

    Args:
        model: what to train.
        settings: how.
        tasks: the tasks to train; None for all. All that other tasks depend on stays as it is, bit
            for bit: the encoder, except for features that only these tasks see, and likewise the
            head's shared weights.

    Raises:
        InvalidInputError: if no parameter is to be trained, or the encoder has lazy layers that
            have not seen an input yet.

    Example:
        >>> import pytorch_lightning as pl, qmtl
        >>> from qmtl.training import MultiTaskDataModule, MultiTaskModule, TrainingSettings
        >>> data = qmtl.data.digits(tasks=["parity"])
        >>> circuit = qmtl.HeadCircuit(data.tasks)
        >>> encoder = qmtl.encoders.MLP(64, out_features=circuit.n_features, seed=0)
        >>> model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
        >>> settings = TrainingSettings(learning_rate=0.03)
        >>> trainer = pl.Trainer(
        ...     max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        ...     enable_progress_bar=False, enable_model_summary=False,
        ... )
        >>> trainer.fit(MultiTaskModule(model, settings), MultiTaskDataModule(data, settings))
        >>> "validation/parity/accuracy" in trainer.callback_metrics
        True
    """

    def __init__(
        self,
        model: MultiTaskModel,
        settings: TrainingSettings,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
            raise InvalidInputError(
                "the encoder has lazy layers that have seen no input; run the model once on a batch"
            )
        self.automatic_optimization = False
        self.model = model
        self.settings = settings
        self.names = None if tasks is None else chosen_tasks(tasks, [t.name for t in model.tasks])
        by_name = {task.name: task for task in model.tasks}
        self.tasks = tuple(by_name[name] for name in self.names or by_name)
        self.layout = task_layout(self.tasks)
        n_tasks = len(self.tasks)
        self.uses_jacobian = settings.aggregator is not None
        self.dtype_of_model = next(model.parameters()).dtype
        self.combiner: Any = make_combiner(settings, n_tasks, self.dtype_of_model)
        # A combiner that learns from all losses of a step cannot continue without one of them.
        self.needs_all_tasks = _steps_itself(self.combiner) or (
            self.uses_jacobian and fixed_size(self.combiner)
        )
        self._rows: Any = model.task_rows()
        self.own = [p for rows in self._rows for p in rows.parameters() if p.requires_grad]
        owned = {id(p) for p in self.own}
        self.shared = [p for p in model.parameters() if p.requires_grad and id(p) not in owned]
        # Which row of the optimiser's each entry along a parameter's first axis belongs to: a
        # task's, or one that is never stepped, or one that always is.
        self._row_of = self._task_of_entries()
        if self.names is not None:
            self.shared = []
            alone = self._alone()
            self.own += alone
            self._row_of |= alone
        self.weights: list[nn.Parameter] = []
        if not self.uses_jacobian and not _steps_itself(self.combiner):
            self.weights = list(self.combiner.parameters())
        if not self.shared and not any(
            rows.parameter.requires_grad and len(rows.frozen) < len(rows.names)
            for rows in self._rows
        ):
            raise InvalidInputError(
                "there is nothing to train: every parameter of the model is frozen, by "
                "requires_grad_(False) or head.freeze(task)"
            )
        if settings.accumulate_grad_batches > 1 and _steps_itself(self.combiner):
            raise InvalidInputError(
                f"scalarizer {settings.scalarizer!r} measures each step on its own batch, and "
                f"needs accumulate_grad_batches=1, got {settings.accumulate_grad_batches}"
            )
        # Of batches whose gradients wait for the optimiser's step: the sums of their gradients,
        # which tasks had labels, and how many they are.
        self._waiting: list[Tensor | None] = []
        self._seen: Tensor | None = None
        self._n_waiting = 0
        embeddings: Any = [m for m in model.modules() if isinstance(m, EMBEDDINGS) and m.sparse]
        self._sparse = embeddings if self.uses_jacobian else []
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
        rate = settings.head_learning_rate or HEAD_PACE * settings.learning_rate
        encoder, head = list(model.encoder.parameters()), list(model.head.parameters())
        groups: list[dict[str, Any]] = [
            {"params": encoder, "weight_decay": settings.weight_decay or 0.0},
            {"params": head, "lr": rate},
            {"params": self.weights},
        ]
        for group in groups[:2]:
            group["row_of"] = [self._row_of.get(p) for p in group["params"]]
        if is_sum(self.combiner):
            groups[-1]["row_of"] = [torch.arange(len(self.tasks))]
        optimizer = make_optimizer(settings, [group for group in groups if group["params"]])
        # A trainer of one's own knows how many epochs there are.
        n_epochs = settings.max_epochs or self.trainer.max_epochs
        if n_epochs is None or n_epochs < 1:
            raise InvalidInputError(
                f"max_epochs must be a number of epochs, in the settings or the trainer, "
                f"got {n_epochs}"
            )
        schedule = make_schedule(settings, optimizer, n_epochs)
        return {"optimizer": optimizer} | ({"lr_scheduler": schedule} if schedule else {})

    def _task_of_entries(self) -> dict[nn.Parameter, Tensor]:
        place = {task.name: i for i, task in enumerate(self.tasks)}
        found: dict[nn.Parameter, Tensor] = {}
        for rows in self._rows:
            tasks = torch.tensor([place.get(name, len(place)) for name in rows.names])
            found |= dict.fromkeys(rows.parameters(), tasks[rows.row_of.cpu()])
        return found

    def _alone(self) -> dict[nn.Parameter, Tensor]:
        """Rows of parameters that all tasks share, of which only these tasks see some entries."""
        model, never = self.model, len(self.tasks)
        depends = model.head.dependencies() if isinstance(model.head, Head) else None
        if depends is None:
            return {}
        trained = [i for i, task in enumerate(model.tasks) if task.name in (self.names or ())]
        layer = last_layer(model.encoder)
        by_features = [] if layer is None else list(layer.parameters())
        by_weights = [p for n, p in model.head.named_parameters(recurse=False) if n == "encoding"]
        found: dict[nn.Parameter, Tensor] = {}
        for (task, place), parameters in zip(depends, (by_features, by_weights), strict=True):
            mine = np.isin(task, trained)
            for parameter in parameters:
                alone = torch.zeros(len(parameter), dtype=torch.bool)
                alone[torch.from_numpy(place[mine])] = True
                alone[torch.from_numpy(place[~mine])] = False
                if parameter.requires_grad and bool(alone.any()):
                    found[parameter] = never + alone.long()
        return found

    def on_fit_start(self) -> None:
        """Set regression targets' scales from the training split."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, MultiTaskDataModule):
            set_target_scales(self.model, data.data)

    def on_train_start(self) -> None:
        """Bring the combiner's fixed weights to the device of the losses."""
        move_tensors(self.combiner, self.device)
        if self.names is not None:
            # Running statistics of batches are other tasks', too.
            self.model.encoder.eval()

    def on_train_epoch_start(self) -> None:
        """Seed everything random from the run's seed and the epoch, so that runs resume."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.current_epoch)
        self._epoch_sums = torch.zeros_like(self._epoch_sums, device=self.device)

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """The gradients of a batch, and the optimiser's step, unless more batches belong to it."""
        losses, present, step = self._losses(batch, record=True)
        if not len(losses):
            raise InvalidInputError(f"the batch {batch_index} has no label of any task")
        self.check_present(present, self.global_step)
        for parameter in (*self.shared, *self.own, *self.weights):
            parameter.grad = None
        if not losses.requires_grad:
            # All that these tasks depend on is frozen.
            pass
        elif self.jacobian is None:
            self._scalarize(losses, present)
        else:
            try:
                self.jacobian.aggregate(losses, present, step)
            except ValueError as error:
                raise InvalidInputError(
                    f"aggregator {self.settings.aggregator!r}: {' '.join(str(error).split())}"
                ) from None
        if self.settings.accumulate_grad_batches > 1:
            self._gather(present)
            if not self.trainer.is_last_batch and (
                self._n_waiting < self.settings.accumulate_grad_batches
            ):
                return
            present = self._release()
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.settings.gradient_clip)
        optimizer: Any = self.optimizers()
        optimizer.step(present=self._stepped(present))
        if hasattr(self.combiner, "update"):
            # FAMO measures how the step changed the losses of the same batch.
            with torch.no_grad():
                self.combiner.update(self._losses(batch)[0])

    def _gather(self, present: Tensor | None) -> None:
        """Add the gradients of a batch to those that wait."""
        new = [p.grad for p in (*self.shared, *self.own, *self.weights)]
        mask = self._mask(present)
        if self._n_waiting and self._seen is not None:
            pairs = zip(self._waiting, new, strict=True)
            new = [a if b is None else b if a is None else a + b for a, b in pairs]
            mask |= self._seen
        self._waiting, self._seen = new, mask
        self._n_waiting += 1

    def _release(self) -> Tensor | None:
        """Set the mean of the gradients that wait; the places of tasks with labels, None for all.

        A task's mean is over all batches, those without its labels included.
        """
        assert self._seen is not None
        parameters = (*self.shared, *self.own, *self.weights)
        for parameter, total in zip(parameters, self._waiting, strict=True):
            parameter.grad = None if total is None else total / self._n_waiting
        present = None if bool(self._seen.all()) else self._seen.nonzero().flatten()
        self._waiting, self._seen, self._n_waiting = [], None, 0
        return present

    def _stepped(self, present: Tensor | None) -> Tensor | None:
        """Which rows the optimiser steps, bool (rows,), see `_row_of`; None for all."""
        frozen = {name for rows in self._rows for name in rows.frozen}
        if present is None and not frozen and self.names is None:
            return None
        mask = self._mask(present)
        if frozen:
            mask &= torch.tensor([t.name not in frozen for t in self.tasks], device=self.device)
        if self.names is None:
            return mask
        return torch.cat([mask, torch.tensor([False, True], device=self.device)])

    def _mask(self, present: Tensor | None) -> Tensor:
        mask = torch.zeros(len(self.tasks), dtype=torch.bool, device=self.device)
        mask[slice(None) if present is None else present] = True
        return mask

    def check_present(self, present: Tensor | None, step: int) -> None:
        """Raise if the combiner needs labels of all tasks, and a step has not got them.

        Args:
            present: the places of tasks with labels, int64; None for all.
            step: its number.

        Raises:
            InvalidInputError: naming a task without labels.
        """
        if present is None or not self.needs_all_tasks or len(present) == len(self.tasks):
            return
        there = set(present.tolist())
        absent = [task.name for i, task in enumerate(self.tasks) if i not in there]
        kind, others = (
            ("aggregator", "'upgrad'") if self.uses_jacobian else ("scalarizer", "'mean' or 'uw'")
        )
        raise InvalidInputError(
            f"{kind} {getattr(self.settings, kind)!r} keeps state per task and needs labels of all "
            f"tasks in each step; {absent[0]!r} has none in step {step}. Use larger batches, or "
            f"another {kind} such as {others}"
        )

    def _losses(self, batch: Batch, *, record: bool = False) -> tuple[Tensor, Tensor | None, Any]:
        """Losses of the tasks with labels in the step, and what their Jacobian is taken from.

        A loss is this process's share of the mean over the labels of all processes: values are
        global and gradients local, so that the sum of all gradients is the gradient of the mean.

        Returns:
            Losses, shape (present,); the indices of these tasks, None for all; and what the rows
            of the Jacobian are taken from, if it is wanted and all tasks have the same features.
        """
        targets = self._standardised(batch.targets)
        only = step = None
        if not (batch.complete or self.uses_jacobian):
            only = self._only_task(batch.targets)
        with self._where(batch):
            if only is None:
                logits, step = self._logits(batch, record=record)
            else:
                sums, counts = self._terms_of(only, batch, targets)
        if only is None:
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
            self._scale = self.model.target_scale(self.names)
        mean, std = self._scale
        return (targets - mean) / std

    def _only_task(self, targets: Tensor) -> int | None:
        """The place of the only task with labels in a batch; None if there are several, or none."""
        labelled = self.layout.labelled(targets).any(dim=0)
        return int(labelled.int().argmax()) if int(labelled.sum()) == 1 else None

    def _terms_of(self, only: int, batch: Batch, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss terms of all tasks, of which only one is computed."""
        task = self.tasks[only]
        logits = self.model(self._inputs(batch), [task.name], joined=True)
        own = targets[:, self.layout.column_slices[task.name]]
        place = torch.tensor([only], device=logits.device)
        sums, counts = task_layout((task,)).loss_terms(logits, own)
        zeros = sums.new_zeros(len(self.tasks))
        return zeros.index_copy(0, place, sums), zeros.index_copy(0, place, counts)

    def _inputs(self, batch: Batch) -> Tensor:
        # Data are float32; a float64 model wants its own.
        return batch.inputs.to(self.dtype_of_model)

    def _logits(self, batch: Batch, *, record: bool = False) -> tuple[Tensor, Any]:
        """Joined logits of all tasks, and what the Jacobian's rows are taken from."""
        if record and self.jacobian is not None and self.jacobian.n_groups is not None:
            step = self.jacobian.forward(self._inputs(batch))
            return step.logits, step
        return self.model(self._inputs(batch), self.names, joined=True), None

    @contextmanager
    def _where(self, batch: Batch) -> Iterator[None]:
        """Say in which step a part of the model was given what it cannot take.

        Embeddings whose gradient is sparse have a dense one meanwhile, of which there are rows.
        """
        for embedding in self._sparse:
            embedding.sparse = False
        try:
            yield
        except InvalidInputError as error:
            # Inputs were finite when the data were made: it is the encoder that diverged.
            names = ", ".join(repr(task.name) for task in self.tasks)
            raise InvalidInputError(
                f"tasks {names}, epoch {self.current_epoch + 1}, step {self.global_step}: {error}; "
                f"if the encoder diverged, try a smaller learning rate or gradient_clip"
            ) from None
        except ValueError as error:
            if len(batch.inputs) > 1:
                raise
            raise InvalidInputError(
                f"epoch {self.current_epoch + 1}, step {self.global_step}: the batch has a single "
                f"row, which the model does not take ({error}); use a larger batch_size"
            ) from None
        finally:
            for embedding in self._sparse:
                embedding.sparse = True

    def _check_finite(self, losses: Tensor, present: Tensor | None) -> None:
        if math.isfinite(float(losses.detach().sum())):
            return
        places = range(len(losses)) if present is None else present.tolist()
        for place, loss in zip(places, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                raise QmtlError(
                    f"the loss of task {self.tasks[place].name!r} is {loss} in epoch "
                    f"{self.current_epoch + 1}, step {self.global_step}; try a smaller learning "
                    f"rate or gradient_clip"
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
        for task, total, count in zip(self.tasks, sums, counts, strict=True):
            if count:
                self._record("train", task.name, {"loss": total / count})
        if hasattr(self.combiner, "step"):
            self.combiner.step()
        schedule: Any = self.lr_schedulers()
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            schedule.step(self.trainer.callback_metrics[self.settings.monitor])
        elif schedule is not None:
            schedule.step()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Keep logits and targets; metrics are of the whole split."""
        with self._where(batch):
            self._validation.append((self._logits(batch)[0], batch.targets))

    def on_validation_epoch_end(self) -> None:
        """Losses and metrics of the validation split."""
        parts, self._validation = self._validation, []
        logits, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        scores = joined_scores(self.model, logits, targets, self.names)
        losses = [values["loss"] for values in scores.values() if not math.isnan(values["loss"])]
        mean = sum(losses) / len(losses) if losses else math.nan
        self.log("validation_loss", mean, prog_bar=True, logger=False, batch_size=1)
        for name, values in scores.items():
            self._record("validation", name, values)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row per epoch, split, task and metric, as in `qmtl.Result`."""
        return self._history.rows()

    def _record(self, split: str, task: str, values: Mapping[str, float]) -> None:
        """Into the history, and where Lightning's callbacks find it."""
        for metric, value in values.items():
            self._history.add(self.current_epoch, (split, task, metric), value)
            # Lightning's own log() takes most of a millisecond for each of them.
            self.trainer.callback_metrics[f"{split}/{task}/{metric}"] = torch.tensor(value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the combiner's state and the history."""
        checkpoint["qmtl"] = {
            "version": CHECKPOINT_VERSION,
            "settings": {name: getattr(self.settings, name) for name in STATE_SETTINGS},
            "tasks": self.names,
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
        trained = extra.get("tasks")
        if (None if trained is None else tuple(trained)) != self.names:
            raise ModelFileError(
                f"the checkpoint is of a training of the tasks {trained or 'all'}, not of "
                f"{self.names or 'all'}"
            )
        load_combiner_state(self.combiner, extra["combiner"])
        self._history = History.from_dict(extra["history"])


def set_target_scales(model: MultiTaskModel, data: MultiTaskData) -> None:
    """Set each regression task's mean and standard deviation from the training split."""
    for task in data.tasks:
        if task.kind == "regression":
            targets = data.train.targets[task.name].reshape(len(data.train), -1).double()
            mean = targets.nanmean(0)
            std = (targets - mean).square().nanmean(0).sqrt()
            # A constant has a deviation of rounding errors, which would blow up in the quotient.
            varies = ~(std <= 1e-12 * mean.abs())
            model.set_target_scale(task.name, mean, torch.where(varies, std, 1.0))


def _steps_itself(combiner: nn.Module) -> bool:
    # FAMO owns an optimiser for its logits and must be alone in stepping them.
    return hasattr(combiner, "update")
