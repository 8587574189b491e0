"""QuantumHead: a head circuit as a torch module."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError, check_integer
from qmtl.heads._generated import GeneratedBlocks
from qmtl.heads._head import HALVES, CircuitHead, check_features
from qmtl.heads._initial import all_blocks, circuit_weights, drawn_seed
from qmtl.heads._linear import task_columns
from qmtl.heads._task_rows import TaskRows
from qmtl.simulators import (
    ANGLE_MAPS,
    Dependencies,
    Explanation,
    Simulator,
    by_task,
    check_finite,
    output_layout,
    to_logits,
)
from qmtl.tasks import chosen_tasks

INITIAL_SCALE = {False: 5.0, True: 1.0}


class QuantumHead(CircuitHead):
    r"""A fully quantum multi-task head: from features to each task's logits.

    Features become angles ``π/4·tanh(features / 4)``, which the circuit's shared encoding loads. A
    task's logits are values measured on the task's register times one trainable scale: ``s·⟨Z⟩`` (s
    starts at 5), or ``s·log(p + 1e-6)`` for basis-state probabilities (s starts at 1). There is no
    linear layer.

    A head for more tasks can load the state of a head for fewer tasks with ``strict=False``. If the
    circuits have different wires, remove ``encoding`` from that state.

    Args:
        circuit: the circuit to run.
        simulator: ``"lightcone"`` (exact, the default), the name of a PennyLane device, or a
            `Simulator`.
        angle_map: ``"narrow"``: ``π/4·tanh(features / 4)``, so that outputs start nearly linear in
            the features. ``"tanh"``: ``π·tanh(features / 2)``, which covers a whole period.
            ``"identity"``: features already are angles in radians.
        seed: seed of the initial weights. Each task has a separate random generator, so that a new
            task does not change other tasks' weights. None draws the seed from torch's global
            generator.
        initial: initial weights of the blocks, see `qmtl.heads.block_weights`. ``"equator"``: at
            the steepest slope of ⟨Z⟩, or ``"uniform"`` if the block allows no such start.
            ``"normal"``: N(0, 0.5²). ``"uniform"``: U(0, 2π). The encoding starts with N(0, 0.1²).
        frozen: (for ablations) whether the circuit's weights keep their random initial values, so
            that only the scales, and the encoder before the head, are trained.
        like: a head of the same circuit whose parameters this head shares; see `with_simulator`.

    Shape:
        features ``(batch, circuit.n_features)`` to ``{task: (batch, n_outputs)}``.

    Attributes:
        encoding: the encoding's weights, one flat parameter.
        blocks: `TaskRows` of all tasks' block weights, or a module that computes these weights.
        scales: `TaskRows` of all tasks' scales.

    Raises:
        InvalidInputError: by a call with features of another width, NaN, or unknown tasks.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("cola"), Task.multiclass("emotion", 9)])
        >>> head = QuantumHead(circuit, seed=0)
        >>> {name: tuple(logits.shape) for name, logits in head(torch.zeros(3, 6)).items()}
        {'cola': (3, 1), 'emotion': (3, 9)}

    References:
        Cowlessur, Thapa, Alpcan and Camtepe, arXiv:2604.13560.
    """

    checks_values = False
    settings: tuple[str, ...] = ("frozen",)
    """Names of the attributes that are saved with the head, other than the circuit."""
    encoding: nn.Parameter
    blocks: TaskRows | GeneratedBlocks
    scales: TaskRows

    def __init__(
        self,
        circuit: HeadCircuit,
        simulator: str | Simulator = "lightcone",
        *,
        angle_map: str = "narrow",
        seed: int | None = None,
        initial: str = "equator",
        frozen: bool = False,
        like: "QuantumHead | None" = None,
    ) -> None:
        super().__init__(getattr(circuit, "tasks", ()), circuit, simulator, angle_map)
        self.frozen = frozen
        if like is not None:
            self.encoding, self.blocks, self.scales = like.encoding, like.blocks, like.scales
            return
        seed = drawn_seed(seed)
        weights = circuit_weights(seed, "encoding", circuit.n_encoding_weights)
        scales = {
            name: torch.tensor(INITIAL_SCALE[bool(register.readout.is_probability)])
            for name, register in circuit.registers.items()
        }
        # DistributedDataParallel waits for the gradient of every trainable parameter, empty or not.
        self.encoding = nn.Parameter(weights, requires_grad=len(weights) > 0)
        self.blocks = self._make_blocks(seed, initial)
        self.scales = TaskRows(scales)
        if frozen:
            self.encoding.requires_grad_(False)
            self.blocks.requires_grad_(False)

    def _make_blocks(self, seed: int, initial: str) -> TaskRows | GeneratedBlocks:
        """Make the module of the block weights; subclasses may override this method."""
        return TaskRows(all_blocks(seed, self.circuit, initial))

    def weights(self) -> dict[str, Tensor]:
        """Return the circuit weights, flat and in gate order: ``"encoding"`` and each task's.

        The weights are views of the parameters, except for blocks that a head computes.
        """
        return {"encoding": self.encoding, **self.blocks.by_name()}

    def _joined(self, features: Tensor, names: tuple[str, ...] | None) -> Tensor:
        encoding = self.encoding
        if encoding.dtype in HALVES:
            raise InvalidInputError(
                f"a quantum head computes in torch.float32 or torch.float64, its weights are "
                f"{encoding.dtype}; for mixed precision use torch.autocast"
            )
        if features.dtype is not encoding.dtype:
            raise InvalidInputError(
                f"features must be {encoding.dtype} as the head's weights are, got {features.dtype}"
            )
        return self.simulator.logits(
            self.circuit,
            features,
            encoding,
            self.blocks(),
            self.scales(),
            angle_map=self.angle_map,
            tasks=names,
        )

    def angles(self, features: Float[Tensor, "batch features"]) -> Tensor:
        """Map features to encoding angles in radians, ``(batch, n_features)``.

        Example:
            >>> from qmtl import HeadCircuit, Task
            >>> head = QuantumHead(HeadCircuit([Task.binary("a")]))
            >>> head.angles(torch.tensor([[0.0, 100.0]]))
            tensor([[0.0000, 0.7854]])
        """
        check_features(features, self.n_features)
        check_finite(features)
        return ANGLE_MAPS[self.angle_map](features)

    def logits(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits of measured values: scale · ⟨Z⟩, or scale · log-probability.

        Args:
            values: task names to ``(batch, n_outputs)``, from `expectation_values` or hardware.
        """
        names = chosen_tasks(list(values), self._sizes)
        if not names:
            return {}
        layout = output_layout(self.circuit, names)
        joined = torch.cat(list(values.values()), dim=1)
        logits = to_logits(joined, layout.factors(self.scales()), layout.is_probability)
        return by_task(logits, names, layout.sizes)

    def expectation_values(
        self, angles: Float[Tensor, "batch features"], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Return the tasks' measured values at encoding angles in radians, without scales.

        Returns:
            A dictionary from task names to ``(batch, n_outputs)``: Z values in [-1, 1], or
            probabilities in [0, 1].
        """
        weights = torch.cat([self.encoding, self.blocks()])
        return self.simulator.expectation_values(self.circuit, angles, weights, tasks)

    def task_columns(self) -> dict[str, tuple[int, ...]] | None:
        """Return the features on each task's register; None if tasks share features.

        Example:
            >>> from qmtl import HeadCircuit, Task
            >>> head = QuantumHead(HeadCircuit([Task.binary("a"), Task.binary("b")]))
            >>> head.task_columns()
            {'a': (0, 1), 'b': (2, 3)}
        """
        return task_columns(self.circuit)

    def dependencies(self) -> Dependencies | None:
        return self.simulator.dependencies(self.circuit)

    def feature_rows(self, features: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of a Jacobian, from gradients with respect to joined logits.

        See `qmtl.simulators.Simulator.readout_rows`.
        """
        weights = self.encoding, self.blocks(), self.scales()
        return self.simulator.readout_rows(
            self.circuit, features, *weights, gradients, angle_map=self.angle_map
        )

    def with_simulator(self, simulator: str | Simulator) -> "QuantumHead":
        """Return a head that shares these parameters, evaluated by another simulator.

        If one head learns or loads parameters, the other head has the same values. The exception
        are encoding weights loaded with ``assign=True``, which replaces the parameter of one head.
        Hooks are not shared.

        Raises:
            InvalidInputError: if the encoding's weights are pruned or parametrised; remove the
                pruning first, or prune afterwards. Blocks and scales may be pruned or parametrised.
        """
        if not isinstance(self.encoding, nn.Parameter):
            raise InvalidInputError(
                "the encoding's weights are pruned or parametrised, and cannot be shared with "
                "another head; make them plain first, such as by torch.nn.utils.prune.remove"
            )
        options = {name: getattr(self, name) for name in ("angle_map", *self.settings)}
        head = type(self)(self.circuit, simulator, **options, like=self)
        # train() would change the modules that both heads share.
        head.training = self.training
        return head

    def with_own_weights(self) -> "QuantumHead":
        """Return a `QuantumHead` with the same outputs that stores each task's block weights.

        Functions such as `qmtl.merge` do not accept a head that computes its blocks.

        Example:
            >>> from qmtl import HeadCircuit, MixtureHead, Task
            >>> head = MixtureHead(HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
            >>> plain, x = head.with_own_weights(), torch.ones(1, 4)
            >>> type(plain).__name__, torch.equal(plain(x)["b"], head(x)["b"])
            ('QuantumHead', True)
        """
        return self.of_part(self.circuit, slice(None)).train(self.training)

    @torch.no_grad()
    def of_part(self, circuit: HeadCircuit, encoding: slice) -> "QuantumHead":
        """Return a plain `QuantumHead` of some of the tasks, with their weights of this head.

        Args:
            circuit: circuit of these tasks.
            encoding: indices of this circuit's encoding weights among those of the head.
        """
        names = list(circuit.registers)
        options: dict[str, Any] = {"angle_map": self.angle_map, "frozen": self.frozen, "seed": 0}
        head = QuantumHead(circuit, self.simulator, **options).to(self.encoding)
        assert isinstance(head.blocks, TaskRows)
        head.encoding.copy_(self.encoding[encoding])
        # `by_name` computes blocks as in a head of only these tasks, bit for bit.
        for rows, given in ((head.blocks, self.blocks), (head.scales, self.scales)):
            values = given.by_name(names).values()
            rows.parameter.copy_(torch.cat([value.reshape(-1) for value in values]))
        return head

    def to_qnode(self, device: Any = "default.qubit", **options: Any) -> Any:
        """Return a PennyLane QNode ``qnode(angles, weights)``, with the head's weights as default.

        The QNode takes the angles that `angles` computes from features, and returns the measured
        values without scales. Gradients reach the head's parameters. A head of the shared layout
        has a circuit per task: give ``tasks=["name"]``. For the arguments see
        `qmtl.pennylane.task_qnode`.

        Example:
            >>> from qmtl import HeadCircuit, Task
            >>> head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
            >>> angles = head.angles(torch.zeros(1, 2))
            >>> value = head.to_qnode("default.qubit")(angles)["a"][0]
            >>> bool(torch.allclose(value.float(), head.expectation_values(angles)["a"][:, 0]))
            True
        """
        from qmtl.pennylane import task_qnode

        return task_qnode(self.circuit, self.weights(), device, **options)

    def to_qiskit(
        self, tasks: Sequence[str] | None = None, *, bound: bool = True, measure: bool = True
    ) -> Any:
        """Return the circuit as a Qiskit `QuantumCircuit`.

        Wire i is qubit i, and the angle of feature i is the parameter ``x[i]``:
        ``assign_parameters(angles)`` binds a sample.

        Args:
            tasks: tasks whose blocks and measurements are included; None for all. A head of the
                shared layout has a circuit per task: give one task.
            bound: whether the weights have the head's values instead of being parameters. The
                angles of the features are always parameters.
            measure: whether each task's wires are measured into a classical register with the
                task's name.

        Raises:
            InvalidInputError: for an unknown task, or several tasks of the shared layout.
            MissingDependencyError: if Qiskit is not installed.

        Example:
            >>> from qmtl import HeadCircuit, Task
            >>> head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
            >>> circuit = head.to_qiskit()
            >>> [parameter.name for parameter in circuit.parameters], circuit.cregs[0].name
            (['x[0]', 'x[1]'], 'a')
        """
        weights = self.weights() if bound else None
        return _exporter().to_qiskit(self.circuit, weights, tasks, measure=measure).circuit

    def to_qasm(
        self, tasks: Sequence[str] | None = None, *, bound: bool = True, measure: bool = True
    ) -> str:
        """Return the circuit as OpenQASM 3; the arguments are those of `to_qiskit`.

        Example:
            >>> from qmtl import HeadCircuit, Task
            >>> head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
            >>> [line for line in head.to_qasm().splitlines() if "input" in line]
            ['input float[64] x_0;', 'input float[64] x_1;']
        """
        weights = self.weights() if bound else None
        text: str = _exporter().to_qasm3(self.circuit, weights, tasks, measure=measure)
        return text

    def explain(self, batch_size: int = 32) -> Explanation:
        """Return the plan of this head's simulation, and the cost of a training step.

        Under noise, the result has noisy and ideal light cones; with shots, it describes the
        circuit that is sampled from. For other simulators it describes `LightConeSimulator`.
        """
        check_integer("batch_size", batch_size, 1)
        return self.simulator.explain(self.circuit, batch_size, self.encoding.dtype)

    def _repr_html_(self) -> str:
        from qmtl._html import folded, panel
        from qmtl.circuit import circuit_parts

        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        whole = self.count_parameters()
        about = {
            "parameters": f"{whole:,}" if whole == trained else f"{whole:,}, {trained:,} trained",
            "simulator": repr(self.simulator),
            "angle map": self.angle_map,
        }
        scales = {name: float(self.scales[name].detach()) for name in self.circuit.registers}
        drawn, counts, tasks = circuit_parts(self.circuit, about, {"scale": scales})
        title = f"{type(self).__name__}: {len(self.tasks):,} tasks"
        return panel(title, drawn, counts, folded("Tasks", tasks))

    def extra_repr(self) -> str:
        """Return the text that ``print(head)`` shows."""
        return f"{self.circuit!r}, simulator={self.simulator!r}"


def _exporter() -> Any:
    """Return the exporter to Qiskit, by its entry point, since heads must not import hardware."""
    from qmtl.simulators import simulator_for

    return simulator_for("aer")
