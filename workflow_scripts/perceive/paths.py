"""Paths of a taxonomy as codes, and the probabilities of their levels.

Probabilities come as ``p``: one array per level, shape (n, labels of the level), columns in the order of
``taxonomy.labels(level)``. They are joint: ``p[1]`` holds p(core and nuance), so every row of every level
sums to one. Codes are one row per item, one column per level, each the position of the label in
``taxonomy.labels(level)``, -1 where the path stops early.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perceive import path_ensemble

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Levels = Sequence[Array]

# Rows of rounded float32 probabilities of hundreds of labels stay well within this.
_SUM_TOLERANCE = 1e-3


def parents(taxonomy: Taxonomy) -> tuple[Codes, ...]:
    """For each level, the position of every label's parent in the level above; zeros at the first level."""
    above: dict[tuple[str, ...], int] = {(): 0}
    result = []
    for level in range(taxonomy.depth):
        labels = taxonomy.labels(level)
        result.append(np.array([above[label[:-1]] for label in labels], dtype=np.int64))
        above = {label: position for position, label in enumerate(labels)}
    return tuple(result)


def encode(paths: Iterable[Sequence[str]], taxonomy: Taxonomy) -> Codes:
    """Codes of paths of one to all levels, shape (n, levels).

    Raises
    ------
    ValueError
        If a path is empty or not in the taxonomy; the message gives its row.
    """
    depth = taxonomy.depth
    known: dict[tuple[str, ...], list[int]] = {(): []}
    for level in range(depth):
        for position, label in enumerate(taxonomy.labels(level)):
            known[label] = [*known[label[:-1]], position]
    paths = [tuple(path) for path in paths]
    codes = np.full((len(paths), depth), -1, dtype=np.int64)
    for row, path in enumerate(paths):
        if not path or path not in known:
            raise ValueError(
                f"the label of row {row} is not in the taxonomy ({'/'.join(taxonomy.levels)}); correct the "
                "label, or add its path to the taxonomy file"
            )
        codes[row, : len(path)] = known[path]
    return codes


def checked(p: Sequence[Any], taxonomy: Taxonomy, name: str = "p") -> list[Array]:
    """The probabilities as float64.

    Raises
    ------
    ValueError
        If a level is missing, a shape differs, a value is not finite or negative, or a row does not sum to
        one; the message gives level and row.
    """
    if len(p) != taxonomy.depth:
        raise ValueError(f"{name} has {len(p)} levels, but the taxonomy has {taxonomy.depth}")
    result = [np.asarray(level, dtype=np.float64) for level in p]
    for number, (level, values) in enumerate(zip(taxonomy.levels, result, strict=True)):
        shape = len(result[0]), len(taxonomy.labels(number))
        if values.shape != shape:
            raise ValueError(f"{name} at level {level} has the shape {values.shape}, not {shape}")
        wrong = ~(np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1))
        wrong |= ~(np.abs(values.sum(axis=1) - 1.0) <= _SUM_TOLERANCE)
        if wrong.any():
            raise ValueError(
                f"{name} at level {level} is no distribution in {int(wrong.sum())} rows, first in row "
                f"{np.flatnonzero(wrong)[0]}: probabilities must be finite, not negative, and sum to 1"
            )
    return result


def decode(p: Levels, taxonomy: Taxonomy) -> Codes:
    """The answer: the most probable core, the most probable nuance of that core, and so on; always valid.

    Top down, not the leaf of the highest joint probability, because (1) the answer's core is then the most
    probable core, which the highest leaf's often is not where a core's mass spreads over many leaves; (2)
    adding deeper levels never changes the answer above them; (3) a calibration that keeps the order of
    siblings, as a temperature does, never changes an answer. Equal probabilities: the first in the
    taxonomy's order.

    Returns
    -------
    ndarray of shape (n, levels)
        Codes.
    """
    return path_ensemble.decode(p, parents(taxonomy))


def levelwise_argmax(p: Levels) -> Codes:
    """The most probable label of each level by itself, codes of shape (n, levels); see :func:`is_path`."""
    return np.stack([np.asarray(values).argmax(axis=1) for values in p], axis=1)


def is_path(codes: Codes, taxonomy: Taxonomy) -> NDArray[np.bool_]:
    """Whether each row's labels lie below one another, shape (n,)."""
    valid = np.ones(len(codes), dtype=bool)
    for level, above in enumerate(parents(taxonomy)[1:], start=1):
        valid &= above[codes[:, level]] == codes[:, level - 1]
    return valid
