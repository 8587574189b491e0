"""A new task as a vector, on heads that compute their blocks."""

import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.heads import AddedVector, HyperHead, LinearHead, MixtureHead, QuantumHead
from qmtl.tasks import Task

OLD = [Task.binary("a"), Task.regression("b"), Task.multiclass("c", 3)]
X = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
LABELS = (X[:, 0] > 0).float()
NEW = Task.binary("new")


def model(kind=MixtureHead, layout="partitioned", **options):
    circuit = qmtl.HeadCircuit(OLD, layout=layout)
    head = kind(circuit, seed=0, **options)
    encoder = qmtl.encoders.MLP(4, 16, out_features=head.n_features, seed=0)
    return qmtl.MultiTaskModel(encoder, head)


@pytest.mark.parametrize("kind", [MixtureHead, HyperHead])
@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_old_tasks_keep_every_bit_and_a_vector_is_all_that_is_new(kind, layout, tmp_path):
    old = model(kind, layout).double()
    larger = old.adapt(NEW, (X, LABELS), methods=["vector"])
    assert larger.head.notes["new"]["method"] == "vector"
    found = larger.predict(X)
    for name, values in old.predict(X).items():
        assert torch.equal(found[name], values)
    state = larger.head.base.state_dict()
    assert all(torch.equal(state[key], value) for key, value in old.head.state_dict().items())
    # A vector of two numbers, and a scale.
    more = larger.head.count_parameters() - old.head.count_parameters()
    assert more == larger.head.notes["new"]["parameters"] == 3
    # It starts as the host's, with the host's scale.
    features, host = old.features(X.double()), larger.head.hosts["new"]
    before = NEW.loss(old.head(features)[host], LABELS)
    assert NEW.loss(larger.head(features)["new"], LABELS) < 0.99 * before
    larger.save(tmp_path)
    again = qmtl.load(tmp_path)
    assert all(torch.equal(again.predict(X)[name], values) for name, values in found.items())
    torch.testing.assert_close(again.predict(X, ["new"])["new"], found["new"])


def test_it_is_the_circuit_with_this_block_in_the_hosts_place():
    larger = model().double().adapt(NEW, (X, LABELS), methods=["vector"])
    base, added = larger.head.base, larger.head.vectors[0]
    plain = base.with_own_weights()
    v = added.vector["new"].detach()
    inventory = base.blocks.inventory.detach()[:12].view(2, 6)
    with torch.no_grad():
        mixed = (v[0] - v.mean() + 0.5) * inventory[0] + (v[1] - v.mean() + 0.5) * inventory[1]
        plain.blocks[added.host].copy_(mixed)
        plain.scales[added.host].copy_(added.scale["new"])
    features = larger.features(X)
    torch.testing.assert_close(larger.head(features)["new"], plain(features)[added.host])


def test_the_host_sees_the_features_that_tell():
    """Features pass as they are; only those of one task's light cone have to do with the labels."""
    tasks = [Task.binary(f"t{i}") for i in range(7)]
    circuit = qmtl.HeadCircuit(tasks)
    x = torch.randn(200, circuit.n_features, generator=torch.Generator().manual_seed(1))
    head = MixtureHead(circuit, inventory=8, initial="normal", seed=0)
    old = qmtl.MultiTaskModel(qmtl.encoders.Identity(circuit.n_features), head)
    # On register 4, and far from it.
    labels = (x[:, 8] + x[:, 9] > 0).float()
    larger = old.adapt(NEW, (x, labels), methods=["vector"])
    assert larger.head.hosts["new"] in ("t3", "t4", "t5")


def test_vectors_beside_other_methods_and_one_after_the_other():
    first = model().adapt(NEW, (X, LABELS), methods=["vector"])
    second = first.adapt(Task.regression("r"), (X, X[:, 1]), methods=["vector"])
    third = second.adapt(Task.binary("d"), (X, X[:, 2] > 0), methods=["ridge"])
    fourth = third.adapt(Task.multilabel("m", 2), (X, X[:, :2] > 0), methods=["ridge", "vector"])
    assert set(fourth.head.hosts) == {"new", "r"}
    for earlier in (first, second, third):
        found = fourth.predict(X)
        assert all(torch.equal(found[name], values) for name, values in earlier.predict(X).items())
    labels = {"new": LABELS}
    data = qmtl.data.from_arrays(X, labels, tasks=[NEW])
    others = fourth.predict(X)
    qmtl.fit(fourth, data, tasks=["new"], max_epochs=1, progress=False)
    found = fourth.predict(X)
    assert all(torch.equal(found[name], others[name]) == (name != "new") for name in found)


def test_rows_count_by_their_weight():
    """Rows of next to no weight are as if they were not there."""
    good = torch.arange(80) % 2 == 0
    wrong = torch.where(good, LABELS, 1 - LABELS)
    old = model().double()
    weights = torch.where(good, 1.0, 1e-9)
    weighted = old.adapt(NEW, (X, wrong), sample_weight=weights, methods=["vector"])
    alone = old.adapt(NEW, (X[good], LABELS[good]), methods=["vector"])
    plain = old.adapt(NEW, (X, wrong), methods=["vector"])
    ours, theirs, other = (each.predict(X)["new"] for each in (weighted, alone, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-2)
    assert (ours - other).abs().max() > 3 * (ours - theirs).abs().max()


def test_an_export_has_the_vectors_own_block(tmp_path):
    few = qmtl.MixtureHead(qmtl.HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
    small = qmtl.MultiTaskModel(qmtl.encoders.MLP(4, out_features=few.n_features, seed=0), few)
    larger = small.adapt(NEW, (X, LABELS), methods=["vector"])
    larger.export(tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for name, values in larger.predict(X).items():
        torch.testing.assert_close(program(X)[name], values, check_dtype=False, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "task", "words"),
    [
        (QuantumHead, NEW, "'new' cannot be added to the QuantumHead by a vector: its blocks are"),
        (MixtureHead, Task.multiclass("new", 4), "none of its tasks has outputs like a multiclass"),
    ],
)
def test_errors(kind, task, words):
    labels = LABELS if task.kind == "binary" else torch.arange(80) % 4
    old = model(kind)
    with pytest.raises(InvalidInputError, match=words):
        old.adapt(task, (X, labels), methods=["vector"])
    # Among others it is left out.
    assert old.adapt(task, (X, labels), methods=["ridge", "vector"]).head.notes["new"]
    with pytest.raises(InvalidInputError, match="be a MixtureHead or a HyperHead, got a Linear"):
        AddedVector(NEW, LinearHead(OLD, 4), "a")
    with pytest.raises(InvalidInputError, match=r"measured on the register of 'c'; .*\['a', 'b'\]"):
        AddedVector(NEW, model().head, "c")
