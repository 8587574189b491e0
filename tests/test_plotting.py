"""The shared look of plots, and figures as part of a page."""

import re

import matplotlib
import matplotlib.style
import pytest
from matplotlib.figure import Figure

from qmtl.errors import InvalidInputError
from qmtl.plotting import (
    COLOURS,
    INK,
    axes_or_new,
    inline_svg,
    line_look,
    number_axis,
    plain,
    save_figure,
    style,
)

pytestmark = pytest.mark.usefixtures("figure_layout")

HOSTILE = f'<script> id="x" url(#y) {INK}; $'


def _figure(label="a"):
    with style():
        figure = Figure(figsize=(3, 2))
        ax = figure.subplots()
        ax.plot([0, 1], [1, 0], marker="o", label=plain(label))
        ax.legend()
    return figure


def test_the_style_file_has_the_palette():
    with style():
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()
        assert tuple(cycle["color"]) == COLOURS
        assert matplotlib.rcParams["text.color"] == INK
    with matplotlib.style.context("qmtl.plots"):
        assert not matplotlib.rcParams["axes.spines.top"]


def test_colours_differ_in_grey_or_in_dashes():
    """Each pair differs in lightness, or in the pattern of dashes, or in the marker."""
    looks = [tuple(line_look(i).items()) for i in range(24)]
    assert len(set(looks)) == 24
    neighbours = [(line_look(i), line_look(i + 1)) for i in range(24)]
    assert all(a["linestyle"] != b["linestyle"] for a, b in neighbours)
    assert all(a["marker"] != b["marker"] for a, b in neighbours)


def test_inline_svg_is_made_for_a_page():
    svg = inline_svg(_figure(), 'a "b" <c>')
    assert svg.startswith('<svg role="img" aria-label="a &quot;b&quot; &lt;c&gt;"')
    assert "://" not in svg
    assert INK not in svg
    assert "currentColor" in svg
    ids = re.findall(r' id="([^"]+)"', svg)
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
    assert ids
    assert set(ids) == set(used)


def test_two_figures_share_no_id():
    first, second = (set(re.findall(r' id="([^"]+)"', inline_svg(_figure(n), n))) for n in "ab")
    assert not first & second


def test_text_of_the_users_stays_as_it_is():
    svg = inline_svg(_figure(HOSTILE), "x")
    assert "<script" not in svg
    text = "".join(re.findall(r">([^<>]*)<", svg))
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in text


@pytest.mark.parametrize("name", ["_hidden", "$x_1$", "$", r"\frac", "a_b^c", "{", "%s", "日本"])
def test_any_name_is_a_label(name):
    labels = re.findall(r">([^<>]+)</text>", inline_svg(_figure(name), "x"))
    assert name in [label.strip() for label in labels]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf", "PNG"])
def test_saved_files_repeat(tmp_path, kind):
    for name in ("one", "two"):
        save_figure(_figure(), tmp_path / f"{name}.{kind}")
    one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size > 1000


def test_other_kinds_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"got .*plot\.bmp"):
        save_figure(_figure(), tmp_path / "plot.bmp")
    assert list(tmp_path.iterdir()) == []


def test_number_axis():
    ax = Figure().subplots()
    number_axis(ax, [8, 2, 2])
    assert list(ax.get_xticks()) == [2, 8]
    assert ax.get_xscale() == "log"
    linear = Figure().subplots()
    number_axis(linear, [1, 2], log=False)
    assert linear.get_xscale() == "linear"


def test_axes_given_or_new():
    import matplotlib.pyplot as plt

    ax = Figure().subplots()
    assert axes_or_new(ax) is ax
    new = axes_or_new(None)
    assert new.figure.number in plt.get_fignums()
    plt.close(new.figure)
