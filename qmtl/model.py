"""MultiTaskModel: an encoder and a head, with prediction, saving and loading."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qmtl._calls import evaluating
from qmtl._growth import features_for, grown_encoder, grown_head, larger_model, logits_by_parts
from qmtl._io import write_text
from qmtl._model_export import check_samples, example_inputs, export_program, model_samples
from qmtl._model_files import (
    check_parts,
    check_plain,
    described,
    errors_of_file,
    local_folder,
    model_card,
    read_parts,
    take_types,
    write_model,
)
from qmtl._target_scale import TargetScale, join_scale, split_scale
from qmtl.data import TableColumns
from qmtl.encoders import ENCODERS
from qmtl.errors import InvalidInputError, as_path, check_integer
from qmtl.heads import HEADS, Head, Loading, TaskRows
from qmtl.tasks import Task, chosen_tasks

__all__ = ["MultiTaskModel", "load"]


class MultiTaskModel(nn.Module):
    """An encoder and a head: from inputs to every task's logits.

    Args:
        encoder: any torch module from inputs to features of shape (batch, head.n_features).
        head: a `QuantumHead`, a linear head, or any other `qmtl.heads.Head`; or your own module
            with attributes ``tasks`` and ``n_features``, whose call returns a dictionary of logits.

    Raises:
        InvalidInputError: if the encoder's ``out_features`` is not the head's number of features.

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
        check_parts(encoder, head)
        self.encoder: Any = encoder
        self.head: Any = head
        self._columns: TableColumns | None = None
        # True once `columns` was set, even to None (for data without a table).
        self._knows_columns = False
        self.scale = TargetScale(self.tasks)
        self.register_state_dict_post_hook(split_scale)
        Loading.before(self, join_scale)

    @property
    def columns(self) -> TableColumns | None:
        """How the columns of a data frame become inputs; None if inputs are taken as they are.

        Training sets it from the data. After a loop of your own, set it to ``data.columns``.
        """
        return self._columns

    @columns.setter
    def columns(self, columns: TableColumns | None) -> None:
        self._columns, self._knows_columns = columns, True

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in the head's order."""
        return tuple(self.head.tasks)

    def forward(
        self, inputs: Tensor, tasks: Sequence[str] | None = None, *, joined: bool = False
    ) -> Any:
        """Return the logits of a batch of inputs; other arguments as for `qmtl.heads.Head`."""
        features = features_for(self.encoder, self.head, inputs, tasks)
        return self.logits(features, tasks) if joined else self.head(features, tasks=tasks)

    def logits(self, features: Tensor, tasks: Sequence[str] | None = None) -> Tensor:
        """Return the requested tasks' logits side by side, (batch, outputs), from features."""
        if isinstance(self.head, Head):
            joined: Tensor = self.head(features, tasks, joined=True)
            return joined
        names = chosen_tasks(tasks, [task.name for task in self.tasks])
        logits = self.head(features, tasks=None if tasks is None else names)
        return torch.cat([logits[name] for name in names], dim=1)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters of encoder and head that several tasks depend on.

        If the head is not a `qmtl.heads.Head`, all of its parameters count as shared.
        """
        is_ours = isinstance(self.head, Head)
        own = self.head.shared_parameters() if is_ours else self.head.parameters()
        return [p for p in (*self.encoder.parameters(), *own) if p.requires_grad]

    def task_rows(self) -> list[TaskRows]:
        """Return the head's parameters that belong to tasks; each holds the values of all tasks."""
        return self.head.task_rows() if isinstance(self.head, Head) else []

    def with_simulator(self, simulator: Any) -> "MultiTaskModel":
        """Return a model that shares parameters and target scales, with another simulator.

        The simulator is a name, or a `Simulator` (noisy, with shots), as for `QuantumHead`.

        Raises:
            InvalidInputError: if the head cannot change its simulator.

        Example:
            >>> import qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.regression("price")])
            >>> model = MultiTaskModel(qmtl.encoders.Identity(2), qmtl.QuantumHead(circuit, seed=0))
            >>> found = model.with_simulator("default.qubit").predict(torch.ones(1, 2))["price"]
            >>> bool(torch.isclose(found, model.predict(torch.ones(1, 2))["price"]))
            True
        """
        if not hasattr(self.head, "with_simulator"):
            kind = type(self.head).__name__
            hint = getattr(self.head, "instead", "")
            raise InvalidInputError(f"the head {kind} cannot change its simulator{hint}")
        twin = MultiTaskModel(self.encoder, self.head.with_simulator(simulator))
        twin.scale = self.scale
        twin.columns = self.columns
        # train() would change the encoder that both models share.
        twin.training = self.training
        return twin

    def with_task(
        self,
        task: Task,
        *,
        encoder: nn.Module | None = None,
        seed: int | None = None,
        wires: int | None = None,
        ansatz: Any = None,
        readout: Any = None,
    ) -> "MultiTaskModel":
        """Return a model with one more task; its predictions of the other tasks stay the same.

        The other tasks' parameters are copied bit for bit. With a `QuantumHead` whose tasks have
        their own registers, so are their numbers from `predict`, on a CPU until the model has grown
        15 times (after that, and for logits and other heads, up to rounding). No gate joins the new
        task's wires with others, and its features are new outputs of the encoder's last layer.
        ``qmtl.fit(model, data, tasks=[task.name])`` then trains only what belongs to the new task.

        Args:
            task: the new task, which comes last.
            encoder: an encoder whose first features are those of the present one; None widens a
                copy of the present one, which must end in a linear layer.
            seed: seed of the new initial weights; None draws it from torch's global generator.
            wires, ansatz, readout: number of wires, block and readout of the new task; None for
                the defaults.

        Raises:
            InvalidInputError: for a head that cannot grow, an encoder that cannot be widened, or a
                name that a task already has.

        Example:
            >>> import qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a")])
            >>> encoder = qmtl.encoders.MLP(10, 8, out_features=circuit.n_features, seed=0)
            >>> model = MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
            >>> larger = model.with_task(qmtl.Task.multiclass("b", 3), seed=1)
            >>> x = torch.ones(1, 10)
            >>> found = larger.predict(x)
            >>> list(found), bool(torch.isclose(found["a"], model.predict(x)["a"]))
            (['a', 'b'], True)
        """
        for part, module in (("encoder", self.encoder), ("head", self.head)):
            check_plain(part, module, "grow")
        head = grown_head(self.head, task, seed, wires=wires, ansatz=ansatz, readout=readout)
        if encoder is None:
            encoder = grown_encoder(self.encoder, self.head, head, seed)
        larger: MultiTaskModel = larger_model(MultiTaskModel, self, encoder, head)
        return larger

    def adapt(
        self,
        new_task: Task,
        data: Any,
        *,
        sample_weight: Any = None,
        methods: Sequence[str] = ("ridge", "logistic", "smart", "block", "vector"),
        seed: int = 0,
    ) -> "MultiTaskModel":
        """Return a model with one more task, learned in a second or so; no other output changes.

        The encoder and the circuit do not change. ``ridge``, ``logistic`` and ``smart`` (spectral
        transfer, which needs fewest labels) fit a linear layer on all Z-strings of the trained
        circuit's registers. ``block`` trains a block for the new task, ``vector`` a vector if the
        head computes its blocks (`MixtureHead`, `HyperHead`). Cross-validation chooses among them;
        ``model.head.notes[new_task.name]`` has the choice and the scores. To train the new outputs
        together with the others, use `with_task` and `qmtl.fit`.

        Args:
            new_task: the new task, which comes last.
            data: a pair of inputs, as `predict` takes them, and labels; or `MultiTaskData` with a
                task of that name, of which the train and validation rows and weights are used.
            sample_weight: weight of each row of a pair; None for 1 each.
            methods: the methods to choose from.
            seed: seed of the folds and of initial weights.

        Raises:
            InvalidInputError: for a head that is not from `qmtl.heads`, a name that a task already
                has, data from another table or with another task, or labels from which nothing can
                be learned.
            QmtlError: if an output of another task changed, which is checked on the data.

        Example:
            >>> import qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a")])
            >>> encoder = qmtl.encoders.MLP(10, 8, out_features=circuit.n_features, seed=0)
            >>> model = MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
            >>> x = torch.randn(60, 10, generator=torch.Generator().manual_seed(0))
            >>> labels = (model.predict(x)["a"] > 0.5).float()
            >>> larger = model.adapt(qmtl.Task.binary("b"), (x, labels))
            >>> larger.head.notes["b"]["rows"], list(larger.predict(x))
            (60, ['a', 'b'])
        """
        from qmtl.adaptation import adapted

        options: dict[str, Any] = {"methods": methods, "seed": seed, "make": MultiTaskModel}
        larger: MultiTaskModel = adapted(self, new_task, data, sample_weight, **options)
        return larger

    def set_target_scale(self, task: str, mean: Tensor | float, std: Tensor | float) -> None:
        """Set a regression task's target mean and deviation; see `TargetScale.set` for errors."""
        self.scale.set(task, mean, std)

    def target_scale(self, tasks: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations of the tasks' joined targets, (columns,), float64.

        For tasks other than regressions they are 0 and 1; see `qmtl.tasks.TaskLayout`.

        Example:
            >>> import qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.regression("a"), qmtl.Task.binary("b")])
            >>> model = MultiTaskModel(qmtl.encoders.Identity(4), qmtl.QuantumHead(circuit))
            >>> model.set_target_scale("a", mean=5.0, std=2.0)
            >>> [value.tolist() for value in model.target_scale()]
            [[5.0, 0.0], [2.0, 1.0]]
        """
        scale: tuple[Tensor, Tensor] = self.scale(tasks)
        return scale

    def standardise(self, task: Task, targets: Tensor) -> Tensor:
        """Standardise a regression's targets in float64; leave other targets unchanged."""
        return self.scale.standardised(task.name, targets)

    def predictions(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return probabilities, or values in the targets' units (float64), from logits."""
        return {
            task.name: self.scale.restored(task.name, task.activation(logits[task.name]))
            for task in self.tasks
            if task.name in logits
        }

    @torch.no_grad()
    def predict(
        self, inputs: Any, tasks: Sequence[str] | None = None, *, batch_size: int = 256
    ) -> dict[str, Tensor]:
        """Predict in evaluation mode, in batches.

        Args:
            inputs: a tensor or array for the encoder, whose first dimension is the batch; or a data
                frame with the columns of the training data, for a model trained on a table.
                Floating inputs are converted to the model's type. Integers stay integers, for
                encoders of tokens, except for qmtl's own encoders, which only take floats.
            tasks: the tasks to predict; None for all.
            batch_size: number of samples at a time.

        Returns:
            For a binary task, the probability of the positive class, (n,). Multiclass: class
            probabilities, (n, classes). Multilabel: a probability per label, (n, labels).
            Regression: values in the targets' units, float64 (n,) or (n, targets).

        Raises:
            InvalidInputError: if the inputs are not an array of numbers, or do not fit the model.

        Warns:
            UserWarning: a data frame has categories that training has not seen.
        """
        names = None if tasks is None else chosen_tasks(tasks, [task.name for task in self.tasks])
        samples = self.as_samples(inputs)
        check_samples(samples)
        parts = []
        with evaluating(self):
            for chunk in samples.split(check_integer("batch_size", batch_size)):
                logits = logits_by_parts(self.encoder, self.head, chunk, names)
                parts.append(self.predictions(self(chunk, names) if logits is None else logits))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def features(self, inputs: Any, *, batch_size: int = 256) -> Tensor:
        """Return features in evaluation mode, (batch, n_features); arguments as for `predict`."""
        chunks = self.as_samples(inputs).split(check_integer("batch_size", batch_size))
        with evaluating(self):
            return torch.cat([self.encoder(chunk) for chunk in chunks])

    def as_samples(self, inputs: Any) -> Tensor:
        """Return inputs as the encoder takes them; see `predict`, which does this by itself."""
        return model_samples(self, inputs, knows_columns=self._knows_columns)

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: ``model.safetensors`` and ``model.json``.

        Your own parts can be saved, too. Encodings, ansätze and readouts must be frozen
        dataclasses. Encoders and heads must have a method ``to_dict()``, which returns a
        description that JSON can hold, with the class's name as ``"type"``, and a class method
        ``from_dict(description)``. `load` then takes these classes as ``parts=[...]``.

        Raises:
            InvalidInputError: for a part that could not be loaded again, such as your own simulator
                (use ``with_simulator("lightcone")`` first), or if the path is a file.
        """
        parts: dict[str, Any] = {
            "encoder": described("encoder", self.encoder, ENCODERS),
            "head": described("head", self.head, HEADS),
        }
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
        """Save the model with a model card (README.md), in the form that model hubs expect.

        Args:
            save_directory: the folder; ``huggingface_hub.upload_folder`` can publish it.
            title: title of the card.
            metrics: metrics to show, task → metric → value, such as ``result.metrics["test"]``.
        """
        card = model_card(self, title=title, metrics=metrics)
        self.save(save_directory)
        write_text(as_path(save_directory) / "README.md", card)

    def export(self, path: str | Path, *, inputs: Any = None) -> None:
        """Write the model for inference, from inputs to predictions, which runs without qmtl.

        The circuit is written as real matrices that contain the trained weights; `load` cannot read
        such a file. There is one output per task, with its name: what `predict` returns, for any
        number of rows. Inputs are those of the encoder, as from `TableColumns.encode`. The file
        holds tasks, classes, the shape of the inputs, and a table's ``columns``, as JSON.

        A ``.onnx`` file runs in onnxruntime and others; the input is named ``inputs``, and the JSON
        is the model's metadata ``qmtl``. A ``.pt2`` file runs by
        ``torch.export.load(path).module()``; the JSON is the extra file qmtl.json.

        Args:
            path: the file to write.
            inputs: example inputs, as for `predict`; None for encoders with an attribute
                ``in_features``, and for qmtl's CNN.

        Raises:
            CircuitTooLargeError: if the matrices are too large; see `qmtl.simulators.FixedCircuit`.
            InvalidInputError: for an encoder that torch cannot export, a simulator that is not
                exact, or another suffix.
            MissingDependencyError: if onnx or onnxscript are not installed.

        Example:
            >>> import tempfile, qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a")])
            >>> model = MultiTaskModel(qmtl.encoders.Identity(2), qmtl.QuantumHead(circuit, seed=0))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.export(f"{folder}/model.pt2")
            ...     program = torch.export.load(f"{folder}/model.pt2").module()
            >>> x = torch.ones(3, 2)
            >>> bool(torch.isclose(program(x)["a"], model.predict(x)["a"]).all())
            True
        """
        if inputs is None:
            samples = example_inputs(self.encoder, next(self.parameters()))
        else:
            samples = self.as_samples(inputs)
        export_program(self, path, samples)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_path: str | Path,
        *,
        encoder: nn.Module | None = None,
        parts: Sequence[type] = (),
    ) -> "MultiTaskModel":
        """Load a model from a local folder: `load` under the name that model hubs use.

        No hub is asked.

        Raises:
            ModelFileError: if there is no such folder, or it is damaged.
        """
        return load(local_folder(pretrained_model_path), encoder=encoder, parts=parts)


def load(
    path: str | Path, *, encoder: nn.Module | None = None, parts: Sequence[type] = ()
) -> MultiTaskModel:
    """Load a model that `MultiTaskModel.save` wrote, in evaluation mode. No code is run.

    Args:
        path: the folder.
        encoder: the encoder to load weights into (in place), if it has no ``from_dict``.
        parts: your own classes: encoder, head, encodings, ansätze and readouts.

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
    folder = as_path(path)
    encoder, head, columns, state = read_parts(folder, encoder, parts)
    with errors_of_file(folder):
        model = MultiTaskModel(encoder, head)
        model.columns = columns
        take_types(model, state)
        model.load_state_dict(state)
    return model.eval()
