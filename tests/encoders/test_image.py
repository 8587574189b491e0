"""ImageBackbone: on stand-ins of torchvision and timm, and on the libraries where they are."""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qmtl.circuit import HeadCircuit
from qmtl.encoders import ImageBackbone
from qmtl.errors import InvalidInputError, MissingDependencyError
from qmtl.heads import QuantumHead
from qmtl.model import MultiTaskModel, load
from qmtl.tasks import Task


class SmallResNet(nn.Module):
    """What matters of a ResNet: convolutions, batch normalisation, a residual, ``fc``."""

    def __init__(self, num_classes=1000):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, num_classes) if num_classes else nn.Identity()
        self.num_features, self.default_cfg = 6, {"classifier": "fc"}

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = (x + self.bn2(self.conv2(x))).relu()
        return self.fc(x.mean((2, 3)))


class TwoLayersAtTheEnd(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def stand_ins():
    torchvision, models, timm = map(ModuleType, ("torchvision", "torchvision.models", "timm"))
    networks = {"resnet18": SmallResNet, "vgg11": TwoLayersAtTheEnd}
    torchvision.models = models
    models.list_models = lambda module: list(networks)
    models.get_model = lambda name, weights: networks[name]()
    timm.list_models = lambda: ["resnet18"]
    timm.create_model = lambda name, pretrained, num_classes: SmallResNet(num_classes)
    return {"torchvision": torchvision, "torchvision.models": models, "timm": timm}


INSTALLED = [name for name in ("torchvision", "timm") if find_spec(name) is not None]


@pytest.fixture(
    params=["torchvision, a stand-in", "timm, a stand-in", *(f"{n}, itself" for n in INSTALLED)]
)
def library(request, monkeypatch):
    name, _, which = request.param.partition(", ")
    if which == "a stand-in":
        for module, content in stand_ins().items():
            monkeypatch.setitem(sys.modules, module, content)
    return name


@pytest.mark.skipif(bool(INSTALLED), reason="the tests below run on it")
def test_the_libraries_themselves():
    pytest.skip("neither torchvision nor timm is installed: tested on stand-ins only")


@pytest.fixture
def fakes(monkeypatch):
    for module, content in stand_ins().items():
        monkeypatch.setitem(sys.modules, module, content)


def make(library, **options):
    return ImageBackbone("resnet18", 5, **({"library": library, "seed": 0} | options))


def images(channels=1, batch=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, 40, 36, generator=generator)


def full_state(library, seed=7):
    """The state dict of a whole network, last layer included, as it is published."""
    torch.manual_seed(seed)
    if library == "timm":
        network = import_module("timm").create_model("resnet18", pretrained=False, num_classes=9)
    else:
        network = import_module("torchvision.models").get_model("resnet18", weights=None)
    return network.state_dict()


@pytest.fixture(params=["safetensors", "pth"])
def weights(request, library, tmp_path):
    path = tmp_path / f"weights.{request.param}"
    (save_file if request.param == "safetensors" else torch.save)(full_state(library), path)
    return path


class TestNetwork:
    def test_grey_is_repeated_and_normalised(self, library):
        encoder = make(library).eval()
        grey = images()
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        colour = (torch.cat([grey] * 3, dim=1) - mean) / std
        expected = encoder.projection(encoder.backbone(colour))
        torch.testing.assert_close(encoder(grey), expected)
        torch.testing.assert_close(encoder(grey.repeat(1, 3, 1, 1)), expected)
        assert encoder(images(3)).shape == (3, 5)

    def test_all_of_it_learns(self, library):
        encoder = make(library)
        encoder(images()).square().sum().backward()
        assert all(p.grad is not None for p in encoder.parameters())
        assert (next(encoder.backbone.parameters()).grad != 0).any()

    def test_seed(self, library):
        before = torch.get_rng_state()
        first, second = make(library).state_dict(), make(library).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_takes_weights(self, library, weights):
        encoder, state = make(library, weights=weights), full_state(library)
        own = encoder.backbone.state_dict()
        assert all(torch.equal(own[key], state[key]) for key in own)
        assert {key for key in state if key not in own} == {"fc.weight", "fc.bias"}
        assert encoder.projection.out_features == 5

    def test_frozen(self, library, weights):
        encoder = make(library, weights=weights, frozen=True).train()
        assert encoder.training
        assert [name for name, p in encoder.named_parameters() if p.requires_grad] == [
            "projection.weight",
            "projection.bias",
        ]
        before = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
        encoder(images()).square().sum().backward()
        optimizer.step()
        after = encoder.backbone.state_dict()
        assert all(torch.equal(after[key], before[key]) for key in before)
        torch.testing.assert_close(encoder(images())[:1], encoder(images()[:1]))

    @pytest.mark.parametrize("frozen", [False, True])
    def test_saves_and_loads_with_a_model(self, library, weights, tmp_path, frozen):
        circuit = HeadCircuit([Task.binary("a"), Task.regression("b")])
        encoder = ImageBackbone(
            "resnet18", circuit.n_features, weights, frozen=frozen, library=library
        )
        model = MultiTaskModel(encoder, QuantumHead(circuit, seed=0))
        model(images())  # moves running statistics, unless frozen
        model.save(tmp_path / "model")
        weights.unlink()
        again = load(tmp_path / "model")
        expected = model.predict(images())
        assert all(torch.equal(v, expected[k]) for k, v in again.predict(images()).items())
        assert again.encoder.to_dict() == encoder.to_dict()
        trainable = len(list(again.encoder.parameters())) if not frozen else 2
        assert sum(p.requires_grad for p in again.encoder.parameters()) == trainable
        assert again.train().encoder.backbone.training is not frozen


class TestErrors:
    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: ImageBackbone("resnt18", 5), "'resnt18'; did you mean 'resnet18'"),
            (
                lambda: ImageBackbone("resnt18", 5, library="timm"),
                "unknown network of timm: 'resnt18'; did you mean 'resnet18'",
            ),
            (
                lambda: ImageBackbone("vgg11", 5),
                "'vgg11' of torchvision has no single",
            ),
            (lambda: ImageBackbone("resnet18", 0), "out_features must be an integer >= 1, got 0"),
            (lambda: ImageBackbone("resnet18", 5, library="tim"), "'tim'; did you mean 'timm'"),
            (lambda: ImageBackbone("resnet18", 5, frozen=True), "frozen=True needs weights"),
            (lambda: ImageBackbone("resnet18", 5, "/no/file.pth"), "there is no file /no/file.pth"),
            (
                lambda: ImageBackbone("resnet18", 5)(torch.zeros(2, 2, 8, 8)),
                r"\(batch, 1 or 3, height, width\), got \(2, 2, 8, 8\)",
            ),
            (lambda: ImageBackbone("resnet18", 5)(torch.zeros(2, 64)), r"got \(2, 64\)"),
        ],
    )
    def test_arguments(self, fakes, build, message):
        with pytest.raises(InvalidInputError, match=message) as caught:
            build()
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"conv1.weight": torch.zeros(6, 3, 3, 3)}, r"missing, none not known to it"),
            ({"other": torch.zeros(1)}, r"12 \(conv1.weight, .*\) missing, 1 \(other\) not known"),
            ({"conv1.weight": torch.zeros(1)}, "do not fit the network: .*conv1.weight"),
            ({"state_dict": {}, "epoch": 3}, r"must hold a state dict .* 2 \(state_dict, epoch\)"),
            ([1, 2], "must hold a state dict .* got <class 'list'>"),
        ],
    )
    def test_weights(self, fakes, tmp_path, content, message):
        torch.save(content, tmp_path / "weights.pth")
        with pytest.raises(InvalidInputError, match=message) as caught:
            ImageBackbone("resnet18", 5, tmp_path / "weights.pth")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
    def test_damaged_weights(self, fakes, tmp_path, name):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(InvalidInputError, match="cannot be read"):
            ImageBackbone("resnet18", 5, tmp_path / name)

    def test_runs_no_code_of_the_file(self, fakes, tmp_path):
        torch.save({"conv1.weight": SmallResNet()}, tmp_path / "pickled.pth")
        with pytest.raises(InvalidInputError, match="cannot be read"):
            ImageBackbone("resnet18", 5, tmp_path / "pickled.pth")

    @pytest.mark.parametrize("library", ["torchvision", "timm"])
    def test_without_the_library(self, monkeypatch, library):
        for module in ("torchvision", "torchvision.models", "timm"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependencyError, match=r"not installed.*\.\[image\]"):
            ImageBackbone("resnet18", 5, library=library)

    def test_a_build_for_another_torch(self, monkeypatch, tmp_path):
        (tmp_path / "timm.py").write_text(
            "raise RuntimeError('operator torchvision::nms does not exist')"
        )
        monkeypatch.delitem(sys.modules, "timm", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(MissingDependencyError, match=r"must fit torch 2.*nms does not exist"):
            ImageBackbone("resnet18", 5, library="timm")
