"""MultiTaskModel: a classical encoder and a head; prediction, saving and loading."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qmtl._io import write_text
from qmtl._model_files import model_card, read_model, write_model
from qmtl.data import TableColumns, as_samples
from qmtl.encoders import ENCODERS
from qmtl.errors import InvalidInputError, ModelFileError, QmtlError, unknown_name
from qmtl.heads import HEADS, Head, TaskRows, escaped, pop_part
from qmtl.tasks import Task, task_layout

__all__ = ["MultiTaskModel", "load"]

# The mean of targets, what rounding took from it, and their standard deviation.
SCALES = ("target_mean", "target_rest", "target_std")


class MultiTaskModel(nn.Module):
    """An encoder and a head: inputs to every task's logits.

    Args:
        encoder: any torch module from inputs to features of shape (batch, head.n_features).
        head: a `QuantumHead`, a linear head, or any other `qmtl.heads.Head`, or a module
            of your own with ``tasks``, ``n_features`` and a call to a dictionary of logits.

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

    def __init__(self, encoder: nn.Module, head: Any) -> None:
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
        # How columns of a data frame become inputs; `qmtl.fit` takes it from the data.
        self.columns: TableColumns | None = None
        # Targets of regressions are standardised on the training split; these take predictions
        # back. They are of all columns of joined targets, and have keys by task in a state. The
        # mean is kept in two parts, which give it float64's digits in a float32 model.
        layout = task_layout(self.tasks)
        self._columns = {
            task.name: layout.column_slices[task.name]
            for task in self.tasks
            if task.kind == "regression"
        }
        for name in SCALES:
            start = torch.ones if name == "target_std" else torch.zeros
            self.register_buffer(name, start(layout.n_columns))
        self.register_state_dict_post_hook(_split_scales)
        self.register_load_state_dict_pre_hook(_join_scales)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in the head's order."""
        return tuple(self.head.tasks)

    def forward(
        self, inputs: Tensor, tasks: Sequence[str] | None = None, *, joined: bool = False
    ) -> Any:
        """Logits of the tasks asked for.

        Args:
            inputs: what the encoder takes, first dimension samples.
            tasks: names of the tasks; None for all.
            joined: whether to return one tensor.

        Returns:
            A dictionary of names to (batch, n_outputs); or one tensor (batch, outputs of these
            tasks side by side), in the order asked for.
        """
        features = self.encoder(inputs)
        return self.logits(features, tasks) if joined else self.head(features, tasks=tasks)

    def logits(self, features: Tensor, tasks: Sequence[str] | None = None) -> Tensor:
        """Logits of the tasks asked for side by side, (batch, outputs), from features.

        Example:
            >>> import qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a"), qmtl.Task.multiclass("b", 3)])
            >>> model = MultiTaskModel(qmtl.encoders.Identity(4), qmtl.QuantumHead(circuit))
            >>> model.logits(torch.zeros(2, 4)).shape
            torch.Size([2, 4])
        """
        if isinstance(self.head, Head):
            joined: Tensor = self.head(features, tasks, joined=True)
            return joined
        logits = self.head(features, tasks=tasks)
        names = [task.name for task in self.tasks] if tasks is None else tasks
        return torch.cat([logits[name] for name in names], dim=1)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that several tasks depend on: the encoder's and the head's shared.

        All parameters of a head that is no `qmtl.heads.Head` count as shared.
        """
        is_ours = isinstance(self.head, Head)
        own = self.head.shared_parameters() if is_ours else self.head.parameters()
        return [p for p in (*self.encoder.parameters(), *own) if p.requires_grad]

    def task_rows(self) -> list[TaskRows]:
        """The head's parameters that belong to tasks, each one parameter of all tasks."""
        return self.head.task_rows() if isinstance(self.head, Head) else []

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
        for name in SCALES:
            setattr(twin, name, getattr(self, name))
        twin.columns = self.columns
        # Not by train(), which would change the encoder that both have.
        twin.training = self.training
        return twin

    def set_target_scale(self, task: str, mean: Tensor, std: Tensor) -> None:
        """Set a regression task's target mean and standard deviation, one per target.

        Raises:
            InvalidInputError: if a mean is not finite, or a deviation not finite and positive, in
                float32; or for no regression task.
        """
        if task not in self._columns:
            raise unknown_name("regression task", task, self._columns)
        columns = self._columns[task]
        buffers: list[Tensor] = [getattr(self, name)[columns] for name in SCALES]
        whole, rest, deviation = buffers
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

    def target_scale(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of joined targets, (columns,), in float64.

        They are 0 and 1 for tasks other than regressions; see `qmtl.tasks.TaskLayout`. On MPS,
        which has no float64, in the model's type.

        Example:
            >>> import qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.regression("a"), qmtl.Task.binary("b")])
            >>> model = MultiTaskModel(qmtl.encoders.Identity(4), qmtl.QuantumHead(circuit))
            >>> model.set_target_scale("a", torch.tensor(5.0), torch.tensor(2.0))
            >>> [value.tolist() for value in model.target_scale()]
            [[5.0, 0.0], [2.0, 1.0]]
        """
        buffers: list[Tensor] = [getattr(self, name) for name in SCALES]
        if buffers[0].device.type != "mps":
            buffers = [buffer.double() for buffer in buffers]
        mean, rest, std = buffers
        return mean + rest, std

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
        mean, std = self.target_scale()
        result = dict(targets)
        for name in self._columns.keys() & targets.keys():
            columns, values = self._columns[name], targets[name]
            wide = values.reshape(len(values), -1)
            result[name] = ((wide - mean[columns]) / std[columns]).reshape(values.shape)
        return result

    def predictions(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities, or values in the targets' units (float64), from logits."""
        mean, std = self.target_scale()
        result = {}
        for task in self.tasks:
            if task.name not in logits:
                continue
            prediction = task.activation(logits[task.name])
            if task.name in self._columns:
                columns, shape = self._columns[task.name], prediction.shape
                wide = prediction.reshape(len(prediction), -1)
                prediction = (wide * std[columns] + mean[columns]).reshape(shape)
            result[task.name] = prediction
        return result

    @torch.no_grad()
    def predict(
        self, inputs: Any, tasks: Sequence[str] | None = None, *, batch_size: int = 256
    ) -> dict[str, Tensor]:
        """Predictions in evaluation mode, in batches.

        Args:
            inputs: tensor or array as the encoder takes them, first dimension samples; or a data
                frame with the columns of the training data, of which a model trained on a table
                makes inputs as in training. Floating inputs take the model's type. Integers stay
                integers, for encoders of tokens, except for qmtl's own encoders, which take numbers
                only.
            tasks: the tasks to predict; None for all.
            batch_size: samples at a time.

        Returns:
            Binary: probability of the positive class, (n,). Multiclass: class probabilities,
            (n, classes). Multilabel: a probability per label, (n, labels). Regression: values in
            the targets' units, float64 (n,) or (n, targets).

        Raises:
            InvalidInputError: if the inputs are not an array of numbers, or do not fit the model.
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
        if self.columns is not None and self.columns.fits(inputs):
            samples = self.columns.encode(inputs)
        else:
            samples = as_samples(inputs)
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
        if self.columns is not None:
            parts["columns"] = self.columns.to_dict()
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
        if "columns" in description:
            model.columns = TableColumns.from_dict(description["columns"])
    except QmtlError as error:
        raise ModelFileError(f"{where}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(repr(error).split())
        raise ModelFileError(f"{where}: a part is missing or wrong ({reason})") from None
    try:
        _take_types(model, state)
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{folder}: weights do not fit the model: {reason}") from None
    return model.eval()


def _take_types(model: MultiTaskModel, state: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers the types of a state: in place, so that tied ones stay tied."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            key = prefix + name
            if isinstance(module, TaskRows):
                (key, *_) = module.keys(prefix)
            elif module is model:
                key = f"{name}_{escaped(next(iter(model._columns), ''))}"
            if key in state:
                tensor.data = tensor.data.to(state[key].dtype)


def _scale_keys(model: MultiTaskModel, prefix: str, name: str) -> dict[str, slice]:
    """The keys that states have in a scale's place, one per task, and each task's columns."""
    return {f"{prefix}{name}_{escaped(task)}": own for task, own in model._columns.items()}


def _split_scales(model: MultiTaskModel, state: dict[str, Any], prefix: str, _: object) -> None:
    for name in SCALES:
        values = state.pop(prefix + name)
        keys = _scale_keys(model, prefix, name)
        state.update((key, values[columns]) for key, columns in keys.items())


def _join_scales(
    model: MultiTaskModel,
    state: dict[str, Any],
    prefix: str,
    metadata: object,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    for name in SCALES:
        keys = _scale_keys(model, prefix, name)
        values = getattr(model, name).clone()
        for key, columns in keys.items():
            values[columns] = pop_part(state, key, values[columns], missing, errors)
        state[prefix + name] = values


def _class(part: str, description: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    kind = description[part]["type"]
    if kind in ("SeparateEncoders", "SeparateHeads"):
        raise InvalidInputError(
            f"version 0.1 saved single-task models side by side, as {kind}; now each is a model of "
            f"its own: train it on data.subset([task]) and save it by itself"
        )
    if kind not in known:
        raise unknown_name(part, kind, known)
    return known[kind]
