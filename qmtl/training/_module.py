"""The Lightning module: multi-task training with a scalarizer or an aggregator, and methods."""

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from qmtl._target_scale import label_scale
from qmtl.encoders import TaskEncoder
from qmtl.errors import InvalidInputError, ModelFileError, check_type
from qmtl.methods import Batch, using
from qmtl.model import MultiTaskModel
from qmtl.tasks import chosen_tasks
from qmtl.training._batches import MultiTaskDataModule
from qmtl.training._combine import (
    combiner_state,
    fixed_size,
    has_state,
    is_sum,
    load_combiner_state,
    make_combiner,
    move_tensors,
)
from qmtl.training._evaluate import joined_scores
from qmtl.training._jacobian import n_processes
from qmtl.training._optimizers import (
    TrainedParameters,
    make_optimizer,
    make_schedule,
    planned_epochs,
)
from qmtl.training._result import History
from qmtl.training._settings import HEAD_PACE, TrainingSettings
from qmtl.training._step import TrainingStep

CHECKPOINT_VERSION = 2
# Settings that a resumed run must share; older checkpoints contain only the first five.
SAME_SETTINGS = (
    "optimizer", "schedule", "scalarizer", "aggregator", "monitor", "seed", "batch_size",
    "temperature", "tasks_per_step", "accumulate_grad_batches", "gradient_clip",
)  # fmt: skip


class MultiTaskModule(pl.LightningModule):
    """Trains a `MultiTaskModel` in a Lightning trainer of the caller.

    A task without labels in a step has no loss, and keeps its weights and optimiser state bit for
    bit, in one process and in several: the optimiser steps each task's rows separately.

    Args:
        model: the model to train.
        settings: settings of training.
        tasks: names of the tasks to train; None for all. Parameters that other tasks depend on
            stay equal bit for bit: the encoder's and the head's shared ones, except for entries
            that only the trained tasks use.

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
        self, model: MultiTaskModel, settings: TrainingSettings, tasks: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
            raise InvalidInputError(
                "the encoder has lazy layers that have seen no input; run the model once on a batch"
            )
        self.automatic_optimization = False
        self.model, self.settings = model, settings
        self.names = None if tasks is None else chosen_tasks(tasks, [t.name for t in model.tasks])
        by_name = {task.name: task for task in model.tasks}
        self.tasks = tuple(by_name[name] for name in self.names or by_name)
        n_tasks = len(self.tasks)
        self.uses_jacobian = settings.aggregator is not None
        self.dtype_of_model = next(model.parameters()).dtype
        self.combiner: Any = make_combiner(settings, n_tasks, self.dtype_of_model)
        # FAMO needs the losses of all tasks in each step, and steps its own weights.
        steps_itself = hasattr(self.combiner, "update")
        self.needs_all_tasks = steps_itself or (self.uses_jacobian and fixed_size(self.combiner))
        if settings.accumulate_grad_batches > 1 and steps_itself:
            raise InvalidInputError(
                f"scalarizer {settings.scalarizer!r} measures each step on its own batch, and "
                f"needs accumulate_grad_batches=1, got {settings.accumulate_grad_batches}"
            )
        methods = [
            section.build(model, self.tasks, settings.seed).to(self.dtype_of_model)
            for section in settings.methods().values()
        ]
        self.methods = nn.ModuleList(methods)
        self.trained = TrainedParameters(
            model, self.tasks, only=self.names is not None,
            further=[p for method in methods for p in method.trained()],
        )  # fmt: skip
        fixed = self.uses_jacobian or steps_itself
        self.weights: list[nn.Parameter] = [] if fixed else list(self.combiner.parameters())
        named = dict(zip(settings.methods(), methods, strict=True))
        self.step = TrainingStep(model, settings, self.trained, self.combiner, self.weights, named)
        self._trainable = [p.requires_grad for p in model.parameters()]
        self._stepped = [*self.trained.shared, *self.trained.own, *self.weights]
        # Accumulated batches: sums of gradients, which tasks had labels, number of batches.
        self._waiting: list[Tensor | None] = []
        self._seen: Tensor | None = None
        self._n_waiting = 0
        # Encoders of several modalities whose gradients are scaled to a common magnitude.
        modules: Any = model.encoder.modules()
        self._calibrated = [m for m in modules if getattr(m, "calibrate", False) is True]
        self._history = History()
        # Absent tasks keep their last loss, which DWA uses.
        self.keeps_losses = not self.uses_jacobian and has_state(self.combiner)
        self.register_buffer("last_losses", torch.ones(n_tasks))
        self.step.last_losses = self.last_losses
        self._epoch_sums = torch.zeros(2, n_tasks)
        self._validation: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._reached = False  # whether a step had labels of all tasks
        self._validated = -1  # the last epoch with a validation
        self.logs_epochs = True  # whether the trainer's loggers get the values of each epoch
        self._unlogged: dict[str, float] = {}

    def forward(self, inputs: Tensor, tasks: Sequence[str] | None = None) -> Any:
        """Return the model's logits."""
        return self.model(inputs, tasks)

    def predict_step(self, batch: Any, batch_index: int) -> dict[str, Tensor]:
        """Return the predictions of `MultiTaskModel.predict`; labels in the batch are ignored."""
        inputs = batch[0] if isinstance(batch, tuple | list) else getattr(batch, "inputs", batch)
        return self.model.predict(inputs, self.names)

    def on_before_batch_transfer(self, batch: Any, index: int) -> Any:
        """Refuse batches of other loaders: their regressions have no scale."""
        if not self.trainer.predicting:
            check_type("batch", batch, Batch, "; give the trainer a MultiTaskDataModule")
        return batch

    def configure_optimizers(self) -> Any:
        """Return one optimiser, for the encoder's, the head's and the scalarizer's parameters."""
        settings, model = self.settings, self.model
        rate = settings.head_learning_rate or HEAD_PACE * settings.learning_rate
        kept = model.encoder.undecayed() if isinstance(model.encoder, TaskEncoder) else []
        # A parameter that encoder and head share belongs to the head's group.
        apart = {id(p) for p in (*kept, *model.head.parameters())}
        encoder = [p for p in model.encoder.parameters() if id(p) not in apart]
        groups: list[dict[str, Any]] = [
            {"params": encoder, "weight_decay": settings.weight_decay or 0.0},
            {"params": list(model.head.parameters()), "lr": rate},
            {"params": self.weights},
            {"params": self.trained.further},
            {"params": kept},
        ]
        for group in (*groups[:2], groups[-1]):
            group["row_of"] = [self.trained.row_of.get(p) for p in group["params"]]
        if is_sum(self.combiner):
            groups[2]["row_of"] = [torch.arange(len(self.tasks))]
        optimizer = make_optimizer(settings, [group for group in groups if group["params"]])
        self._n_epochs = planned_epochs(settings, model, self.trainer)
        schedule = make_schedule(settings, optimizer, self._n_epochs)
        return {"optimizer": optimizer} | ({"lr_scheduler": schedule} if schedule else {})

    def setup(self, stage: str) -> None:
        """Refuse precisions that convert whole models and batches, such as ``64-true``."""
        precision = str(self.trainer.precision)
        if precision.endswith("-true") and precision != "32-true":
            raise InvalidInputError(
                f"the trainer's precision must be '32-true' or mixed, got {precision!r}; for "
                "double precision train model.double() with the default precision"
            )

    def on_fit_start(self) -> None:
        """Set the scales of regression targets from the training split; set up the methods."""
        for name, section in self.settings.methods().items():
            if n_processes() > 1 and section.one_process is not None:
                raise InvalidInputError(
                    f"{name} needs one process, the trainer has {n_processes()}: "
                    f"{section.one_process}"
                )
        module = getattr(self.trainer, "datamodule", None)
        if isinstance(module, MultiTaskDataModule):
            train = module.data.train
            if self.names is None or self.model.columns is None:
                self.model.columns = module.data.columns
            for task in module.data.tasks:
                if task.kind == "regression":
                    scale = label_scale(train.targets[task.name], train.sample_weight)
                    self.model.set_target_scale(task.name, *scale)
            for method in using(self.methods, "setup"):
                method.setup(self.step, train)

    def on_train_start(self) -> None:
        """Move the combiner's fixed weights to the device of the losses."""
        move_tensors(self.combiner, self.device)
        self.step.target_scale = None
        if self.names is not None:
            # Running batch statistics affect the other tasks, too.
            self.model.encoder.eval()
            if isinstance(self.model.encoder, TaskEncoder):
                self.model.encoder.train_new_tasks()

    def on_train_epoch_start(self) -> None:
        """Seed all random numbers from the run's seed and the epoch, so that runs can resume."""
        seed = self.settings.seed * 1_000_003 + self.current_epoch
        torch.manual_seed(seed)
        self.step.generator.manual_seed(seed)
        self.step.epoch, self.step.last_losses = self.current_epoch, self.last_losses
        if isinstance(self.model.encoder, TaskEncoder):
            self.model.encoder.start_epoch(min(1.0, (self.current_epoch + 1) / self._n_epochs))
        self._epoch_sums = torch.zeros_like(self._epoch_sums, device=self.device)
        self._follow_freezing()

    def _follow_freezing(self) -> None:
        """Update the trained parameters: callbacks such as `BaseFinetuning` freeze and unfreeze."""
        trainable = [p.requires_grad for p in self.model.parameters()]
        if trainable == self._trainable:
            return
        for parameter in self.model.parameters():
            parameter.grad = None
        self._trainable = trainable
        self.trained = TrainedParameters(
            self.model, self.tasks, only=self.names is not None, further=self.trained.further
        )
        self.step.train(self.trained)
        self._stepped = [*self.trained.shared, *self.trained.own, *self.weights]
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            if "row_of" in group:
                pairs = zip(group["params"], group["row_of"], strict=True)
                group["row_of"] = [self.trained.row_of.get(p, old) for p, old in pairs]

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Compute a batch's gradients; step the optimiser, unless the step needs more batches."""
        self.step.number = self.global_step
        for method in using(self.methods, "change_batch"):
            batch = method.change_batch(batch, self.step)
        losses = self.step.losses(batch)
        present = losses.present
        self._epoch_sums += losses.totals
        if not len(losses.values):
            raise InvalidInputError(f"the batch {batch_index} has no label of any task")
        if self.keeps_losses:
            places = slice(None) if present is None else present
            self.last_losses[places] = losses.values.detach().to(self.last_losses.dtype)
        self.check_present(present, self.global_step)
        self.step.set_gradients(losses)
        if present is None and not self._reached:
            self._reached = True
            self._warn_of_unreached()
        if self.settings.accumulate_grad_batches > 1:
            self._gather(present)
            enough = self._n_waiting >= self.settings.accumulate_grad_batches
            if not enough and not self.trainer.is_last_batch:
                return
            present = self._release()
        for encoder in self._calibrated:
            encoder.calibrate_gradients()
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.settings.gradient_clip)
        optimizer: Any = self.optimizers()
        for method in using(self.methods, "before_step"):
            method.before_step(optimizer.optimizer, self.step)
        optimizer.step(present=self.trained.stepped(present, self.device))
        for method in using(self.methods, "after_step"):
            method.after_step(batch, self.step)
        if hasattr(self.combiner, "update"):
            # FAMO measures how a step changes the losses of the same batch.
            with torch.no_grad():
                self.combiner.update(self.step.losses(batch).values)

    def _warn_of_unreached(self) -> None:
        """Warn of parameters that no gradient reaches, which nothing would train."""
        if isinstance(self.model.encoder, TaskEncoder):  # no task may use some expert
            return
        zeros = (self.step.jacobian.unreached or []) if self.step.jacobian else []
        left = {id(p) for p in (*zeros, *(p for p in self.trained.shared if p.grad is None))}
        names = [name for name, p in self.model.named_parameters() if id(p) in left]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            warnings.warn(
                f"no gradient reaches {', '.join(names[:3])}{more}, which will not be trained: "
                f"either no output depends on them, or they are inside a checkpoint with "
                f"use_reentrant=True, which needs use_reentrant=False here",
                UserWarning,
                stacklevel=2,
            )

    def _gather(self, present: Tensor | None) -> None:
        pairs = zip_longest(self._waiting, [p.grad for p in self._stepped])
        self._waiting = [a if b is None else b if a is None else a + b for a, b in pairs]
        mask = self.trained.mask(present, self.device)
        self._seen = mask if self._seen is None else mask | self._seen
        self._n_waiting += 1

    def _release(self) -> Tensor | None:
        """Replace accumulated gradients by their means; return which tasks had labels.

        The result is None if all tasks had. Every sum is divided by the number of all batches,
        including those without the task's labels.
        """
        assert self._seen is not None
        for parameter, total in zip(self._stepped, self._waiting, strict=True):
            parameter.grad = None if total is None else total / self._n_waiting
        present = None if bool(self._seen.all()) else self._seen.nonzero().flatten()
        self._waiting, self._seen, self._n_waiting = [], None, 0
        return present

    def check_present(self, present: Tensor | None, step: int) -> None:
        """Raise if the combiner needs labels of all tasks, and step `step` does not have them."""
        if present is None or not self.needs_all_tasks or len(present) == len(self.tasks):
            return
        there = present.tolist()
        absent = next(task.name for i, task in enumerate(self.tasks) if i not in there)
        kind, others = (
            ("aggregator", "'upgrad'") if self.uses_jacobian else ("scalarizer", "'mean' or 'uw'")
        )
        raise InvalidInputError(
            f"{kind} {getattr(self.settings, kind)!r} keeps state per task and needs labels of all "
            f"tasks in each step; {absent!r} has none in step {step}. Use larger batches, or "
            f"another {kind} such as {others}"
        )

    def on_train_epoch_end(self) -> None:
        """Record training losses; step the combiner, methods and learning rates once per epoch."""
        sums, counts = self._epoch_sums.tolist()
        for task, total, count in zip(self.tasks, sums, counts, strict=True):
            if count:
                self._record("train", task.name, {"loss": total / count})
        if hasattr(self.combiner, "step"):
            self.combiner.step()
        for method in using(self.methods, "epoch_end"):
            method.epoch_end(self.step)
        for method in using(self.methods, "metrics"):
            for name, values in method.metrics().items():
                self._record("train", name, values)
        for logger in self.trainer.loggers if self.logs_epochs else ():
            finite = {name: v for name, v in self._unlogged.items() if math.isfinite(v)}
            logger.log_metrics({"epoch": self.current_epoch, **finite}, self.global_step)
        self._unlogged = {}
        schedule: Any = self.lr_schedulers()
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            # The trainer may validate in some epochs only.
            if self._validated == self.current_epoch:
                schedule.step(self.trainer.callback_metrics[self.settings.monitor])
        elif schedule is not None:
            schedule.step()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Keep logits and targets, since metrics are computed on the whole split."""
        logits = self.step.evaluated(batch)
        self._validation.append((logits, batch.targets, batch.sample_weight))

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:  # a few batches, before the first epoch
            self._validation = []
            return
        self._validated = self.current_epoch
        self._log_scores("validation")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self.validation_step(batch, batch_index)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, split: str) -> None:
        parts, self._validation = self._validation, []
        logits, targets = (torch.cat(part) for part in zip(*(p[:2] for p in parts), strict=True))
        given = [weights for *_, weights in parts if weights is not None]
        weights = torch.cat(given) if given else None
        scores = joined_scores(self.model, logits, targets, self.names, weights)
        losses = [values["loss"] for values in scores.values() if not math.isnan(values["loss"])]
        mean = sum(losses) / len(losses) if losses else math.nan
        self.log(f"{split}_loss", mean, prog_bar=True, logger=False, batch_size=1)
        for name, values in scores.items():
            if self.trainer.state.fn == "fit":
                self._record(split, name, values)
                continue
            for metric, value in values.items():  # Trainer.validate and Trainer.test return these
                self.log(f"{split}/{name}/{metric}", value, batch_size=1)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row per epoch, split, task and metric, as in `qmtl.Result`."""
        return self._history.rows()

    def history_from(self, first: int) -> list[dict[str, Any]]:
        """Return rows of `history` from number `first` on, without building the earlier ones."""
        return self._history.rows(first)

    def _record(self, split: str, task: str, values: Mapping[str, float]) -> None:
        """Add values to the history and to the metrics that Lightning's callbacks read."""
        for metric, value in values.items():
            self._history.add(self.current_epoch, (split, task, metric), value)
            # Lightning's log() takes most of a millisecond per value.
            self.trainer.callback_metrics[f"{split}/{task}/{metric}"] = torch.tensor(value)
            self._unlogged[f"{split}/{task}/{metric}"] = value

    def _state_settings(self) -> dict[str, Any]:
        return self.settings.model_dump(include={*SAME_SETTINGS, *self.settings.method_sections()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["qmtl"] = {
            "version": CHECKPOINT_VERSION,
            "settings": self._state_settings(),
            "tasks": self.names,
            "combiner": combiner_state(self.combiner),
            "history": self._history.to_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added; raise a ModelFileError if it does not fit."""
        extra = checkpoint.get("qmtl", {})
        if extra.get("version") != CHECKPOINT_VERSION:
            raise ModelFileError(
                f"the checkpoint has version {extra.get('version')}, expected "
                f"{CHECKPOINT_VERSION}: it cannot be resumed by this version of qmtl (version 1 "
                f"kept the optimiser's state by task); train anew"
            )
        for name, given in self._state_settings().items():
            value = extra["settings"].get(name, given if name in SAME_SETTINGS else None)
            chosen = name == "batch_size" and given is None  # from the number of rows
            if value != given and not chosen:
                raise ModelFileError(f"the checkpoint has {name} {value!r}, the settings {given!r}")
        trained = extra.get("tasks")
        if (None if trained is None else tuple(trained)) != self.names:
            raise ModelFileError(
                f"the checkpoint is from training the tasks {trained or 'all'}, not "
                f"{self.names or 'all'}"
            )
        load_combiner_state(self.combiner, extra["combiner"])
        self._history = History.from_dict(extra["history"])
