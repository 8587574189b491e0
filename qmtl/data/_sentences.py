"""From texts to inputs: sentence embeddings of a common scale, and features of sentence pairs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qmtl.errors import InvalidInputError

Embed = Callable[[list[str]], Any]
"""Texts to vectors: N texts become an array (N, d)."""


def embed_texts(texts: Sequence[str], embed: Embed | None = None) -> np.ndarray:
    """Embeddings of texts, each scaled to the length √d.

    A text that occurs several times is embedded once. After scaling, the entries are of order one
    for every model, so that one encoder and one learning rate suit all models. Directions, and with
    them cosine similarities, do not change. Zero stays zero.

    Args:
        texts: at least one text.
        embed: list of texts → array (N, d); None for `qmtl.encoders.TextEmbedding()`.

    Returns:
        float32 (N, d).

    Raises:
        InvalidInputError: `embed` is not callable, or does not return a finite array (N, d).

    Example:
        >>> lengths = lambda texts: np.array([[len(text), 0.0] for text in texts])
        >>> embed_texts(["a", "bc", "a"], lengths).round(3).tolist()
        [[1.4140000343322754, 0.0], [1.4140000343322754, 0.0], [1.4140000343322754, 0.0]]
    """
    if embed is None:
        from qmtl.encoders import TextEmbedding

        embed = TextEmbedding()
    if not callable(embed):
        raise InvalidInputError(
            f"embed: expected a callable, list of texts → array (N, d), got {type(embed).__name__}"
        )
    places: dict[str, int] = {}
    rows = [places.setdefault(text, len(places)) for text in texts]
    vectors = _as_vectors(embed(list(places)), len(places))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scale = np.divide(np.sqrt(vectors.shape[1]), lengths, where=lengths > 0, out=lengths * 0)
    return np.asarray((vectors * scale)[rows])


def text_model(name: str | None, max_tokens: int | None = None) -> Embed | None:
    """The sentence encoder with this name or in this folder; None for the default of `embed_texts`.

    Args:
        name: the model's name or folder.
        max_tokens: largest number of tokens of a text, where tokens are wanted; None for vectors.

    Example:
        >>> text_model("sentence-transformers/all-MiniLM-L6-v2")  # loaded with the first text
        TextEmbedding('sentence-transformers/all-MiniLM-L6-v2')
    """
    if max_tokens is not None:
        from qmtl.encoders import TextTokens

        if name is None:
            return TextTokens(max_length=max_tokens)
        return TextTokens(name, max_tokens)
    if name is None:
        return None
    from qmtl.encoders import TextEmbedding

    return TextEmbedding(name)


def gives_tokens(embed: Embed | None) -> bool:
    """Whether a text model returns token numbers instead of vectors."""
    if embed is None:
        return False
    from qmtl.encoders import TextTokens

    return isinstance(embed, TextTokens)


def pair_tokens(first: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    """Token numbers of one text or two: (N, 2, tokens), -1 for no token.

    Example:
        >>> pair_tokens(np.array([[101.0, 102.0, -1.0]])).tolist()
        [[[101.0, 102.0, -1.0], [-1.0, -1.0, -1.0]]]
    """
    second = np.full_like(first, -1) if second is None else second
    return np.stack([first, second], axis=1).astype(np.float32)


def pair_features(first: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    """Features of sentence pairs: [u, v, |u − v|, u ⊙ v] (InferSent, arXiv:1705.02364).

    A single sentence becomes [u, 0, 0, 0], of the same width. The zeros add nothing, and send no
    gradient to the weights behind them, so that these serve only the tasks on pairs. (As a pair
    with itself, [u, u, 0, u²], each single sentence would look like a perfect paraphrase.)

    Args:
        first: embeddings u (N, d).
        second: embeddings v (N, d), or None for single sentences.

    Returns:
        float32 (N, 4 d).

    Example:
        >>> pair_features(np.array([[1.0, 2.0]]), np.array([[3.0, 1.0]])).tolist()
        [[1.0, 2.0, 3.0, 1.0, 2.0, 1.0, 3.0, 2.0]]
        >>> pair_features(np.array([[1.0, 2.0]])).tolist()
        [[1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    if second is None:
        absent = np.zeros_like(first)
        return np.concatenate([first, absent, absent, absent], axis=1, dtype=np.float32)
    if first.shape != second.shape:
        raise InvalidInputError(
            f"pair_features: expected two arrays of one shape, got {first.shape} and {second.shape}"
        )
    both = [first, second, np.abs(first - second), first * second]
    return np.concatenate(both, axis=1, dtype=np.float32)


def _as_vectors(values: Any, n: int) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    try:
        vectors = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"embed: expected an array of numbers (N, d), got {type(values).__name__}"
        ) from error
    if vectors.ndim != 2 or len(vectors) != n or not vectors.shape[1]:
        raise InvalidInputError(
            f"embed: expected shape ({n}, d) for {n} texts, got {vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        raise InvalidInputError("embed: the embeddings hold NaN or infinity")
    return vectors
