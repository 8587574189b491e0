"""MultiTaskModel: a classical encoder and a head; prediction, saving and loading."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qmtl.encoders import ENCODERS
from qmtl.errors import InvalidInputError, ModelFileError, QmtlError, unknown_name
from qmtl.files import write_text
from qmtl.heads import HEADS, Head
from qmtl.heads.features import escaped
from qmtl.model_files import read_model, write_model
from qmtl.tasks import Task
from qmtl.tasks.stacked import stacks_by_shape

__all__ = ["MultiTaskModel", "load"]


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
        for part, module in (("encoder", encoder), ("head", head)):
            if not isinstance(module, nn.Module):
                kind = type(module).__name__
                raise InvalidInputError(f"the {part} must be a torch module, got {kind}")
        width = getattr(encoder, "out_features", head.n_features)
        if width != head.n_features:
            raise InvalidInputError(
                f"the encoder gives {width} features, the head takes {head.n_features}"
            )
        self.encoder: Any = encoder
        self.head: Any = head
        for task in head.tasks:
            if task.kind == "regression":
                # Targets are standardised on the training split; these take predictions back.
                # The mean is kept in two parts, which give it float64's digits in a float32 model.
                key = escaped(task.name)
                self.register_buffer(f"target_mean_{key}", torch.zeros(task.n_outputs))
                self.register_buffer(f"target_rest_{key}", torch.zeros(task.n_outputs))
                self.register_buffer(f"target_std_{key}", torch.ones(task.n_outputs))

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

    def with_simulator(self, simulator: Any) -> "MultiTaskModel":
        """A model with these very parameters and target scales, evaluated by another simulator.

        Args:
            simulator: as `QuantumHead` takes it: a name, or a `Simulator` (noisy, with shots).

        Raises:
            InvalidInputError: if the head is not evaluated by a simulator.

        Example:
            >>> import qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.regression("price")])
            >>> model = MultiTaskModel(qmtl.encoders.Identity(2), qmtl.QuantumHead(circuit, seed=0))
            >>> model.set_target_scale("price", torch.tensor(5e5), torch.tensor(1e5))
            >>> other = model.with_simulator("default.qubit")
            >>> x = torch.ones(1, 2)
            >>> bool(torch.isclose(other.predict(x)["price"], model.predict(x)["price"]))
            True
        """
        if not hasattr(self.head, "with_simulator"):
            kind = type(self.head).__name__
            raise InvalidInputError(f"the head {kind} is not evaluated by a simulator")
        twin = MultiTaskModel(self.encoder, self.head.with_simulator(simulator))
        for name, buffer in self.named_buffers(recurse=False):
            setattr(twin, name, buffer)
        # Not by train(), which would change the encoder that both have.
        twin.training = self.training
        return twin

    def set_target_scale(self, task: str, mean: Tensor, std: Tensor) -> None:
        """Set a regression task's target mean and standard deviation, one per target.

        Raises:
            InvalidInputError: if a mean is not finite, or a deviation not finite and positive, in
                float32.
        """
        whole, rest, deviation = self._scale_buffers(task)
        mean, std = mean.reshape(-1).to(whole.device), std.reshape(-1).to(whole.device)
        # Float32 in a float64 model, too, so that a cast of the model changes nothing.
        rounded, width = mean.float(), std.float()
        if not (rounded.isfinite() & width.isfinite() & (width > 0)).all():
            raise InvalidInputError(
                f"task {task!r}: the targets' means must be finite and their standard deviations "
                f"finite and positive, got {mean.tolist()} and {std.tolist()}"
            )
        whole.copy_(rounded)
        rest.copy_(mean - rounded)
        deviation.copy_(width)

    def _scale_buffers(self, task: str) -> tuple[Tensor, Tensor, Tensor]:
        """The mean, what rounding took from it, and the standard deviation."""
        # Not by get_buffer, whose checks add up over a thousand tasks.
        key = escaped(task)
        return (
            getattr(self, f"target_mean_{key}"),
            getattr(self, f"target_rest_{key}"),
            getattr(self, f"target_std_{key}"),
        )

    def _target_scales(self, tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, (tasks, n), of tasks with n targets each.

        In float64 (on MPS, which has none, in the model's type).
        """
        buffers = zip(*map(self._scale_buffers, tasks), strict=True)
        whole, rest, std = (torch.stack(values) for values in buffers)
        if whole.device.type == "mps":
            return whole + rest, std
        return whole.double() + rest.double(), std.double()

    def standardise(self, task: Task, targets: Tensor) -> Tensor:
        """Targets as the loss sees them: standardised in float64 for a regression, else unchanged.

        `Task.loss_terms` takes them to the type of the logits.
        """
        return self.standardise_all({task.name: targets})[task.name]

    def standardise_all(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`standardise` for several tasks, by name.

        Example:
            >>> import qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.regression("a")])
            >>> model = MultiTaskModel(qmtl.encoders.Identity(2), qmtl.QuantumHead(circuit))
            >>> model.set_target_scale("a", torch.tensor(5.0), torch.tensor(2.0))
            >>> model.standardise_all({"a": torch.tensor([5.0, 9.0])})
            {'a': tensor([0., 2.], dtype=torch.float64)}
        """
        names = [task.name for task in self.tasks if task.kind == "regression"]
        names = [name for name in names if name in targets]
        result = dict(targets)
        for places, stack in stacks_by_shape([targets[name] for name in names]):
            mean, std = self._target_scales([names[i] for i in places])
            wide = stack.reshape(len(places), stack.shape[1], -1)
            values = ((wide - mean.unsqueeze(1)) / std.unsqueeze(1)).reshape(stack.shape)
            result |= zip((names[i] for i in places), values.unbind(), strict=True)
        return result

    def predictions(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities, or values in the targets' units (float64), from logits."""
        result = {}
        for task in self.tasks:
            if task.name not in logits:
                continue
            prediction = task.activation(logits[task.name])
            if task.kind == "regression":
                mean, std = self._target_scales([task.name])
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
            inputs: tensor, array or data frame, first dimension samples. Floating inputs take the
                model's type. Integers stay integers, for encoders of tokens, but for qmtl's own
                encoders, which take numbers only.
            tasks: the tasks to predict; None for all.
            batch_size: samples at a time.

        Returns:
            Binary: probability of the positive class, (n,). Multiclass: class probabilities,
            (n, classes). Multilabel: a probability per label, (n, labels). Regression: values in
            the targets' units, float64 (n,) or (n, targets).

        Raises:
            InvalidInputError: if the inputs are no array of numbers, or do not fit the model.
        """
        samples = self._as_samples(inputs)
        if samples.ndim < 2:
            raise InvalidInputError(
                f"inputs must have samples in the first dimension and at least 2 dimensions, got "
                f"shape {tuple(samples.shape)}"
            )
        if not len(samples):
            raise InvalidInputError("inputs must have at least one sample, got none")
        if batch_size < 1:
            raise InvalidInputError(f"batch_size must be >= 1, got {batch_size}")
        # Module by module: a frozen encoder may be in evaluation mode while the head trains.
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            parts = [self.predictions(self(chunk, tasks)) for chunk in samples.split(batch_size)]
        finally:
            for module, training in modes:
                module.training = training
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _as_samples(self, inputs: Any) -> Tensor:
        reference = next(self.parameters())
        try:
            if hasattr(inputs, "to_numpy"):
                # A data frame's own array may be one that must not be written to.
                inputs = np.array(inputs.to_numpy())
            samples = torch.as_tensor(inputs)
        except (TypeError, ValueError, RuntimeError):
            raise InvalidInputError(
                f"inputs must be an array of numbers with samples in the first dimension, got "
                f"{type(inputs).__name__} that is not numeric or has rows of different lengths"
            ) from None
        if samples.is_floating_point() or isinstance(self.encoder, tuple(ENCODERS.values())):
            return samples.to(reference)
        return samples.to(reference.device)

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: ``model.safetensors`` and ``model.json``.

        Raises:
            InvalidInputError: for an encoder or head without ``to_dict`` (save its own way), or
                if the path is a file's.
        """
        for part, module in (("encoder", self.encoder), ("head", self.head)):
            if not hasattr(module, "to_dict"):
                raise InvalidInputError(
                    f"the {part} {type(module).__name__} has no to_dict(), so its design cannot "
                    f"be saved; give it one, or save state_dict() yourself"
                )
        parts = {"encoder": self.encoder.to_dict(), "head": self.head.to_dict()}
        write_model(path, parts, self.state_dict())

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        title: str = "qmtl model",
        metrics: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """`save`, and a model card (README.md), as model hubs expect a folder.

        Args:
            save_directory: the folder; ``huggingface_hub.upload_folder`` would publish it.
            title: of the card.
            metrics: task → metric → value to show, such as ``result.metrics["test"]``.
        """
        from qmtl.model_card import model_card

        self.save(save_directory)
        card = model_card(self, title=title, metrics=metrics)
        write_text(Path(save_directory) / "README.md", card)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_path: str | Path,
        *,
        encoder: nn.Module | None = None,
        custom: Mapping[str, type] | None = None,
    ) -> "MultiTaskModel":
        """`load`, by the name that model hubs have for it. A local folder; no hub is asked.

        Raises:
            ModelFileError: there is no such folder, or it is damaged.

        Example:
            >>> import tempfile, qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a")])
            >>> model = MultiTaskModel(qmtl.encoders.Identity(2), qmtl.QuantumHead(circuit))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_pretrained(folder)
            ...     MultiTaskModel.from_pretrained(folder).tasks[0].name
            'a'
        """
        if not Path(pretrained_model_path).is_dir():
            raise ModelFileError(
                f"there is no folder {pretrained_model_path}; a model of a hub has to be "
                f"downloaded first, as by huggingface_hub.snapshot_download, which returns its "
                f"folder"
            )
        return load(pretrained_model_path, encoder=encoder, custom=custom)


def load(
    path: str | Path,
    *,
    encoder: nn.Module | None = None,
    custom: Mapping[str, type] | None = None,
) -> MultiTaskModel:
    """Load a model that `MultiTaskModel.save` wrote, in evaluation mode. No code is run.

    Args:
        path: the folder.
        encoder: the encoder to load weights into (in place), if it is not one of qmtl's.
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
    description, state = read_model(folder)
    where = folder / "model.json"
    try:
        if encoder is None:
            encoder = _class("encoder", description, ENCODERS).from_dict(description["encoder"])
        head = _class("head", description, HEADS).from_dict(description["head"], custom)
        model = MultiTaskModel(encoder, head)
    except QmtlError as error:
        raise ModelFileError(f"{where}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(repr(error).split())
        raise ModelFileError(f"{where}: a part is missing or wrong ({reason})") from None
    try:
        # In place, so that tied parameters stay tied and frozen ones frozen.
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in state:
                tensor.data = tensor.data.to(state[name].dtype)
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{folder}: weights do not fit the model: {reason}") from None
    return model.eval()


def _class(part: str, description: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    kind = description[part]["type"]
    if kind not in known:
        raise unknown_name(part, kind, known)
    return known[kind]
