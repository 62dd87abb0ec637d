"""Near-duplicate texts: pairs that share nearly all of their shingles.

A text is compared by its *shingles*: the set of all runs of 5 characters of the normalised text between two
spaces (so that its first and last word have edges like any other). The similarity of two texts is the
Jaccard coefficient of their sets, ``|A and B| / |A or B|`` (Broder 1997, On the resemblance and containment
of documents). Characters serve short texts better than words: one added, misspelt or differently spelt word
changes a few of a sentence's shingles, but most of its word triples.

Candidates come from MinHash sketches cut into bands (Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3); every candidate is then compared exactly, so no pair below the threshold comes out, and
one at the threshold is missed once in ten million.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sparse

SHINGLE = 5
THRESHOLD = 0.8
MIN_SHINGLES = 20
MIN_THRESHOLD = 0.5

_PERMUTATIONS = 128
_MISSED = 1e-7  # chance that a pair at the threshold shares no band
_MARGIN = 0.25  # seven standard deviations of a similarity that 128 permutations estimate
_BLOCK = 20_000
_MAX_CANDIDATES = 2_000_000_000  # about half an hour
_MAX_PAIRS = 50_000_000  # about 3 GB
_ROUNDING = 1e-9


def near_pairs(
    texts: Sequence[str], *, threshold: float = THRESHOLD, min_shingles: int = MIN_SHINGLES
) -> np.ndarray:
    """Find all pairs of near-duplicates.

    Parameters
    ----------
    texts
        Distinct normalised texts (:func:`perceive.splits.normalise_text`).
    threshold
        Smallest similarity of a pair, .5 to 1.
    min_shingles
        Texts with fewer distinct shingles have no near-duplicates: by chance alone people write short
        sentences that differ in a few characters and mean something else ("day 11", "day 12").

    Returns
    -------
    numpy.ndarray
        Positions in `texts`, int64, shape (pairs, 2), the smaller first, sorted. The same pairs for every
        order of the texts.

    Raises
    ------
    ValueError
        For a threshold out of range, or texts of which so many are alike that their pairs cannot be listed.
    """
    if not MIN_THRESHOLD <= threshold <= 1:
        raise ValueError(f"the threshold of near-duplicates must lie in {MIN_THRESHOLD}..1, not {threshold}")
    sketches, sizes, rows = _sketch(texts, min_shingles)
    found = [np.empty(0, dtype=np.int64)]
    compared = 0
    for band in np.split(sketches, _band_edges(threshold), axis=1)[:-1]:
        listed = len(found[0])
        for one, other in _same_bucket(band):
            compared += len(one)
            small = np.minimum(sizes[one], sizes[other])
            fits = small >= threshold * np.maximum(sizes[one], sizes[other]) - _ROUNDING
            one, other = one[fits], other[fits]
            alike = (sketches[one] == sketches[other]).mean(axis=1) >= threshold - _MARGIN
            one, other = np.minimum(one, other)[alike], np.maximum(one, other)[alike]
            found.append(one * len(rows) + other)
            listed += len(one)
            if compared > _MAX_CANDIDATES or listed > _MAX_PAIRS:
                raise ValueError(
                    f"near-duplicates: {len(texts)} texts have too many pairs that look alike ({compared:,} "
                    f"compared, {listed:,} found): the corpus repeats a few templates. Set a higher "
                    "threshold, or min_shingles above the templates' length"
                )
        found = [np.unique(np.concatenate(found))]
    one, other = np.divmod(found[0], max(len(rows), 1))
    pairs = np.column_stack([rows[one], rows[other]])
    return pairs[_similarity(texts, pairs, threshold)]


def adjacency(pairs: np.ndarray, n: int) -> sparse.csr_matrix:
    """Return the symmetric matrix [n, n] of the pairs, with ones on the diagonal.

    Its product with an indicator of some texts is positive at these and their near-duplicates.
    """
    one, other = pairs.T
    itself = np.arange(n)
    rows, columns = np.concatenate([one, other, itself]), np.concatenate([other, one, itself])
    return sparse.csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=(n, n))


def _shingles(texts: Sequence[str]) -> list[np.ndarray]:
    """Return the sorted distinct shingles of each text, as 64-bit hashes."""
    padded = [f" {text} " for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    n = max(len(codes) - SHINGLE + 1, 0)
    hashes = np.zeros(n, dtype=np.uint64)
    for offset in range(SHINGLE):
        # Multiplication by an odd number and the mixing below lose nothing; each code enters a new digit.
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + n] + np.uint64(1)
        hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(29)
    ends = np.cumsum([len(text) for text in padded])
    starts = ends - [len(text) for text in padded]
    return [
        np.unique(hashes[start : max(start, end - SHINGLE + 1)])
        for start, end in zip(starts, ends, strict=True)
    ]


def _sketch(texts: Sequence[str], min_shingles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sketches [m, permutations] of the m texts that are long enough, their sizes and rows."""
    from datasketch import MinHash  # takes .3 s, which jobs that only take rows from the splits do not pay

    sketches = [np.empty((0, _PERMUTATIONS), dtype=np.uint32)]
    sizes, rows = [], []
    for begin in range(0, len(texts), _BLOCK):
        block = _shingles(texts[begin : begin + _BLOCK])
        long = [position for position, shingles in enumerate(block) if len(shingles) >= max(min_shingles, 1)]
        lists = ((block[position] & np.uint64(0xFFFFFFFF)).tolist() for position in long)
        made = MinHash.bulk(lists, num_perm=_PERMUTATIONS, hashfunc=int)
        sketches += [sketch.hashvalues[None] for sketch in made]
        sizes += [len(block[position]) for position in long]
        rows += [begin + position for position in long]
    return np.concatenate(sketches), np.array(sizes, dtype=np.int64), np.array(rows, dtype=np.int64)


def _band_edges(threshold: float) -> np.ndarray:
    """Return where the sketch is cut: the longest bands that still catch a pair at the threshold."""
    for rows in range(_PERMUTATIONS, 0, -1):
        bands = _PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= _MISSED:
            return np.arange(1, bands + 1) * rows
    raise AssertionError("every threshold from .5 on is caught by bands of one row")


def _same_bucket(band: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of rows that are equal in the band, in portions of at most one per row."""
    # datasketch's MinHashLSH keeps Python sets of keys: 900 MB and 8 s for 50,000 texts. Sorting takes .3 s.
    keys = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        keys = (keys + column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(32)
    order = np.argsort(keys, kind="stable")
    left = np.arange(len(order) - 1)
    for distance in range(1, len(order)):
        left = left[left + distance < len(order)]
        left = left[keys[order[left]] == keys[order[left + distance]]]
        if not len(left):
            return
        yield order[left], order[left + distance]


def _similarity(texts: Sequence[str], pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Return which pairs are at least `threshold` similar, by their shingles themselves."""
    involved, positions = np.unique(pairs, return_inverse=True)
    positions = positions.reshape(pairs.shape)
    if not len(involved):
        return np.zeros(0, dtype=bool)
    sets = _shingles([texts[row] for row in involved])
    sizes = np.array([len(shingles) for shingles in sets])
    columns = np.unique(np.concatenate(sets), return_inverse=True)[1]
    edges = np.concatenate([[0], np.cumsum(sizes)])
    matrix = sparse.csr_matrix((np.ones(len(columns), dtype=np.int32), columns, edges))
    near = []
    for begin in range(0, len(pairs), _BLOCK):
        one, other = positions[begin : begin + _BLOCK].T
        shared = np.asarray(matrix[one].multiply(matrix[other]).sum(axis=1)).ravel()
        near.append(shared >= threshold * (sizes[one] + sizes[other] - shared) - _ROUNDING)
    return np.concatenate(near)
