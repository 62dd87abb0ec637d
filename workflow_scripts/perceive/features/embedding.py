"""Embedding features: the sentence encoder's output, and the similarity to one anchor per core emotion."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from perceive.encoder import EmbeddingCache, Encoder
from perceive.features.matrix import ANCHORS
from perceive.variables import CORES

log = logging.getLogger(__name__)


def anchor_matrix(vectors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Unit vectors [6, dimension]: the mean direction of each core's anchor sentences.

    Parameters
    ----------
    vectors : mapping of str to ndarray of shape (sentences, dimension)
        Embeddings of the anchor sentences by core.
    """
    means = np.stack([vectors[core].mean(axis=0) for core in CORES])
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def embed_items(
    items: pd.DataFrame,
    encoders: Mapping[str, Path],
    anchors: Mapping[str, Mapping[str, list[str]]],
    *,
    cache: Path,
    streams: int = 2,
) -> pd.DataFrame:
    """Embed items, each by the encoder of its language; the English one serves languages without.

    Parameters
    ----------
    items : DataFrame
        ``item_id``, ``text``, ``language``.
    encoders : mapping of str to Path
        Language to the folder of its converted encoder; ``en`` must be there.
    anchors : mapping
        Language to core to anchor sentences.
    cache : Path
        SQLite file of known embeddings.

    Returns
    -------
    DataFrame
        ``item_id``, ``emb_000`` ... (as many as the widest encoder has dimensions; narrower ones end in
        NaN) and the six anchor similarities (cosines), float32.
    """
    languages = items["language"].to_numpy()
    present = sorted(set(languages))
    width = 384
    parts = []
    for language in present:
        served_by = language if language in encoders else "en"
        if served_by != language:
            log.info("no encoder is configured for %s; the English one serves it", language)
        encoder = Encoder(encoders[served_by], streams=streams)
        width = max(width, encoder.dimension)
        store = EmbeddingCache(cache, encoder)
        rows = np.flatnonzero(languages == language)
        vectors, new = store.embed(items["text"].iloc[rows].tolist())
        sentences = anchors.get(language) or anchors["en"]
        matrix = anchor_matrix({core: store.embed(sentences[core])[0] for core in CORES})
        store.close()
        norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        parts.append((rows, vectors, vectors / norms @ matrix.T))
        log.info("%s: %d texts, %d of them new", language, len(rows), new)
    embedding = np.full((len(items), width), np.nan, dtype=np.float32)
    similarity = np.zeros((len(items), len(ANCHORS)), dtype=np.float32)
    for rows, vectors, cosines in parts:
        embedding[rows, : vectors.shape[1]] = vectors
        similarity[rows] = cosines
    frame = pd.DataFrame(
        np.column_stack([embedding, similarity]), columns=[*(f"emb_{i:03d}" for i in range(width)), *ANCHORS]
    )
    frame.insert(0, "item_id", items["item_id"].to_numpy())
    return frame
