"""Each item is embedded by the encoder of its language and compared with the anchors of its language."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perceive.encoder import Encoder
from perceive.features.anchors import load_anchors
from perceive.features.embedding import anchor_matrix, embed_items
from perceive.features.matrix import ANCHORS, CORES, EMBEDDING, SILENT, Projection

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit", "ignore:.*checkpointing", "ignore:Converting a tensor"
)

SENTENCES = load_anchors(Path(__file__).resolve().parent.parent / "resources" / "anchors.tsv")
ITEMS = pd.DataFrame(
    {
        "item_id": list("abcdef"),
        "text": [
            "I feel so happy",
            "bahut gussa hai",
            "I feel so happy",
            "kal dekhte hain",
            "Sad again.",
            "ok",
        ],
        "language": ["en", "hinglish", "en", "hinglish", "en", "en"],
    }
)
RAW = [f"emb_{number:03d}" for number in range(384)]


def raw(frame: pd.DataFrame) -> np.ndarray:
    return frame[[name for name in frame.columns if str(name).startswith("emb_")]].to_numpy()


def expected_anchors(folder: Path, language: str, texts: list[str]) -> np.ndarray:
    encoder = Encoder(folder)
    unit = encoder.embed(texts)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    means = np.stack([encoder.embed(SENTENCES[language][core]).mean(axis=0) for core in CORES])
    return unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T


def test_the_english_encoder_serves_every_language_without_its_own(
    encoder_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        frame = embed_items(ITEMS, {"en": encoder_folder}, SENTENCES, cache=tmp_path / "cache.sqlite")
    assert list(frame.columns) == ["item_id", *EMBEDDING]
    assert list(frame["item_id"]) == list(ITEMS["item_id"])
    assert set(frame.dtypes[1:]) == {np.dtype(np.float32)} and not frame.isna().any().any()
    np.testing.assert_allclose(raw(frame), Encoder(encoder_folder).embed(ITEMS["text"].tolist()), atol=1e-5)
    for language in ("en", "hinglish"):
        rows = (ITEMS["language"] == language).to_numpy()
        wanted = expected_anchors(encoder_folder, language, ITEMS["text"][rows].tolist())
        np.testing.assert_allclose(frame.loc[rows, list(ANCHORS)], wanted, atol=1e-5)
    assert caplog.text.count("no encoder is configured for hinglish; the English one serves it") == 1
    assert "en: 4 texts, 3 of them new" in caplog.text
    assert (
        frame["anchor_happy"][0] > frame["anchor_sad"][0]
        and frame["anchor_sad"][4] > frame["anchor_happy"][4]
    )
    assert "happy hai" not in caplog.text and "gussa" not in caplog.text, "no text in a log"


def test_a_wider_encoder_goes_end_to_end(encoder_folder: Path, wide_folder: Path, tmp_path: Path) -> None:
    encoders = {"en": encoder_folder, "hinglish": wide_folder}
    many = pd.DataFrame(
        {
            "item_id": [f"i{number}" for number in range(60)],
            "text": [f"text {number % 50} of {'many' if number % 3 else 'some'}" for number in range(60)],
            "language": ["hinglish" if number % 4 else "en" for number in range(60)],
        }
    )
    frame = embed_items(many, encoders, SENTENCES, cache=tmp_path / "cache.sqlite")
    values, hinglish = raw(frame), (many["language"] == "hinglish").to_numpy()
    assert values.shape == (60, 512)
    assert not np.isnan(values[hinglish]).any()
    assert not np.isnan(values[~hinglish, :384]).any() and np.isnan(values[~hinglish, 384:]).all()
    for language, folder in encoders.items():
        rows = (many["language"] == language).to_numpy()
        texts = many["text"][rows].tolist()
        width = Encoder(folder).dimension
        np.testing.assert_allclose(values[rows, :width], Encoder(folder).embed(texts), atol=1e-5)
        wanted = expected_anchors(folder, language, texts)
        np.testing.assert_allclose(frame.loc[rows, list(ANCHORS)], wanted, atol=1e-5)

    languages = many["language"].to_numpy()
    projection = Projection.fit(values[:40], languages[:40])
    projected = projection.transform(values, languages)
    assert projected.shape == (60, 384) and not np.isnan(projected).any()
    np.testing.assert_allclose(projected[~hinglish], values[~hinglish, :384], rtol=0, atol=SILENT)
    train = np.flatnonzero(hinglish[:40])

    def distances(matrix: np.ndarray) -> np.ndarray:
        return np.linalg.norm(matrix[train, None] - matrix[None, train], axis=-1)

    # 30 rows span fewer than 384 dimensions: the projection keeps every distance between them.
    np.testing.assert_allclose(distances(projected), distances(values), atol=1e-3)


def test_the_order_of_the_items_does_not_matter_and_known_texts_are_not_embedded(
    wide_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {
        "encoders": {"en": wide_folder},
        "anchors": SENTENCES,
        "cache": tmp_path / "cache.sqlite",
    }
    first = embed_items(ITEMS, **options)
    shuffled = ITEMS.sample(frac=1, random_state=3).reset_index(drop=True)
    with caplog.at_level(logging.INFO):
        again = embed_items(shuffled, **options)
    pd.testing.assert_frame_equal(
        again.sort_values("item_id", ignore_index=True), first.sort_values("item_id", ignore_index=True)
    )
    assert caplog.text.count("0 of them new") == 2
    caplog.clear()
    new = pd.concat([ITEMS, pd.DataFrame({"item_id": ["g"], "text": ["new"], "language": ["en"]})])
    with caplog.at_level(logging.INFO):
        embed_items(new, **options)
    assert "en: 5 texts, 1 of them new" in caplog.text


def test_a_language_without_anchors_takes_the_english_ones(wide_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"encoders": {"en": wide_folder}, "cache": tmp_path / "cache.sqlite"}
    items = ITEMS.assign(text="the same", language=["en", "hinglish"] * 3)
    frame = embed_items(items, anchors={"en": SENTENCES["en"]}, **options)
    assert (frame[list(ANCHORS)] == frame[list(ANCHORS)].iloc[0]).all().all()
    both = embed_items(items, anchors=SENTENCES, **options)
    assert not np.allclose(both[list(ANCHORS)].iloc[0], both[list(ANCHORS)].iloc[1])


def test_anchors_are_unit_vectors_in_the_order_of_the_cores() -> None:
    rng = np.random.default_rng(0)
    vectors = {core: rng.normal(size=(number + 1, 5)) * 7 for number, core in enumerate(reversed(CORES))}
    matrix = anchor_matrix(vectors)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1)
    for line, core in zip(matrix, CORES, strict=True):
        mean = vectors[core].mean(axis=0)
        np.testing.assert_allclose(line, mean / np.linalg.norm(mean))
    assert not np.isnan(anchor_matrix(dict.fromkeys(CORES, np.zeros((2, 5))))).any()


def test_a_copy_of_an_encoder_shares_its_embeddings(wide_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(wide_folder, copy)
    assert Encoder(copy).fingerprint == Encoder(wide_folder).fingerprint
