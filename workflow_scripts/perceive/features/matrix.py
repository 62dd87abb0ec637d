"""The feature matrix: which columns there are, in which order, and what is learned per fold.

The only part of the features that learns from data is the reduction of encoders that are wider than 384
dimensions; it is fitted on the training rows of each fold, so no validation text shapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from perceive.features.lexical import FEATURES as LEXICAL
from perceive.features.temporal import FEATURES as TEMPORAL
from perceive.variables import CORES

if TYPE_CHECKING:  # what serves does without
    import pandas as pd

EMBEDDING_DIMENSION = 384
ANCHORS: tuple[str, ...] = tuple(f"anchor_{core.lower()}" for core in CORES)
EMBEDDING: tuple[str, ...] = (*(f"emb_{i:03d}" for i in range(EMBEDDING_DIMENSION)), *ANCHORS)
ALL: tuple[str, ...] = (*LEXICAL, *EMBEDDING, *TEMPORAL)
"""The 418 features of a model that sees the timeline; without `TEMPORAL` they are 405."""

TEXT: tuple[str, ...] = (*LEXICAL, *EMBEDDING)
"""The 405 features without the timeline."""

BASE_FEATURES: dict[str, tuple[str, ...]] = {"lx": LEXICAL, "eb": EMBEDDING, "tm": TEMPORAL, "full": ALL}
TRANSFORMER, GRU = "transformer", "gru"
TEXT_ALONE = "text_alone"
"""The GRU's twin that sees the item alone: what history adds is measured against it."""
BASES: tuple[str, ...] = (*BASE_FEATURES, TRANSFORMER)
"""Base models of a regression variable, in the order of the blender's outputs."""

SEQUENCE_BASES: tuple[str, ...] = (*BASE_FEATURES, GRU)
"""Base models of a sequence variable, in the order of the blender's outputs."""

PATH_BASES: tuple[str, ...] = ("lx", "eb", TRANSFORMER)
"""Base models of a hierarchy variable, in the order of the blender's outputs."""
SILENT = 1e-6
"""Embedding values up to this size count as zero. An encoder may have dimensions that it has switched off:
three of MiniLM's lie at 1e-8 and 1e-33 for every text. A tree would split on them all the same, and in half
precision they are gone."""
LENGTHS = ("SHORT", "MEDIUM", "LONG")
LANGUAGES = ("en", "hinglish")
CONTEXT: tuple[str, ...] = (
    *(f"len_{bucket.lower()}" for bucket in LENGTHS),
    *(f"lang_{language}" for language in LANGUAGES),
    "profanity_score",
    "negations",
    "emoji_count",
    "word_count",
)


def context(items: pd.DataFrame, lexical: pd.DataFrame) -> np.ndarray:
    """Context of the blender.

    Parameters
    ----------
    items : DataFrame
        ``length_bucket`` and ``language`` of n items.
    lexical : DataFrame
        Lexical features of the same rows.

    Returns
    -------
    ndarray of shape (n, 9), float32
        Columns as in `CONTEXT`.
    """
    return context_of(
        items["length_bucket"].to_numpy(dtype=object),
        items["language"].to_numpy(dtype=object),
        lexical[list(LEXICAL)].to_numpy(),
    )


def context_of(
    length_buckets: Sequence[str] | np.ndarray, languages: Sequence[str] | np.ndarray, lexical: np.ndarray
) -> np.ndarray:
    """`context` from plain arrays; ``lexical`` has the columns of the lexical features."""
    buckets, spoken = np.asarray(length_buckets, dtype=object), np.asarray(languages, dtype=object)
    columns = [buckets == bucket for bucket in LENGTHS]
    columns += [spoken == language for language in LANGUAGES]
    columns += [lexical[:, LEXICAL.index(name)] for name in CONTEXT[5:]]
    return np.column_stack(columns).astype(np.float32)


@dataclass
class Projection:
    """Reduces the embeddings of each language to 384 dimensions by a principal component analysis.

    Languages whose encoder has 384 dimensions or fewer pass unchanged (padded with zeros).
    """

    components: dict[str, np.ndarray] = field(default_factory=dict)
    """Language to a matrix [384, dimension]."""
    means: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def fit(cls, embeddings: np.ndarray, languages: Sequence[str] | np.ndarray, seed: int = 0) -> Projection:
        """Fit on training rows.

        Parameters
        ----------
        embeddings : ndarray of shape (n, width)
            Raw embeddings; rows of a narrower encoder are padded with NaN at their end.
        languages : sequence of str, length n
        seed : int
            Seed of the randomised solver.
        """
        from sklearn.decomposition import PCA

        result = cls()
        language_of_row = np.asarray(languages)
        for language in sorted(set(languages)):
            rows = embeddings[language_of_row == language]
            rows = rows[:, ~np.isnan(rows).any(axis=0)]
            if rows.shape[1] <= EMBEDDING_DIMENSION:
                continue
            matrix = np.zeros((EMBEDDING_DIMENSION, rows.shape[1]), dtype=np.float32)
            # n rows span n - 1 directions around their mean.
            count = min(EMBEDDING_DIMENSION, len(rows) - 1)
            if count:
                pca = PCA(count, svd_solver="randomized", random_state=seed).fit(rows)
                matrix[:count] = pca.components_
            result.components[language] = matrix
            result.means[language] = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        return result

    def transform(self, embeddings: np.ndarray, languages: Sequence[str] | np.ndarray) -> np.ndarray:
        """Reduce rows; what is `SILENT` becomes zero.

        Returns
        -------
        ndarray of shape (n, 384), float32
        """
        out = np.zeros((len(embeddings), EMBEDDING_DIMENSION), dtype=np.float32)
        language_of_row = np.asarray(languages)
        for language in sorted(set(languages)):
            rows = language_of_row == language
            if language in self.components:
                matrix = self.components[language]
                raw = embeddings[rows][:, : matrix.shape[1]]
                out[rows] = (raw - self.means[language]) @ matrix.T
            else:
                width = min(embeddings.shape[1], EMBEDDING_DIMENSION)
                out[rows, :width] = np.nan_to_num(embeddings[rows][:, :width])
        out[np.abs(out) <= SILENT] = 0
        return out

    def tensors(self) -> dict[str, np.ndarray]:
        """What a safetensors file holds of the projection."""
        return {
            **{f"components.{name}": value for name, value in self.components.items()},
            **{f"mean.{name}": value for name, value in self.means.items()},
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> Projection:
        """The inverse of `tensors`."""
        split = {kind: {} for kind in ("components", "mean")}  # type: dict[str, dict[str, np.ndarray]]
        for key, value in tensors.items():
            kind, language = key.split(".", 1)
            split[kind][language] = value
        return cls(split["components"], split["mean"])


def assemble(
    lexical: pd.DataFrame, embedding: pd.DataFrame, temporal: pd.DataFrame, projected: np.ndarray
) -> pd.DataFrame:
    """Join the feature groups of the same rows into ``item_id`` and the 418 columns of `ALL`, float32."""
    import pandas as pd

    values = np.column_stack(
        [
            lexical[list(LEXICAL)].to_numpy(np.float32),
            projected.astype(np.float32),
            embedding[list(ANCHORS)].to_numpy(np.float32),
            temporal[list(TEMPORAL)].to_numpy(np.float32),
        ]
    )
    frame = pd.DataFrame(values, columns=list(ALL))
    frame.insert(0, "item_id", lexical["item_id"].to_numpy())
    return frame
