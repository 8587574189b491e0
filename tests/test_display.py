"""What a notebook shows: complete, bounded, and escaped."""

import pytest
import torch
from markupsafe import Markup

import qmtl
from qmtl._html import drawing, facts, folded, listed, number, panel, table

EVIL = "<img src=x onerror=boom()>"


def test_everything_that_is_text_is_escaped():
    parts = [facts({EVIL: EVIL}), table([{EVIL: EVIL}]), drawing(EVIL), folded(EVIL)]
    html = panel(EVIL, *parts)
    assert "<img" not in html
    assert html.count("&lt;img src=x") == 7
    assert "<i>" in facts({"a": Markup("<i>")})


def test_tables():
    html = table([{"a": 1, "b": None, "c": True, "d": "x" * 40}], total=3)
    assert html.count('class="n"') == 4
    assert '<td class="long">' in html
    assert "… and 2 more" in html
    assert table([]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (1234, "1,234"), (-0.5, "-0.5000"), (float("inf"), "inf"), ("a", "a")],
)
def test_numbers(value, text):
    assert number(value) == text


def test_lists():
    assert listed([]) == ""
    assert listed("abc", 3) == "a, b, c"


def _circuit(n, name=EVIL):
    tasks = [qmtl.Task.binary(f"{name}{i}") for i in range(n)]
    return qmtl.HeadCircuit(tasks)


@pytest.mark.parametrize("n", [2, 300])
def test_circuits_heads_and_plans(n):
    circuit = _circuit(n)
    head = qmtl.QuantumHead(circuit, seed=0)
    for thing in (circuit, head, head.explain(32)):
        html = thing._repr_html_()
        assert "<img" not in html
        assert "&lt;img" in html
        assert "://" not in html
        assert len(html) < 40_000
    html = circuit._repr_html_()
    assert ("<svg " in html) == (n == 2)
    assert ("and 276 more" in html) == (n == 300)
    count = circuit.count_parameters()
    assert f"{count.total:,}: encoding {count.encoding:,}" in html


def test_a_name_is_no_drawing():
    """A text drawing begins with the first task's name."""
    assert "<svg onload" not in _circuit(20, "<svg onload=boom()>")._repr_html_()


def test_shared_layouts_and_frozen_heads():
    circuit = qmtl.HeadCircuit([qmtl.Task.binary("a"), qmtl.Task.binary("b")], layout="shared")
    assert "shared" in circuit._repr_html_()
    frozen = qmtl.QuantumHead(circuit, frozen=True)
    trained = sum(p.numel() for p in frozen.parameters() if p.requires_grad)
    assert f", {trained} trained" in frozen._repr_html_()


def test_results():
    data = qmtl.data.from_arrays(
        torch.randn(60, 2), {EVIL: torch.arange(60) % 2, "b": torch.randn(60)}
    )
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.MLP(2, out_features=circuit.n_features, seed=0)
    model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
    result = qmtl.fit(model, data, max_epochs=2, seed=0, progress=False)
    html = result._repr_html_()
    assert "<img" not in html
    assert html.count("<svg role") == 1
    for task, metrics in result.metrics["test"].items():
        assert task.replace("<", "&lt;").replace(">", "&gt;") in html
        for metric, value in metrics.items():
            assert metric == "loss" or number(value) in html


def test_a_drawing_says_that_it_scrolls_where_it_is_too_wide():
    wide = drawing(Markup('<svg viewBox="0 0 700 9" width="700" height="9"></svg>'))
    assert "@container(min-width:700px){.qmtl-700{display:none}}" in wide
    assert 'class="more qmtl-700"' in wide
    assert "qmtl-73{" in drawing("0123456789")
