"""Checkpoints: one of the last epoch, to resume from, and one of the best epoch."""

import hashlib
import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from qmtl._io import write_bytes
from qmtl.errors import ModelFileError, QmtlError
from qmtl.tasks import Task
from qmtl.training._module import CHECKPOINT_VERSION
from qmtl.training._settings import TrainingSettings, monitor_mode

BEST = "best.ckpt"
LAST = "last.ckpt"
"""Name of the file from which a run resumes."""


class _MovableCheckpoint(ModelCheckpoint):
    """Lightning's checkpoint callback, for a folder that may move before a run resumes."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = Path(self.dirpath or ".")

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        state = state_dict | {key: moved(state_dict[key]) for key in paths}
        state["dirpath"] = self.dirpath
        state["best_k_models"] = {moved(k): v for k, v in state["best_k_models"].items()}
        super().load_state_dict(state)


def last_checkpoint(folder: Path, name: str = LAST, **options: Any) -> ModelCheckpoint:
    """Return a callback that keeps the last epoch, with all that a resumed run needs."""
    return _MovableCheckpoint(
        dirpath=folder,
        filename=name.removesuffix(".ckpt"),
        enable_version_counter=False,
        save_on_train_epoch_end=True,
        **options,
    )


def best_checkpoint(folder: Path, monitor: str, others: Sequence[Callback] = ()) -> ModelCheckpoint:
    """Return a callback that keeps the weights of the epoch with the best monitored value.

    Callbacks of the user (`others`) may save averaged or pruned weights. Lightning calls them only
    for checkpoints that hold more than weights.
    """
    changed = any(type(c).on_save_checkpoint is not Callback.on_save_checkpoint for c in others)
    options = {"monitor": monitor, "mode": monitor_mode(monitor), "save_weights_only": not changed}
    return last_checkpoint(folder, BEST, **options)


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a new file beside the old one, and then renames it.

    Lightning writes to the system's temporary folder first. If this is another file system, a kill
    or a full disk can damage the last good checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        target, content = Path(path), io.BytesIO()
        torch.save({**checkpoint, "digest": _digest(checkpoint)}, content)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, content.getbuffer())
        except OSError as error:
            raise ModelFileError(
                f"checkpoint {target} cannot be written: {error.strerror}; the previous one is "
                f"unchanged"
            ) from None


def remove_leftovers(folder: Path) -> None:
    """Remove partly written checkpoints that a killed process left in a folder."""
    for name in (BEST, LAST):
        for path in folder.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


# Settings that may differ when a run resumes.
RATES = ("learning_rate", "head_learning_rate", "weight_decay", "max_epochs", "patience")


class ResumedSettings(Callback):
    """Lets a resumed run use new learning rates, weight decay, number of epochs and patience.

    Without this callback, Lightning restores the values of the run that wrote the checkpoint.
    """

    def __init__(self, settings: TrainingSettings, tasks: Sequence[Task]) -> None:
        self.now: dict[str, Any] = {name: getattr(settings, name) for name in RATES}
        self.now["tasks"] = [task.name for task in tasks]
        self.before = self.now
        self.started = False

    def state_dict(self) -> dict[str, Any]:
        return self.now

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["tasks"] != self.now["tasks"]:
            raise ModelFileError(
                f"the checkpoint has the tasks {state_dict['tasks']}, the model {self.now['tasks']}"
            )
        self.before = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = True
        changed = {name for name in RATES if self.before.get(name) != self.now[name]}
        if changed & {"learning_rate", "head_learning_rate", "weight_decay"}:
            fresh: Any = pl_module.configure_optimizers()
            groups = [o.param_groups for o in (*trainer.optimizers, fresh["optimizer"])]
            for group, wanted in zip(*groups, strict=True):
                group |= {name: wanted[name] for name in ("lr", "weight_decay")}
                if "initial_lr" in group:
                    group["initial_lr"] = wanted["lr"]
        for config in trainer.lr_scheduler_configs if changed else ():
            if isinstance(config.scheduler, CosineAnnealingLR):
                _restart(config.scheduler, self.now["max_epochs"])
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping) and self.now["patience"] is not None:
                callback.patience = self.now["patience"]


class TimeSpent(Callback):
    """Counts a run's seconds, including the earlier sessions of a resumed run.

    A session counts up to its last checkpoint, from which the next one continues.
    """

    def __init__(self) -> None:
        self.before, self.started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.before = state_dict["seconds"]


def _restart(schedule: CosineAnnealingLR, epochs: int) -> None:
    """Continue the schedule at its epoch, so that rates reach zero after `epochs` in all."""
    schedule.T_max = epochs
    schedule.base_lrs = [group["initial_lr"] for group in schedule.optimizer.param_groups]
    for group, base in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = base * (1 + math.cos(math.pi * schedule.last_epoch / epochs)) / 2


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, or raise a ModelFileError that says what is wrong with the file."""
    if not path.is_file():
        raise ModelFileError(f"there is no checkpoint {path} to resume from")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load has no special error for a damaged file.
        reason = " ".join(str(error).split())[:160]
        raise ModelFileError(f"checkpoint {path} is damaged or cut short: {reason}") from None
    if not isinstance(content, dict) or not isinstance(content.get("qmtl"), dict):
        raise ModelFileError(f"{path} is not a checkpoint of qmtl")
    digest = content.pop("digest", None)
    # For checkpoints of other versions, a later check raises a better error.
    if content["qmtl"].get("version") == CHECKPOINT_VERSION and digest != _digest(content):
        raise ModelFileError(f"checkpoint {path} was changed after it had been written; train anew")
    return content


def _digest(content: Any) -> str:
    """Hash a checkpoint's content, to detect a file that was edited."""
    hashed = hashlib.blake2b(digest_size=16)

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            hashed.update(f"{{{len(value)}".encode())
            for own in chain.from_iterable(value.items()):
                add(own)
        elif isinstance(value, list | tuple):
            hashed.update(f"[{len(value)}".encode())
            for own in value:
                add(own)
        elif isinstance(value, Tensor):
            hashed.update(f"{value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            hashed.update(flat.view(torch.uint8).numpy().tobytes())
        else:
            hashed.update(f"{value!r};".encode())

    add(content)
    return hashed.hexdigest()


@contextmanager
def restoring(path: Path | None, resumed: ResumedSettings) -> Iterator[None]:
    """Turn an error before a resumed run's first step into a ModelFileError for its checkpoint."""
    try:
        yield
    except QmtlError:
        raise
    except Exception as error:
        if path is None or resumed.started:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelFileError(f"checkpoint {path} does not fit this run: {reason}") from None


def is_finished(content: dict[str, Any], settings: TrainingSettings) -> bool:
    """Return whether `max_epochs` or `patience` had ended training at this checkpoint.

    Lightning does not save that patience ended it, and would train another epoch.
    """
    if int(content["epoch"]) + 1 >= settings.n_epochs:
        return True
    return settings.patience is not None and any(
        state["wait_count"] >= settings.patience
        for name, state in content["callbacks"].items()
        if name.startswith("EarlyStopping") and repr(settings.monitor) in name
    )
