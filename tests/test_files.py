"""Files are whole or absent."""

import json
import math
import os

import pytest

from qmtl._io import write_bytes, write_json, write_text


def test_contents(tmp_path):
    write_bytes(tmp_path / "a", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    write_text(tmp_path / "a", "größe\n")
    assert (tmp_path / "a").read_bytes() == "größe\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "b").write_text("")
    # As the user's umask says.
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_links_and_devices_stay(tmp_path):
    (tmp_path / "a").symlink_to("b")
    for text in ("one", "two"):
        write_text(tmp_path / "a", text)
        assert (tmp_path / "a").is_symlink()
        assert (tmp_path / "b").read_text() == text
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(tmp_path / "pipe", "three")
        assert os.read(end, 100) == b"three"
    finally:
        os.close(end)
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 3


def test_json(tmp_path):
    content = {"a": [1.5, math.nan, (math.nan, "ü")], "b": {"c": math.nan}, "d": None}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [1.5, None, [None, "ü"]], "b": {"c": None}, "d": None}
    assert "ü" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("step", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, step, error):
    path = tmp_path / "a"
    write_text(path, "old")

    def fail(*args):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a", {"a": object()})
    assert json.loads((tmp_path / "a").read_text()) == {"a": 1}


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_is_no_bare_word(tmp_path, value):
    write_json(tmp_path / "a", {"a": value})

    words = []
    json.loads((tmp_path / "a").read_text(), parse_constant=words.append)
    assert words == []


def test_missing_folder(tmp_path):
    # The error names the file, not the temporary one that is renamed to it.
    with pytest.raises(FileNotFoundError, match=r"no/a'$"):
        write_text(tmp_path / "no" / "a", "x")
