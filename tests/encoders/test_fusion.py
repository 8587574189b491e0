"""Fusion: each kind by hand, what is missing contributes nothing, dropout, saving and errors."""

import json

import pytest
import torch
from torch.nn import functional

from qmtl.circuit import HeadCircuit
from qmtl.encoders import ENCODERS, Fusion
from qmtl.encoders._fusion import JOINS
from qmtl.errors import InvalidInputError
from qmtl.heads import QuantumHead
from qmtl.model import MultiTaskModel, load
from qmtl.tasks import Task

WIDTHS = {"text": 4, "audio": 3, "video": 2}
FLAGS = torch.tensor(
    [[a, b, c] for a in (1.0, 0.0) for b in (1.0, 0.0) for c in (1.0, 0.0)]
)  # every way to be missing; all there first, none last
KINDS = list(JOINS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, **options):
    return Fusion(WIDTHS, 5, kind, **({"dim": 8, "n_heads": 2, "seed": 0} | options))


def rows(flags=FLAGS, seed=0):
    """Inputs with random columns, also where the flag says that they are not there."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([flags, torch.randn(len(flags), 9, generator=generator)], dim=1)


def column_is_there(flags=FLAGS):
    return torch.repeat_interleave(flags, torch.tensor([4, 3, 2]), dim=1).bool()


@every_kind
class TestMissing:
    @pytest.mark.parametrize("junk", [1e30, float("nan"), float("-inf")])
    def test_absent_columns_change_nothing(self, kind, junk):
        encoder, inputs = make(kind, hidden=[6]), rows()
        other = inputs.clone()
        other[:, 3:][~column_is_there()] = junk
        assert torch.equal(encoder(inputs), encoder(other))

    def test_absent_columns_get_no_gradient_and_present_ones_do(self, kind):
        inputs = rows().requires_grad_()
        make(kind, hidden=[6], activation="tanh")(inputs).square().sum().backward()
        gradient = inputs.grad[:, 3:]
        assert (gradient[~column_is_there()] == 0).all()
        assert (gradient[column_is_there()] != 0).all()

    def test_their_weights_get_no_gradient(self, kind):
        """In a batch without audio, what reads audio keeps still."""
        encoder = make(kind)
        encoder(rows(torch.tensor([[1.0, 0.0, 1.0]]).repeat(6, 1))).square().sum().backward()
        readers = {
            "concat": [],
            "gated": [encoder.join.represent[1].weight.grad] if kind == "gated" else [],
            "cross-attention": [encoder.join.tokens[1].weight.grad, encoder.join.modality.grad[1]]
            if kind == "cross-attention"
            else [],
        }[kind]
        assert all((gradient == 0).all() for gradient in readers)
        if kind == "concat":
            assert [p.grad.any().item() for p in encoder.join.stand_ins] == [False, True, False]

    def test_presence_matters(self, kind):
        features = make(kind)(torch.cat([FLAGS, torch.ones(8, 9)], dim=1))
        assert torch.pdist(features).min() > 1e-4

    def test_zeros_are_not_missing(self, kind):
        features = make(kind)(torch.tensor([[1.0, 1, 1] + 9 * [0], [1.0, 0, 1] + 9 * [0]]))
        assert (features[0] - features[1]).abs().max() > 1e-4

    def test_nothing_at_all_is_finite_learned_and_always_the_same(self, kind):
        encoder = make(kind)
        features = encoder(rows(torch.zeros(3, 3)))
        assert features.isfinite().all()
        torch.testing.assert_close(features, features[:1].expand(3, 5))
        features.square().sum().backward()
        learned = encoder.join.stand_ins if kind == "concat" else [encoder.join.nothing]
        assert all((p.grad != 0).all() for p in learned)
        assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())

    def test_rows_are_independent(self, kind):
        encoder, inputs = make(kind), rows()
        alone = torch.cat([encoder(row[None]) for row in inputs])
        torch.testing.assert_close(encoder(inputs), alone)
        assert encoder(inputs[:0]).shape == (0, 5)


class TestByHand:
    def test_concat(self):
        encoder, inputs = make("concat", hidden=[6]), rows()
        columns = list(inputs[:, 3:].split([4, 3, 2], dim=1))
        for i in range(3):
            columns[i] = torch.where(FLAGS[:, i, None] == 1, columns[i], encoder.join.stand_ins[i])
        torch.testing.assert_close(encoder(inputs), encoder.layers(torch.cat(columns, dim=1)))

    def test_two_modalities_make_the_papers_gate(self):
        """h = z * tanh(Wv xv) + (1 - z) * tanh(Wt xt), z = sigmoid(Wz [xv, xt])."""
        encoder = Fusion({"visual": 3, "text": 2}, 5, "gated", dim=4, seed=0)
        x = torch.randn(6, 5)
        visual, text = x.split([3, 2], dim=1)
        join = encoder.join
        weight = join.score.weight[:4] - join.score.weight[4:]
        bias = join.score.bias[:4] - join.score.bias[4:]
        z = torch.sigmoid(x @ weight.T + bias)
        h = z * join.represent[0](visual).tanh() + (1 - z) * join.represent[1](text).tanh()
        features = encoder(torch.cat([torch.ones(6, 2), x], dim=1))
        torch.testing.assert_close(features, encoder.layers(h))

    def test_one_gated_modality_is_its_representation(self):
        encoder, inputs = make("gated"), rows(torch.tensor([[0.0, 1.0, 0.0]]))
        h = encoder.join.represent[1](inputs[:, 7:10]).tanh()
        torch.testing.assert_close(encoder(inputs), encoder.layers(h))

    def test_cross_attention_is_that_of_torch(self):
        encoder, inputs = make("cross-attention"), rows(FLAGS[:7])
        join, present = encoder.join, FLAGS[:7].bool()
        columns = inputs[:, 3:].split([4, 3, 2], dim=1)
        tokens = torch.stack([join.tokens[i](columns[i]) for i in range(3)], dim=1) + join.modality
        reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        reference.in_proj_weight.data = torch.cat([join.query.weight, join.key_value.weight])
        reference.in_proj_bias.data = torch.cat([join.query.bias, join.key_value.bias])
        reference.out_proj.load_state_dict(join.out.state_dict())
        normed = join.norm(torch.cat([tokens, join.nothing.expand(7, 1, 8)], dim=1))
        blocked = torch.zeros(7, 3, 4, dtype=torch.bool)
        blocked[:, :, :3] = ~present[:, None] | torch.eye(3, dtype=torch.bool)
        attended, _ = reference(
            normed[:, :3], normed, normed, attn_mask=blocked.repeat_interleave(2, dim=0)
        )
        tokens = tokens + attended
        tokens = tokens + join.feed_forward(functional.layer_norm(tokens, (8,)))
        mean = torch.stack([t[there].mean(0) for t, there in zip(tokens, present, strict=True)])
        torch.testing.assert_close(encoder(inputs), encoder.layers(mean), atol=1e-5, rtol=1e-4)


@every_kind
class TestTraining:
    def test_modality_dropout(self, kind):
        """Each row is one of those with fewer modalities, never with none; none in evaluation."""
        encoder = make(kind, modality_dropout=0.5)
        columns = rows()[:1, 3:]
        every = torch.cat([FLAGS[:7], columns.expand(7, 9)], dim=1)
        torch.manual_seed(0)
        trained = encoder.train()(every[:1].expand(700, 12))
        encoder.eval()
        distances = (trained[:, None] - encoder(every)).norm(dim=2)
        assert (distances.min(dim=1).values < 1e-5).all()
        counts = torch.bincount(distances.argmin(dim=1), minlength=7)
        # Of 8 equally likely outcomes the one with nothing left becomes the one with everything.
        assert ((counts - 700 * torch.tensor([2, 1, 1, 1, 1, 1, 1]) / 8).abs() < 60).all()
        assert torch.equal(encoder(every), encoder(every))

    def test_dropout_in_training_only(self, kind):
        encoder, inputs = make(kind, dropout=0.5), rows()
        assert not torch.equal(encoder(inputs), encoder(inputs))
        assert torch.equal(encoder.eval()(inputs), encoder(inputs))

    def test_seed(self, kind):
        before = torch.get_rng_state()
        first, second = make(kind).state_dict(), make(kind).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_batched_backward(self, kind):
        """As for a Jacobian of task losses, in one pass."""
        encoder, inputs = make(kind), rows()
        features, parameters = encoder(inputs).sum(dim=0), list(encoder.parameters())
        together = torch.autograd.grad(
            features, parameters, torch.eye(5), is_grads_batched=True, retain_graph=True
        )
        for i in range(5):
            alone = torch.autograd.grad(features[i], parameters, retain_graph=True)
            for whole, part in zip(together, alone, strict=True):
                torch.testing.assert_close(whole[i], part)

    def test_learns(self, kind):
        """The sign of what is there: text if it is there, else audio."""
        torch.manual_seed(0)
        flags = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]).repeat(100, 1)
        x = torch.randn(300, 2)
        target = torch.where(flags[:, 0] == 1, x[:, 0], x[:, 1]).sign()
        encoder = Fusion({"text": 1, "audio": 1}, 1, kind, dim=8, hidden=[16], seed=0)
        optimizer = torch.optim.Adam(encoder.parameters(), lr=0.02)
        for _ in range(200):
            optimizer.zero_grad()
            out = encoder(torch.cat([flags, x], dim=1))[:, 0]
            functional.soft_margin_loss(out, target).backward()
            optimizer.step()
        assert (out.sign() == target).float().mean() > 0.95


@every_kind
def test_saves_and_loads_with_a_model(kind, tmp_path):
    circuit = HeadCircuit([Task.binary("a"), Task.regression("b")])
    encoder = Fusion(
        {"z": 4, "a": 3, "m": 2}, circuit.n_features, kind, dim=6, n_heads=3, hidden=[7],
        activation="gelu", dropout=0.1, modality_dropout=0.2, calibrate=True, seed=0,
    )  # fmt: skip
    model = MultiTaskModel(encoder, QuantumHead(circuit, seed=0)).double()
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.encoder.to_dict() == encoder.to_dict()
    assert list(again.encoder.widths) == ["z", "a", "m"]
    expected = model.predict(rows())
    assert all(torch.equal(value, expected[name]) for name, value in again.predict(rows()).items())


@every_kind
def test_description(kind):
    encoder = make(kind)
    again = ENCODERS["Fusion"].from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again.to_dict() == encoder.to_dict()
    assert again.in_features == 12


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Fusion({}, 3), "widths must map each modality .* got {}"),
        (lambda: Fusion([4, 3], 3), r"widths must map each modality .* got \[4, 3\]"),
        (lambda: Fusion({"a": 0}, 3), r"widths\['a'\] must be an integer >= 1, got 0"),
        (lambda: Fusion({"a": 2.0}, 3), r"widths\['a'\] must be an integer >= 1, got 2.0"),
        (lambda: Fusion({"a": 2}, 0), "widths must be an integer >= 1, got 0"),
        (lambda: Fusion({"a": 2}, 3, "gate"), "'gate'; did you mean 'gated'"),
        (lambda: Fusion({"a": 2}, 3, dim=0), "dim must be an integer >= 1, got 0"),
        (lambda: Fusion({"a": 2}, 3, dim=6), "n_heads must divide dim, got 4 heads and dim 6"),
        (lambda: Fusion({"a": 2}, 3, dropout=-0.1), r"dropout must be in \[0, 1\), got -0.1"),
        (lambda: Fusion({"a": 2}, 3, modality_dropout=1), r"modality_dropout must be in .* got 1"),
        (lambda: Fusion({"a": 2}, 3, activation="rlu"), "unknown activation 'rlu'"),
        (
            lambda: Fusion({"a": 2, "b": 1}, 3)(torch.ones(4, 3)),
            r"\(batch, 5\): a presence flag per modality, then the columns of {'a': 2, 'b': 1}; "
            r"got \(4, 3\)",
        ),
        (
            lambda: Fusion({"a": 2}, 3)(torch.tensor([[1.0, 2, 3], [0.5, 2, 3]])),
            "flags that are 0 or 1, got 0.5 to 1; expected a presence flag per",
        ),
        (
            lambda: Fusion({"a": 2}, 3)(torch.tensor([[float("nan"), 2, 3]])),
            "flags that are 0 or 1, got nan",
        ),
    ],
)
def test_errors(build, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
