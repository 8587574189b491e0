"""ImageBackbone: a ResNet, or another classifier from torchvision or timm, as an image encoder."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qmtl._calls import seeded
from qmtl._sections import RecipePath
from qmtl.encoders._encoder import EncoderInputs, EncoderSection, image_shape
from qmtl.errors import (
    InvalidInputError,
    MissingDependencyError,
    check_integer,
    missing_extra,
    unknown_name,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageBackbone(nn.Module):
    """A classification network from torchvision or timm, whose last layer is replaced.

    The new last layer computes the features. Nothing is downloaded: weights come from a file, or
    are drawn at random. Images are normalised by ImageNet's mean and standard deviation, as
    published weights expect. In networks with batch normalisation (ResNets) the samples of a
    training batch affect each other, unless `frozen`; such networks cannot train on a batch of one
    small image.

    Args:
        name: name of the network in its library: ``resnet18``, ``resnet50``, ``densenet121``, ...
        out_features: width of the features.
        weights: file with the network's state dict: ``.safetensors``, or a file of ``torch.save``
            (read with ``weights_only=True``, which runs no code). Its last layer is ignored.
        frozen: whether only the last layer learns; the network then stays in evaluation mode. This
            needs `weights`.
        library: ``torchvision`` or ``timm``.
        seed: seed of the initial weights; None uses torch's global generator.

    Shape:
        ``(batch, 1 or 3, height, width)``, values in [0, 1], to ``(batch, out_features)``. A grey
        image is repeated for the three channels.

    Raises:
        InvalidInputError: the library has no such network, or the weights do not fit it.
        MissingDependencyError: the library is not installed, or does not fit the installed torch.

    Example:
        >>> ImageBackbone("resnet18", 12, library="torchvison")
        Traceback (most recent call last):
        qmtl.errors.InvalidInputError: unknown library 'torchvison'; did you mean 'torchvision'? ...

    References:
        ResNet: He et al., arXiv:1512.03385.
    """

    def __init__(
        self,
        name: str,
        out_features: int,
        weights: str | Path | None = None,
        *,
        frozen: bool = False,
        library: str = "torchvision",
        seed: int | None = None,
    ) -> None:
        if frozen and weights is None:
            raise InvalidInputError("frozen=True needs weights: a frozen network does not learn")
        super().__init__()
        if library not in LIBRARIES:
            raise unknown_name("library", library, LIBRARIES)
        out_features = check_integer("out_features", out_features)
        self.name, self.out_features, self.library = name, out_features, library
        self.frozen = False
        with seeded(seed):
            self.backbone, width, last_layer = LIBRARIES[library](name)
            self.projection = nn.Linear(width, out_features)
        for key, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(key, torch.tensor(values).view(3, 1, 1), persistent=False)
        if weights is not None:
            _load_weights(self.backbone, Path(weights).expanduser(), last_layer)
        if frozen:
            self._freeze()

    def _freeze(self) -> None:
        self.frozen = True
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; a frozen network keeps its running statistics."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return the features of the images."""
        if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
            raise InvalidInputError(
                f"images must have shape (batch, 1 or 3, height, width), got {tuple(inputs.shape)}"
            )
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        images = (inputs.expand(-1, 3, -1, -1) - mean) / std
        features: Tensor = self.projection(self.backbone(images))
        return features

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description without parameters."""
        names = ("name", "out_features", "frozen", "library")
        return {"type": "ImageBackbone"} | {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """Return the encoder that `to_dict` described, with fresh parameters."""
        options = {key: description[key] for key in ("name", "out_features", "library")}
        encoder = cls(**options, seed=0)
        if description["frozen"]:
            encoder._freeze()
        return encoder


class ImageBackboneSection(EncoderSection):
    """Section ``[encoder]``, ``type = "ImageBackbone"``; `network` is the argument `name`."""

    encoder: ClassVar[type[nn.Module]] = ImageBackbone
    type: Literal["ImageBackbone"] = "ImageBackbone"
    network: str = "resnet18"
    library: Literal["torchvision", "timm"] = "torchvision"
    weights: RecipePath | None = None
    frozen: bool = False

    def build(self, given: EncoderInputs) -> nn.Module:
        channels, *_ = image_shape(self.type, given.inputs)
        if channels not in (1, 3):
            raise InvalidInputError(f"encoder {self.type!r} needs 1 or 3 channels, got {channels}")
        options = self.model_dump(include={"frozen", "library", "seed"})
        return ImageBackbone(self.network, given.n_features, self.weights, **options)


def _torchvision(name: str) -> tuple[nn.Module, int, str]:
    models = _import("torchvision", "torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("network of torchvision:", name, known)
    backbone: nn.Module = models.get_model(name, weights=None)
    for last in ("fc", "classifier"):
        layer = getattr(backbone, last, None)
        if isinstance(layer, nn.Linear):
            setattr(backbone, last, nn.Identity())
            return backbone, layer.in_features, last
    raise InvalidInputError(
        f"the network {name!r} of torchvision has no single linear layer at its end that could be "
        f"replaced; take a ResNet or a DenseNet, or library 'timm'"
    )


def _timm(name: str) -> tuple[nn.Module, int, str]:
    timm = _import("timm", "timm")
    known = timm.list_models()
    if name not in known:
        raise unknown_name("network of timm:", name, known)
    backbone: Any = timm.create_model(name, pretrained=False, num_classes=0)
    return backbone, backbone.num_features, str(backbone.default_cfg["classifier"])


LIBRARIES = {"torchvision": _torchvision, "timm": _timm}


def _import(library: str, module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise missing_extra(f"the library {library!r} is not installed", "image", error) from None
    except RuntimeError as error:  # torchvision raises this if it was built for another torch
        raise MissingDependencyError(
            f"the library {library!r} cannot be imported; its build of torchvision must fit torch "
            f"{torch.__version__} ({error})"
        ) from None


def _load_weights(backbone: nn.Module, path: Path, last_layer: str) -> None:
    state = _read_weights(path)
    state = {key: value for key, value in state.items() if not key.startswith(f"{last_layer}.")}
    try:
        missing, unexpected = backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(f"weights {path} do not fit the network: {reason}") from None
    if missing or unexpected:
        raise InvalidInputError(
            f"weights {path} do not fit the network: {_some(missing)} missing, "
            f"{_some(unexpected)} not known to it"
        )


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            state: Any = load(path.read_bytes())
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InvalidInputError(f"weights: there is no file {path}") from None
    except Exception as error:  # readers of damaged files may raise any exception
        reason = " ".join(str(error).split())[:200]
        raise InvalidInputError(f"weights {path} cannot be read: {reason}") from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        keys = f"a dict with {_some(list(state))}" if isinstance(state, Mapping) else type(state)
        raise InvalidInputError(
            f"weights {path} must hold a state dict (name to tensor), got {keys}"
        )
    return dict(state)


def _some(names: Sequence[object]) -> str:
    """Say how many names there are, and list the first of them."""
    shown = ", ".join(map(str, names[:3]))
    return f"{len(names)} ({shown}{', ...' if len(names) > 3 else ''})" if names else "none"
