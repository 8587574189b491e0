"""AdaptedText: a frozen sentence encoder whose last layers have adapters that tasks mix."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from qmtl._calls import seeded
from qmtl._sections import Count, NameOrPath, Section
from qmtl.encoders._encoder import (
    Described,
    EncoderInputs,
    EncoderSection,
    TaskColumns,
    TaskEncoder,
    copy_weights,
)
from qmtl.encoders._mlp import MLP
from qmtl.encoders._text import DEFAULT_MODEL, files_digest, load_sentence_encoder, model_folder
from qmtl.errors import InvalidInputError, check_integer, missing_extra

ADAPTER = "default"  # peft's name for the only adapter of a model


class AdapterOptions(Section):
    """Options of the adapters.

    Attributes:
        rank: rank of each adapter.
        inventory: number of adapters that tasks share.
        layers: number of the network's last layers that have adapters.
        splits: number of parts into which an adapter's inputs and outputs are cut; a task mixes
            each part separately. 1 is Polytropon, more is multi-head routing.
        balance: strength of the term that keeps the inventory in use; 0 for none.
    """

    rank: Count = 4
    inventory: Count = 4
    layers: Count = 2
    splits: Count = 4
    balance: float = Field(0.01, ge=0, allow_inf_nan=False)


class AdaptedText(Described, TaskEncoder):
    """A frozen sentence encoder; each task adapts its last layers with its own mixture of adapters.

    Every linear layer W of the last layers becomes W x + s_t B_t A_t x / rank. The low-rank A_t and
    B_t are mixed from an inventory of pairs that all tasks share, A_t = Σ_e w_te A_e and B_t = Σ_e
    w_te B_e. A task learns its shares of the pairs, w_t, and the strength of its adapter, s_t. The
    network's own weights do not change. Layers that all tasks share then compute the features of a
    task's register from the task's vectors.

    Inputs are token numbers (batch, texts, tokens), -1 after a text's end, as `qmtl.data.glue`
    makes them with `TextTokens`. A single text has the vector u; two texts have u, v, |u − v| and u
    ⊙ v, as in `qmtl.data.pair_features`; a text without tokens is zero.

    The frozen layers run once for any number of tasks. The last layers run once for every task that
    the requested tasks depend on. If gates join registers, as in the default circuit's ring, a task
    also depends on its neighbours' features: three runs for one task, T runs for T tasks.

    Saved files do not contain the network. They contain its name, or its folder and a digest of the
    folder's files, and the weights that were trained.

    Args:
        columns: task → indices of its features, the result of ``head.task_columns()``.
        model: folder of a sentence-transformers model, or its name on the Hugging Face hub.
        hidden: widths of the hidden layers after the network.
        adapters: see `AdapterOptions`.
        n_texts: number of texts in a row of inputs, 1 or 2.
        revision: branch, tag or commit of a model on the hub.
        activation: activation of the layers after the network.
        dropout: probability of dropping a unit of the layers after the network.
        seed: seed of the initial weights; None uses torch's global generator.

    Raises:
        InvalidInputError: the network cannot be cut before its last layers, or its widths
            are not multiples of ``splits``.
        MissingDependencyError: sentence-transformers or peft are not installed.

    References:
        Routing by task over an inventory, with splits: Polytropon, arXiv:2202.13914, and MHR,
        arXiv:2211.03831, both as `peft.PolyModel` has them. Scales s_t per task and the term for
        balance: SAMoRA, arXiv:2604.19048, whose public text does not give their form. Here s_t is
        the exponential of a weight, and the term is the squared deviation of the inventory's mean
        use from equal shares, times the size of the inventory. SAMoRA's router also reads the text;
        the router here depends on the task alone.
    """

    def __init__(
        self,
        columns: TaskColumns,
        model: str | Path = DEFAULT_MODEL,
        hidden: Sequence[int] = (64,),
        *,
        adapters: AdapterOptions | None = None,
        n_texts: int = 2,
        revision: str | None = None,
        activation: str = "relu",
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(columns)
        if n_texts not in (1, 2):
            raise InvalidInputError(f"n_texts must be 1 or 2, got {n_texts!r}")
        hidden = [check_integer("hidden", width) for width in hidden]
        self.model, self.revision, self.n_texts = str(model), revision, n_texts
        self.adapters = adapters or AdapterOptions()
        self.activation, self.dropout, self.hidden = activation, dropout, tuple(hidden)
        folder = model_folder(model)
        if folder is not None:
            self.model = str(folder)
        self._files = None if folder is None else files_digest(folder)
        loaded = load_sentence_encoder(self.model, revision=revision, device="cpu")
        self.lower, upper = _cut(self.model, loaded[0].auto_model, self.adapters.layers)
        self.pooling = nn.ModuleList(list(loaded)[1:])
        self._vocabulary = int(loaded[0].auto_model.config.vocab_size)
        for module in (self.lower, upper, self.pooling):
            module.requires_grad_(False)
        with seeded(seed):
            self.upper = _adapted(upper, self.adapters, len(self.columns))
            self.log_scales = nn.Parameter(torch.zeros(len(self.columns)))
            states = torch.zeros(1, 1, loaded[0].auto_model.config.hidden_size)
            width = self._pooled(states, torch.ones(1, 1).long()).shape[1]
            self.layers = MLP(
                width * (1 if n_texts == 1 else 4),
                *hidden,
                out_features=self.out_features,
                activation=activation,
                dropout=dropout,
            )
        for router in self._routers():
            router.register_forward_hook(self._scaled, with_kwargs=True)
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        self._frozen = tuple(name for name in self.state_dict() if name not in trained)
        self.register_state_dict_post_hook(_without_frozen)
        self.register_load_state_dict_post_hook(_frozen_are_there)
        self.train(self.training)

    def _routers(self) -> list[Any]:
        return [m for m in self.upper.modules() if hasattr(m, "module_logits")]

    def _scaled(self, router: Any, _: Any, options: Mapping[str, Any], mixed: Tensor) -> Tensor:
        """Multiply a router's weights by √s_t, because they mix both A and B."""
        scale: Tensor = (self.log_scales[options["task_ids"]] / 2).exp()
        return mixed * scale[:, None, None]

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the network never drops units, and the routers sample in training."""
        super().train(mode)
        for module in (self.lower, self.upper, self.pooling):
            module.eval()
        for router in self._routers():
            router.train(mode)
        return self

    def task_features(self, inputs: Tensor, tasks: tuple[str, ...]) -> Tensor:
        """Return the features of these tasks side by side; the last layers run once for each."""
        tokens = self._tokens(inputs)
        there = tokens[:, 0] >= 0
        mask = (tokens >= 0).long()[there]
        with torch.no_grad():
            given = {"input_ids": tokens[there].clamp(min=0), "attention_mask": mask}
            states = self.lower(**given).last_hidden_state
        found = []
        for task in tasks:
            number = list(self.columns).index(task)
            ids = torch.full((len(states),), number, device=states.device)
            adapted = self.upper(inputs_embeds=states, attention_mask=mask, task_ids=ids)
            vectors = self._pooled(adapted.last_hidden_state, mask)
            rows = vectors.new_zeros(len(tokens), vectors.shape[1])
            rows[there] = vectors
            found.append(self._of_task(task, rows.unflatten(0, (-1, self.n_texts))))
        return torch.cat(found, dim=1)

    def _pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool each text's token states, and scale the vector to the length √d."""
        pooled: dict[str, Any] = {"token_embeddings": states, "attention_mask": mask}
        for module in self.pooling:
            pooled = module(pooled)
        vectors: Tensor = pooled["sentence_embedding"]
        longer: Tensor = nn.functional.normalize(vectors, dim=1) * vectors.shape[1] ** 0.5
        return longer

    def _of_task(self, task: str, vectors: Tensor) -> Tensor:
        """Return one task's features, (batch, width), from vectors (batch, texts, width)."""
        first = vectors[:, 0]
        joined = first
        if self.n_texts == 2:
            second = vectors[:, 1]
            pair = torch.cat([(first - second).abs(), first * second], dim=1)
            # Without a second text, the features of the pair are 0.
            both = (second != 0).any(dim=1, keepdim=True)
            joined = torch.cat([first, second, pair * both], dim=1)
        joined = self.layers.layers[:-1](joined)
        last, own = self._last(), list(self.columns[task])
        features: Tensor = nn.functional.linear(joined, last.weight[own], last.bias[own])
        return features

    def _last(self) -> Any:
        return self.layers.layers[-1]

    def _tokens(self, inputs: Tensor) -> Tensor:
        """Return token numbers (batch · texts, tokens), cut to the length of the longest text."""
        if inputs.ndim != 3 or inputs.shape[1] != self.n_texts:
            raise InvalidInputError(
                f"inputs must be token numbers of shape (batch, {self.n_texts}, tokens), got "
                f"{tuple(inputs.shape)}"
            )
        tokens = inputs.flatten(0, 1).long()
        half = inputs.dtype in (torch.float16, torch.bfloat16)
        if half or (tokens != inputs.flatten(0, 1)).any():
            raise InvalidInputError(
                f"inputs must be token numbers in a type that holds them exactly, without "
                f"fractions; got {inputs.dtype}"
            )
        if int(tokens.max()) >= self._vocabulary:
            raise InvalidInputError(
                f"inputs have token numbers up to {int(tokens.max())}, {self.model!r} knows "
                f"{self._vocabulary} tokens; data and encoder must have the same text model"
            )
        longest = int((tokens >= 0).sum(dim=1).max())
        if longest == 0:
            raise InvalidInputError("inputs must have tokens, got rows of empty texts only")
        return tokens[:, :longest]

    def routing(self) -> dict[str, Tensor]:
        """Return each task's shares of the adapters: (layers with adapters, splits, inventory).

        The shares of a split add up to 1.
        """
        shares = [self._shares(router).detach() for router in self._routers()]
        return dict(zip(self.columns, torch.stack(shares, dim=1), strict=True))

    def _shares(self, router: Any) -> Tensor:
        """Return the tasks' shares of one layer's adapters, (tasks, splits, inventory)."""
        taken: Tensor = router.module_logits.sigmoid().unflatten(1, (self.adapters.splits, -1))
        return taken / taken.sum(dim=-1, keepdim=True)

    def extra_loss(self) -> Tensor | None:
        if not self.adapters.balance:
            return None
        size = self.adapters.inventory
        uses = [self._shares(router).mean(dim=0) for router in self._routers()]
        terms = [size * (use - 1 / size).square().sum(dim=-1).mean() for use in uses]
        return self.adapters.balance * torch.stack(terms).mean()

    def task_parameters(self) -> dict[nn.Parameter, tuple[str, ...]]:
        """Return each task's shares of adapters and its scale, and its rows of the last layer."""
        names = tuple(self.columns)
        found = dict.fromkeys([router.module_logits for router in self._routers()], names)
        last, rows = self._last(), self._feature_tasks()
        return found | {self.log_scales: names, last.weight: rows, last.bias: rows}

    def with_task(self, name: str, columns: Sequence[int], seed: int | None = None) -> Self:
        """Return a copy with one more task, which starts with equal shares of all adapters."""
        larger = {**self.columns, name: columns}
        grown = type(self)._described(self.to_dict() | {"columns": larger}, seed)
        copy_weights(self, grown)
        return grown

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "columns": {name: list(own) for name, own in self.columns.items()},
            "files": self._files,
            "adapters": self.adapters.model_dump(),
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """Return the encoder that `to_dict` described, with fresh parameters.

        Raises:
            InvalidInputError: the sentence encoder no longer exists, or is another one.
        """
        return cls._described(description, 0)

    @classmethod
    def _described(cls, description: Mapping[str, Any], seed: int | None) -> Self:
        options = {k: v for k, v in description.items() if k not in ("type", "files", "adapters")}
        made = cls(**options, adapters=AdapterOptions(**description["adapters"]), seed=seed)
        if made._files != description["files"]:
            raise InvalidInputError(
                f"the files in {made.model} are not those of the sentence encoder that the "
                f"adapters were trained on"
            )
        return made


def _cut(name: str, network: Any, n_last: int) -> tuple[nn.Module, nn.Module]:
    """Cut a transformer into its first layers and its last layers."""
    depth = getattr(network.config, "num_hidden_layers", 0)
    stacks = [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if len(stacks) != 1 or not hasattr(network, "embeddings"):
        raise InvalidInputError(
            f"{name!r} is a {type(network).__name__}, which has no embeddings and one list of "
            f"layers to be cut; use a model like BERT, RoBERTa, MPNet or DistilBERT"
        )
    if n_last > depth:
        raise InvalidInputError(
            f"adapters.layers must be at most {depth} for {name!r}, got {n_last}"
        )
    parts = []
    for kept in (slice(0, depth - n_last), slice(depth - n_last, depth)):
        part = copy.deepcopy(network)
        parent, _, last = stacks[0].rpartition(".")
        layers = part.get_submodule(stacks[0])
        setattr(part.get_submodule(parent), last, nn.ModuleList(list(layers)[kept]))
        if getattr(part, "pooler", None) is not None:
            part.pooler = None
        parts.append(part.eval())
    lower, upper = parts
    upper.embeddings = _GivenStates()
    tokens, mask = torch.arange(10, 18).reshape(2, 4), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        states = lower(input_ids=tokens, attention_mask=mask).last_hidden_state
        found = upper(inputs_embeds=states, attention_mask=mask).last_hidden_state
        whole = network.eval()(input_ids=tokens, attention_mask=mask).last_hidden_state
    if not torch.allclose(found[mask > 0], whole[mask > 0], atol=1e-4):
        raise InvalidInputError(
            f"{name!r} is a {type(network).__name__}, which is not a plain sequence of layers"
        )
    return lower, upper


class _GivenStates(nn.Module):
    def forward(self, *args: Any, **options: Any) -> Tensor:
        values = (*args, *options.values())
        return next(v for v in values if isinstance(v, Tensor) and v.is_floating_point())


def _adapted(network: nn.Module, options: AdapterOptions, n_tasks: int) -> nn.Module:
    try:
        from peft import PolyConfig, PolyModel
    except ImportError as error:
        raise missing_extra("adapters of a text encoder need peft", "text", error) from None
    linear = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    for path, layer in linear.items():
        if layer.in_features % options.splits or layer.out_features % options.splits:
            raise InvalidInputError(
                f"adapters.splits must divide the widths of layer {path}, {layer.in_features} and "
                f"{layer.out_features}, got {options.splits}"
            )
    config = PolyConfig(
        r=options.rank,
        target_modules=list(linear),
        n_tasks=n_tasks,
        n_skills=options.inventory,
        n_splits=options.splits,
    )
    model: nn.Module = PolyModel(network, config, ADAPTER)
    return model


def _without_frozen(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Remove the frozen weights from a state: the sentence encoder's files contain them."""
    for name in module._frozen:
        state.pop(prefix + name, None)


def _frozen_are_there(module: Any, keys: Any) -> None:
    """Remove frozen weights from the missing keys: a state need not hold them."""
    ends = tuple(module._frozen)
    keys.missing_keys[:] = [key for key in keys.missing_keys if not key.endswith(ends)]


class AdaptedTextSection(EncoderSection):
    """Section ``[encoder]``, ``type = "AdaptedText"``: texts are tokens (``data.max_tokens``).

    `text_model` must be that of the data.
    """

    encoder: ClassVar[type[nn.Module]] = AdaptedText
    type: Literal["AdaptedText"] = "AdaptedText"
    text_model: NameOrPath | None = None
    adapters: AdapterOptions = Field(default_factory=AdapterOptions)
    hidden: list[int] = Field(default_factory=lambda: [64])
    activation: str = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, given: EncoderInputs) -> nn.Module:
        if given.inputs.ndim != 3:
            raise InvalidInputError(
                f"encoder {self.type!r} needs tokens of texts, (rows, texts, tokens), got shape "
                f"{tuple(given.inputs.shape)}; data.max_tokens makes them of GLUE's sentences"
            )
        return AdaptedText(
            given.columns or {},
            self.text_model or DEFAULT_MODEL,
            self.hidden,
            adapters=self.adapters,
            n_texts=given.inputs.shape[1],
            activation=self.activation,
            dropout=self.dropout,
            seed=self.seed,
        )
