"""Checkpoints: the last epoch's, to resume from, and the best epoch's."""

import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

__all__ = [
    "BEST", "LAST", "AtomicCheckpoints", "ResumedSettings", "best_checkpoint", "is_finished",
    "last_checkpoint", "read_checkpoint", "remove_leftovers", "restoring",
]  # fmt: skip

BEST = "best.ckpt"
LAST = "last.ckpt"
"""Name of the file from which a run resumes."""


class _MovableCheckpoint(ModelCheckpoint):
    """Lightning's checkpoint callback for a folder that may have been moved before it resumes."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state as if it had been saved in the folder of today."""
        here = Path(self.dirpath or ".")

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        state = dict(state_dict)
        state["dirpath"] = self.dirpath
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = moved(state[key])
        state["best_k_models"] = {moved(k): v for k, v in state["best_k_models"].items()}
        super().load_state_dict(state)


def best_checkpoint(folder: Path, monitor: str) -> ModelCheckpoint:
    """Keeps the weights of the epoch with the best monitored value; nothing resumes from it."""
    options = {"monitor": monitor, "mode": monitor_mode(monitor), "save_weights_only": True}
    return _checkpoint(folder, BEST, **options)


def last_checkpoint(folder: Path) -> ModelCheckpoint:
    """Keeps the last epoch, with the state of everything a resumed run needs."""
    return _checkpoint(folder, LAST)


def _checkpoint(folder: Path, name: str, **options: Any) -> ModelCheckpoint:
    return _MovableCheckpoint(
        dirpath=folder,
        filename=name.removesuffix(".ckpt"),
        enable_version_counter=False,
        save_on_train_epoch_end=True,
        **options,
    )


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the file that it replaces, and then renames it.

    Lightning writes to the folder for temporary files: where that is another file system, it then
    copies the file over the last good one, which a kill or a full disk would leave in pieces.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write it, atomically."""
        target, content = Path(path), io.BytesIO()
        torch.save({**checkpoint, "digest": _digest(checkpoint)}, content)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, content.getbuffer())
        except OSError as error:
            raise ModelFileError(
                f"checkpoint {target} cannot be written: {error.strerror}; the one before it is as "
                f"it was"
            ) from None


def remove_leftovers(folder: Path) -> None:
    """Remove the beginnings of checkpoints that a killed process has left in a folder."""
    for name in (BEST, LAST):
        for path in folder.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


# What a run may go on with after a change.
RATES = ("learning_rate", "head_learning_rate", "weight_decay", "max_epochs", "patience")


class ResumedSettings(Callback):
    """Gives a run that resumes the learning rates, weight decay, length and patience of today.

    Checkpoints hold those of the run that wrote them, and Lightning puts them back.
    """

    def __init__(self, settings: TrainingSettings, tasks: Sequence[Task]) -> None:
        self.now: dict[str, Any] = {name: getattr(settings, name) for name in RATES}
        self.now["tasks"] = [task.name for task in tasks]
        self.before = self.now
        self.started = False

    def state_dict(self) -> dict[str, Any]:
        """The settings of this run."""
        return self.now

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take note of those of the run that wrote the checkpoint.

        Raises:
            ModelFileError: that run had other tasks, or the same in another order.
        """
        if state_dict["tasks"] != self.now["tasks"]:
            raise ModelFileError(
                f"the checkpoint has the tasks {state_dict['tasks']}, the model {self.now['tasks']}"
            )
        self.before = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Change the optimiser, its schedule and early stopping, where settings have changed."""
        self.started = True
        changed = {name for name in RATES if self.before.get(name) != self.now[name]}
        if changed & {"learning_rate", "head_learning_rate", "weight_decay"}:
            fresh: Any = pl_module.configure_optimizers()
            (optimizer,) = trainer.optimizers
            for group, wanted in zip(
                optimizer.param_groups, fresh["optimizer"].param_groups, strict=True
            ):
                group |= {name: wanted[name] for name in ("lr", "weight_decay")}
                if "initial_lr" in group:
                    group["initial_lr"] = wanted["lr"]
        for config in trainer.lr_scheduler_configs if changed else ():
            if isinstance(config.scheduler, CosineAnnealingLR):
                _restart(config.scheduler, self.now["max_epochs"])
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping) and self.now["patience"] is not None:
                callback.patience = self.now["patience"]


def _restart(schedule: CosineAnnealingLR, epochs: int) -> None:
    """Take the groups' initial rates to zero over so many epochs in all, from where it stands."""
    schedule.T_max = epochs
    schedule.base_lrs = [group["initial_lr"] for group in schedule.optimizer.param_groups]
    for group, base in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = base * (1 + math.cos(math.pi * schedule.last_epoch / epochs)) / 2


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, or an error that says what is wrong with the file.

    Raises:
        ModelFileError: if it is missing, cut short, or not a checkpoint.
    """
    if not path.is_file():
        raise ModelFileError(f"there is no checkpoint {path} to resume from")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load has no error of its own for a damaged file.
        reason = " ".join(str(error).split())[:160]
        raise ModelFileError(f"checkpoint {path} is damaged or cut short: {reason}") from None
    if not isinstance(content, dict) or not isinstance(content.get("qmtl"), dict):
        raise ModelFileError(f"{path} is not a checkpoint of qmtl")
    digest = content.pop("digest", None)
    # Checkpoints of other versions have other errors.
    if content["qmtl"].get("version") == CHECKPOINT_VERSION and digest != _digest(content):
        raise ModelFileError(f"checkpoint {path} was changed after it had been written; train anew")
    return content


def _digest(content: Any) -> str:
    """A hash of everything in a checkpoint, so that a file that was edited is not taken for one."""
    hashed = hashlib.blake2b(digest_size=16)

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            hashed.update(f"{{{len(value)}".encode())
            for key, own in value.items():
                add(key)
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
    """An error before the first step of a run that resumes is the checkpoint's, and is one line."""
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
    """Whether training had ended when this checkpoint was saved: by its epochs, or its patience.

    Lightning does not save that it wanted to stop, and would train another epoch.
    """
    if int(content["epoch"]) + 1 >= settings.n_epochs:
        return True
    waits = [
        state["wait_count"]
        for name, state in content.get("callbacks", {}).items()
        if name.startswith("EarlyStopping") and repr(settings.monitor) in name
    ]
    return settings.patience is not None and any(wait >= settings.patience for wait in waits)
