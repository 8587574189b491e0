"""Choose pairs of factors to multiply, so that products share many multiplications."""

from collections import defaultdict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import combinations

Pair = tuple[int, int]


def share_products(words: Sequence[tuple[list[int], int]], unused: int) -> dict[int, Pair]:
    """Replace pairs of factors by new registers until each product is short enough.

    The pair that most products contain comes first, as in byte-pair encoding. When no two products
    share a pair, each is multiplied separately.

    Args:
        words: each product as a sorted list of its factors' registers, and the most factors that
            may be left. The lists are changed in place.
        unused: the first new register; it is larger than all others.

    Returns:
        For each new register, the two registers that it multiplies.

    Example:
        >>> words = [([1, 2, 3], 1), ([2, 3, 4], 2)]
        >>> share_products(words, 5)
        {5: (2, 3), 6: (1, 5)}
        >>> words
        [([6], 1), ([4, 5], 2)]
    """
    users: dict[Pair, set[int]] = defaultdict(set)
    for i, (word, most) in enumerate(words):
        for pair in _pairs(word, most):
            users[pair].add(i)
    heap = [(-len(found), pair) for pair, found in users.items() if len(found) > 1]
    heapify(heap)
    merged: dict[int, Pair] = {}
    while heap:
        count, pair = heappop(heap)
        if len(users[pair]) != -count:
            # Other pairs may have replaced factors of these products by now.
            if len(users[pair]) > 1:
                heappush(heap, (-len(users[pair]), pair))
            continue
        fresh: set[Pair] = set()
        for i in users.pop(pair):
            word, most = words[i]
            before, (x, y) = _pairs(word, most), pair
            times = word.count(x) // 2 if x == y else min(word.count(x), word.count(y))
            for _ in range(min(times, len(word) - most)):
                word.remove(x)
                word.remove(y)
                word.append(unused)
            after = _pairs(word, most)
            for gone in before - after - {pair}:
                users[gone].discard(i)
            for new in after - before:
                users[new].add(i)
                fresh.add(new)
        for new in (new for new in fresh if len(users[new]) > 1):
            heappush(heap, (-len(users[new]), new))
        merged[unused] = pair
        unused += 1
    for word, most in words:
        while len(word) > most:
            merged[unused] = word.pop(0), word.pop(0)
            word.append(unused)
            unused += 1
    return merged


def _pairs(word: Sequence[int], most: int) -> set[Pair]:
    """Return the pairs of factors that may be merged: none if the product is short enough."""
    return set(combinations(word, 2)) if len(word) > most else set()
