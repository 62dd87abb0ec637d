"""The audit's own search for near-duplicate texts: exact, and sharing no code with the one that it judges.

The definition is that of :mod:`perceive.near_duplicates` (distinct runs of 5 characters, Jaccard
coefficient); the method is a set-similarity join without any chance in it. Two sets that are similar enough
share an element of their *prefixes*, the rarest elements of each (Chaudhuri, Ganti and Kaushik 2006; Bayardo,
Ma and Srikant 2007). Of the pairs that do, most are refuted by the parities of their elements in 512 buckets:
the sets differ in at least as many elements as their parities do (the bitmap filter of Sandes, Teodoro and
Melo 2020). The rest is counted.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import scipy.sparse as sparse

_LENGTH = 5
_WORDS = 8  # of 64 parities
_ROWS = 1000
_CELLS = 50_000_000  # of pairs that may share an element, at once
_PAIRS = 20_000
_ROUNDING = 1e-9


def similar_pairs(
    texts: Iterable[str], *, threshold: float, min_shingles: int, probes: np.ndarray | None = None
) -> np.ndarray:
    """Find all pairs of texts with a similarity of at least `threshold`.

    Parameters
    ----------
    texts
        Distinct normalised texts.
    threshold, min_shingles
        As in :func:`perceive.near_duplicates.near_pairs`.
    probes
        Positions of the texts that are compared with all others: of a pair one at least is among them. None:
        all. The work grows with their number times that of the texts.

    Returns
    -------
    numpy.ndarray
        Positions in `texts`, int64, shape (pairs, 2), the smaller first, sorted.
    """
    elements, edges = _sets(texts, min_shingles)
    if not len(elements):
        return np.empty((0, 2), dtype=np.int64)
    parities = _parities(elements, edges)
    matrix = sparse.csr_matrix((np.ones(len(elements), dtype=np.int8), elements, edges))
    matrix.sort_indices()  # the rarest first
    sizes = np.diff(edges)
    prefixes = _prefixes(matrix, sizes, threshold)
    holders = prefixes.T.tocsr()
    wanted = np.arange(len(sizes)) if probes is None else np.unique(probes)
    probed = np.zeros(len(sizes), dtype=bool)
    probed[wanted] = True
    found = [np.empty((0, 2), dtype=np.int64)]
    step = max(1, min(_ROWS, _CELLS // len(sizes)))
    for begin in range(0, len(wanted), step):
        rows = wanted[begin : begin + step]
        sharing = (prefixes[rows] @ holders).tocoo()
        one, other = rows[sharing.row], sharing.col.astype(np.int64)
        both = sizes[one] + sizes[other]
        few = (
            np.minimum(sizes[one], sizes[other])
            >= threshold * np.maximum(sizes[one], sizes[other]) - _ROUNDING
        )
        # Two probes meet twice.
        once = (one < other) | ~probed[other]
        one, other, both = (part[few & once] for part in (one, other, both))
        apart = np.bitwise_count(parities[one] ^ parities[other]).sum(axis=1, dtype=np.int64)
        close = apart <= (1 - threshold) / (1 + threshold) * both + _ROUNDING
        found.append(_count(matrix, sizes, one[close], other[close], threshold))
    pairs = np.sort(np.concatenate(found), axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]


def _parities(elements: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return of each set whether the number of its elements in each bucket is odd, as bits."""
    parities = np.zeros((len(edges) - 1, _WORDS), dtype=np.uint64)
    for begin in range(0, len(parities), _ROWS):
        end = min(begin + _ROWS, len(parities))
        bits = elements[edges[begin] : edges[end]] % (64 * _WORDS)
        owner = np.repeat(np.arange(begin, end), np.diff(edges[begin : end + 1]))
        np.bitwise_xor.at(parities, (owner, bits // 64), np.uint64(1) << (bits % 64).astype(np.uint64))
    return parities


def _prefixes(matrix: sparse.csr_matrix, sizes: np.ndarray, threshold: float) -> sparse.csr_matrix:
    """Return the first elements of each set, of which a similar set must have one among its own first."""
    needed = np.ceil(threshold * sizes - _ROUNDING).astype(np.int64)
    lengths = np.minimum(sizes, sizes - needed + 1)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    places = np.repeat(matrix.indptr[:-1] - ends[:-1], lengths) + np.arange(ends[-1])
    return sparse.csr_matrix(
        (np.ones(len(places), dtype=np.int32), matrix.indices[places], ends), shape=matrix.shape
    )


def _sets(texts: Iterable[str], min_shingles: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the elements of all sets, numbered from rare to frequent, and where each set begins."""
    numbers: dict[str, int] = {}
    flat, edges = array("i"), array("q", [0])
    for text in texts:
        padded = f" {text} "
        shingles = {padded[start : start + _LENGTH] for start in range(len(padded) - _LENGTH + 1)}
        if len(shingles) >= min_shingles:
            flat.extend(numbers.setdefault(shingle, len(numbers)) for shingle in shingles)
        edges.append(len(flat))
    elements = np.frombuffer(flat, dtype=np.intc) if flat else np.empty(0, dtype=np.intc)
    rank = np.empty(len(numbers), dtype=np.intc)
    rank[np.argsort(np.bincount(elements, minlength=len(numbers)), kind="stable")] = np.arange(len(numbers))
    return rank[elements], np.array(edges, dtype=np.int64)


def _count(
    matrix: sparse.csr_matrix, sizes: np.ndarray, one: np.ndarray, other: np.ndarray, threshold: float
) -> np.ndarray:
    """Return those of the pairs that are similar enough."""
    kept = [np.empty((0, 2), dtype=np.int64)]
    for begin in range(0, len(one), _PAIRS):
        left, right = one[begin : begin + _PAIRS], other[begin : begin + _PAIRS]
        shared = np.asarray(matrix[left].multiply(matrix[right]).sum(axis=1)).ravel()
        near = shared >= threshold * (sizes[left] + sizes[right] - shared) - _ROUNDING
        kept.append(np.column_stack([left, right])[near])
    return np.concatenate(kept)
