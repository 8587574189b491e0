"""Checkpoints: the last epoch's, to resume from, and that of the best validation loss."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from qmtl.errors import ModelFileError
from qmtl.training._settings import TrainingSettings

__all__ = ["BEST", "LAST", "best_checkpoint", "is_finished", "last_checkpoint", "read_checkpoint"]

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


def best_checkpoint(folder: Path) -> ModelCheckpoint:
    """Keeps the weights of the epoch with the best validation loss; nothing resumes from it."""
    options = {"monitor": "validation_loss", "mode": "min", "save_weights_only": True}
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
    if not isinstance(content, dict) or "qmtl" not in content:
        raise ModelFileError(f"{path} is not a checkpoint of qmtl")
    return content


def is_finished(content: dict[str, Any], settings: TrainingSettings) -> bool:
    """Whether training had ended when this checkpoint was saved: by its epochs, or its patience.

    Lightning does not save that it wanted to stop, and would train another epoch.
    """
    if int(content["epoch"]) + 1 >= settings.max_epochs:
        return True
    waits = [
        state["wait_count"] >= state["patience"]
        for name, state in content["callbacks"].items()
        if name.startswith("EarlyStopping")
    ]
    return any(waits)
