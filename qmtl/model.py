"""MultiTaskModel: a classical encoder and a head; prediction, saving and loading."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qmtl.encoders import ENCODERS
from qmtl.errors import InvalidInputError, ModelFileError, unknown_name
from qmtl.files import write_bytes, write_json
from qmtl.heads import HEADS, Head
from qmtl.tasks import Task

__all__ = ["MultiTaskModel", "load"]

FORMAT = "qmtl-model"
VERSION = 1


class MultiTaskModel(nn.Module):
    """An encoder and a head: inputs to every task's logits.

    Args:
        encoder: any torch module from inputs to features of shape (batch, head.n_features).
        head: a `QuantumHead`, a linear head, or any module that fits `qmtl.heads.Head`.

    Raises:
        InvalidInputError: if the encoder states another ``out_features`` than the head takes.

    Example:
        >>> import qmtl
        >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a"), qmtl.Task.regression("b")])
        >>> encoder = qmtl.encoders.MLP(10, 8, out_features=circuit.n_features, seed=0)
        >>> model = MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
        >>> {name: tuple(p.shape) for name, p in model.predict(torch.zeros(3, 10)).items()}
        {'a': (3,), 'b': (3,)}
    """

    def __init__(self, encoder: nn.Module, head: Head) -> None:
        super().__init__()
        width = getattr(encoder, "out_features", head.n_features)
        if width != head.n_features:
            raise InvalidInputError(
                f"the encoder gives {width} features, the head takes {head.n_features}"
            )
        if not isinstance(head, nn.Module):
            raise InvalidInputError(f"head must be a torch module, got {type(head).__name__}")
        self.encoder = encoder
        self.head: Any = head
        for task in head.tasks:
            if task.kind == "regression":
                # Targets are standardised on the training split; these take predictions back.
                self.register_buffer(f"target_mean_{task.name}", torch.zeros(task.n_outputs))
                self.register_buffer(f"target_std_{task.name}", torch.ones(task.n_outputs))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in the head's order."""
        tasks: tuple[Task, ...] = self.head.tasks
        return tasks

    def forward(self, inputs: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Logits of the tasks asked for (None: all), each (batch, n_outputs)."""
        logits: dict[str, Tensor] = self.head(self.encoder(inputs), tasks=tasks)
        return logits

    def shared_parameters(self) -> list[nn.Parameter]:
        """The encoder's trainable parameters and the head's shared ones."""
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        return encoder + [p for p in self.head.shared_parameters() if p.requires_grad]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Trainable parameters of one task alone."""
        return [p for p in self.head.task_parameters(task) if p.requires_grad]

    def set_target_scale(self, task: str, mean: Tensor, std: Tensor) -> None:
        """Set a regression task's target mean and standard deviation, one per target."""
        self.get_buffer(f"target_mean_{task}").copy_(mean.reshape(-1))
        self.get_buffer(f"target_std_{task}").copy_(std.reshape(-1))

    def standardise(self, task: Task, targets: Tensor) -> Tensor:
        """Targets as the loss sees them: standardised for a regression, else unchanged."""
        if task.kind != "regression":
            return targets
        mean = self.get_buffer(f"target_mean_{task.name}")
        std = self.get_buffer(f"target_std_{task.name}")
        return ((targets.reshape(len(targets), -1) - mean) / std).reshape(targets.shape)

    def predictions(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities, or values in the targets' units, from logits."""
        result = {}
        for task in self.tasks:
            if task.name not in logits:
                continue
            prediction = task.activation(logits[task.name])
            if task.kind == "regression":
                mean = self.get_buffer(f"target_mean_{task.name}")
                std = self.get_buffer(f"target_std_{task.name}")
                shape = prediction.shape
                prediction = (prediction.reshape(len(prediction), -1) * std + mean).reshape(shape)
            result[task.name] = prediction
        return result

    @torch.no_grad()
    def predict(
        self, inputs: Any, tasks: Sequence[str] | None = None, *, batch_size: int = 256
    ) -> dict[str, Tensor]:
        """Predictions in evaluation mode, in batches.

        Args:
            inputs: tensor or array, first dimension samples.
            tasks: the tasks to predict; None for all.
            batch_size: samples at a time.

        Returns:
            Binary: probability of the positive class, (n,). Multiclass: class probabilities,
            (n, classes). Multilabel: a probability per label, (n, labels). Regression: values in
            the targets' units, (n,) or (n, targets).
        """
        reference = next(self.parameters())
        samples = torch.as_tensor(inputs).to(reference)
        if samples.ndim < 2:
            raise InvalidInputError(
                f"inputs must have samples in the first dimension and at least 2 dimensions, got "
                f"shape {tuple(samples.shape)}"
            )
        was_training = self.training
        self.eval()
        try:
            parts = [
                self.predictions(self(chunk, tasks)) for chunk in samples.split(batch_size)
            ]
        finally:
            self.train(was_training)
        if not parts:
            raise InvalidInputError("inputs must have at least one sample, got none")
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: ``model.safetensors`` and ``model.json``.

        Raises:
            InvalidInputError: for an encoder or head without ``to_dict`` (save its own way).
        """
        from safetensors.torch import save

        from qmtl.version import __version__

        for part, module in (("encoder", self.encoder), ("head", self.head)):
            if not hasattr(module, "to_dict"):
                raise InvalidInputError(
                    f"the {part} {type(module).__name__} has no to_dict(), so its design cannot "
                    f"be saved; give it one, or save state_dict() yourself"
                )
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        write_bytes(folder / "model.safetensors", save(state))
        description = {
            "format": FORMAT,
            "version": VERSION,
            "qmtl": __version__,
            "encoder": self.encoder.to_dict(),
            "head": self.head.to_dict(),
        }
        write_json(folder / "model.json", description)


def load(
    path: str | Path,
    *,
    encoder: nn.Module | None = None,
    custom: Mapping[str, type] | None = None,
) -> MultiTaskModel:
    """Load a model that `MultiTaskModel.save` wrote. No code from the files is run.

    Args:
        path: the folder.
        encoder: the encoder to load weights into, if it is not one of qmtl's.
        custom: classes of your own encodings, ansätze and readouts, by class name.

    Raises:
        ModelFileError: if a file is missing, damaged, or of another version.

    Example:
        >>> import tempfile, qmtl
        >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a")])
        >>> model = MultiTaskModel(qmtl.encoders.Identity(2), qmtl.QuantumHead(circuit))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(folder)
        ...     again = load(folder)
        >>> bool(again(torch.ones(1, 2))["a"] == model(torch.ones(1, 2))["a"])
        True
    """
    folder = Path(path)
    description = _read_description(folder / "model.json")
    state = _read_state(folder / "model.safetensors")
    try:
        if encoder is None:
            kind = description["encoder"]["type"]
            if kind not in ENCODERS:
                raise unknown_name("encoder", kind, ENCODERS)
            encoder = ENCODERS[kind].from_dict(description["encoder"])
        kind = description["head"]["type"]
        if kind not in HEADS:
            raise unknown_name("head", kind, HEADS)
        model = MultiTaskModel(encoder, HEADS[kind].from_dict(description["head"], custom))
    except (KeyError, TypeError) as error:
        raise ModelFileError(f"{folder / 'model.json'}: a part is missing or wrong ({error!r})") from None
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{folder}: weights do not fit the model: {reason}") from None
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelFileError(f"{path.parent} is not a saved model: it has no model.json") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a qmtl model")
    if description.get("version") != VERSION:
        raise ModelFileError(
            f"{path} has format version {description.get('version')} (written by qmtl "
            f"{description.get('qmtl')}); this qmtl reads version {VERSION}"
        )
    return description


def _read_state(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors

    try:
        tensors: dict[str, Tensor] = load_tensors(path.read_bytes())
    except FileNotFoundError:
        raise ModelFileError(f"{path.parent} is not a saved model: no model.safetensors") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged or cut short: {error}") from None
    return tensors
