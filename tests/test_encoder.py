"""The converted encoder answers as sentence-transformers does, and no text is embedded twice."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ENGLISH

from perceive import config
from perceive.encoder import (
    EmbeddingCache,
    Encoder,
    check_weights,
    resolve_model,
    source_sha256,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit", "ignore:.*checkpointing", "ignore:Converting a tensor"
)

TEXTS = [
    "I finally told her the truth, and she smiled.",
    "Nothing matters today. I did not even get up.",
    "She was NOT happy!!! Not at all...",
    "we're going to be late again, aren't we?",
    "aaj dil bahut udaas hai yaar",
    "mujhe lagta hai sab theek ho jayega, tension mat le",
    "kya bakwaas hai ye, itna gussa aa raha hai mujhe 😡",
    "office me boss ne sabke saamne daanta, bohot bura laga",
    "😭😭😭",
    "❤️ 👨‍👩‍👧 🙃",
    "so happy 🎉🎉 best day ever",
    "a",
    "?",
    " ",
    "\t\n  ",
    "...",
    "0",
    "मैं आज बहुत खुश हूँ",
    "café naïve résumé",
    "ＦＵＬＬ ｗｉｄｔｈ",
    "zero\u200bwidth and\u00a0no-break",
    "CAPS LOCK ALL THE WAY",
    "http://example.org/a?b=c#d @someone #tag",
    "x" * 500,
    "1234567890 " * 30,
    "word " * 255,
    "word " * 254,
    "word " * 253,
    "very long indeed, and then longer still; " * 400,
    "😀" * 600,
    "antidisestablishmentarianism supercalifragilisticexpialidocious",
    "He said: \"no\" – and left… 'why?'",
    "<b>bold</b> &amp; {json: [1, 2]}",
    "\x00\x07control\x1b characters",
    "new\nline\r\nand\ttab",
    "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "I am fine.",
    "I am fine",
    "i AM fine.",
    "the end",
]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def reference(source: Path, texts: Sequence[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(source), device="cpu").encode(list(texts), show_progress_bar=False)


@pytest.fixture(scope="module")
def embedded(encoder_folder: Path) -> np.ndarray:
    return Encoder(encoder_folder).embed(TEXTS)


# --- Conversion --------------------------------------------------------------------------------------------


def test_the_english_encoder_answers_as_sentence_transformers(embedded: np.ndarray) -> None:
    expected = reference(resolve_model(ENGLISH), TEXTS)
    assert embedded.shape == (len(TEXTS), 384) and embedded.dtype == np.float32
    assert cosines(embedded, expected).min() >= 0.99999
    np.testing.assert_allclose(embedded, expected, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)


def test_a_wide_encoder_with_a_dense_layer_and_few_positions(wide_source: Path, wide_folder: Path) -> None:
    texts = ["Hello, World", "hello, world", "HOW are you?", "a", "abc " * 11, "abc " * 12, "xyz!" * 40, "ü"]
    got = Encoder(wide_folder).embed(texts)
    assert got.shape == (len(texts), 512)
    assert cosines(got, reference(wide_source, texts)).min() >= 0.99999
    np.testing.assert_allclose(got[0], got[1], atol=1e-5, err_msg="the model lowercases")


def with_meta(folder: Path, target: Path, **changes: Any) -> Path:
    """A copy of a converted encoder with other facts in its ``encoder.json``."""
    shutil.copytree(folder, target)
    meta = json.loads((target / "encoder.json").read_text())
    assert meta.keys() >= changes.keys()
    (target / "encoder.json").write_text(json.dumps({**meta, **changes}))
    return target


def test_the_limit_of_tokens_is_the_smaller_one(wide_folder: Path, tmp_path: Path) -> None:
    # 256 was asked for, but the model has 37 positions.
    assert json.loads((wide_folder / "encoder.json").read_text())["max_tokens"] == 37
    encoder = Encoder(with_meta(wide_folder, tmp_path / "short", max_tokens=8))
    got = encoder.embed(["a b c d e f", "a b c d e f g h i", "a b c d e"])
    np.testing.assert_allclose(got[0], got[1], atol=1e-6)
    assert cosines(got[:1], got[2:])[0] < 0.9999


def test_a_row_does_not_depend_on_the_rest_of_the_batch(encoder_folder: Path, embedded: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = Encoder(encoder_folder, streams=1).embed([TEXTS[row] for row in order])
    np.testing.assert_allclose(shuffled, embedded[order], atol=2e-6)
    encoder = Encoder(encoder_folder)
    for row in (0, 4, 9, 28):
        np.testing.assert_allclose(encoder.embed([TEXTS[row]])[0], embedded[row], atol=2e-6)
    many = encoder.embed([TEXTS[row % 12] for row in range(500)])
    np.testing.assert_allclose(many, embedded[np.arange(500) % 12], atol=2e-6)


def test_no_text_gives_no_row(encoder_folder: Path) -> None:
    assert Encoder(encoder_folder).embed([]).shape == (0, 384)


def test_conversion_leaves_nothing_else_behind(wide_folder: Path) -> None:
    assert sorted(path.name for path in wide_folder.iterdir()) == [
        "encoder.json", "model.bin", "model.xml", "tokenizer.json"
    ]  # fmt: skip


def test_the_default_weights_are_those_that_the_configuration_expects() -> None:
    encoder = config.Settings().encoders["en"]
    assert encoder.model == ENGLISH
    assert check_weights(resolve_model(ENGLISH), encoder.sha256) == encoder.sha256


def test_other_weights_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"model\.safetensors has sha256 53aa.*expects 0000.*encoders\.\*\.sha256"
    ):
        check_weights(resolve_model(ENGLISH), "0" * 64)


def test_a_model_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'no_such_package' is not installed; run `make env`"):
        resolve_model("package:no_such_package")
    with pytest.raises(
        FileNotFoundError, match=r"no sentence-transformers folder .*correct encoders\.\*\.model"
    ):
        resolve_model(str(tmp_path))


def test_pickled_weights_are_not_read(wide_source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(wide_source, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="only weights in the safetensors format"):
        check_weights(folder, None)


def test_the_transformer_may_lie_in_a_folder_of_its_own(wide_source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(wide_source, folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [*folder.glob("*.json"), folder / "model.safetensors"]:
        if path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = inner.name
    (folder / "modules.json").write_text(json.dumps(modules))
    assert check_weights(folder, None) == check_weights(wide_source, None)


def test_the_hash_of_a_source_covers_every_module(wide_source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(wide_source, folder)
    before = source_sha256(folder)
    assert before == source_sha256(wide_source)
    (folder / "README.md").write_text("other words")
    assert source_sha256(folder) == before
    seen = {before}
    for name in ("2_Dense/model.safetensors", "1_Pooling/config.json", "tokenizer.json", "model.safetensors"):
        path = folder / name
        path.write_bytes(path.read_bytes() + b" ")
        seen.add(source_sha256(folder))
    assert len(seen) == 5


# --- The cache ---------------------------------------------------------------------------------------------


class Counting(Encoder):
    """The tiny encoder, with a record of what it was asked."""

    def __init__(self, folder: Path, **meta: Any) -> None:
        super().__init__(folder)
        self.asked: list[str] = []
        self.fail_after: int | None = None

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += texts
        return super().embed(texts)


@pytest.fixture
def encoder(wide_folder: Path) -> Counting:
    return Counting(wide_folder)


def embed(path: Path, encoder: Encoder, texts: list[str], **options: int) -> tuple[np.ndarray, int]:
    cache = EmbeddingCache(path, encoder)
    try:
        return cache.embed(texts, **options)
    finally:
        cache.close()


def test_only_new_texts_are_embedded(tmp_path: Path, encoder: Counting) -> None:
    path = tmp_path / "deep" / "cache.sqlite"
    first, new = embed(path, encoder, ["one", "two", "one", "three"])
    assert (new, encoder.asked) == (3, ["one", "two", "three"])
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_allclose(
        first, Encoder(encoder.folder).embed(["one", "two", "one", "three"]), atol=1e-5
    )
    again, new = embed(path, encoder, ["three", "one"])
    assert (new, len(encoder.asked)) == (0, 3)
    np.testing.assert_array_equal(again, first[[3, 0]])
    more, new = embed(path, encoder, ["four", "two", "four", "One"])
    assert (new, encoder.asked[3:]) == (2, ["four", "One"])
    np.testing.assert_array_equal(more[1], first[1])
    np.testing.assert_array_equal(more[0], more[2])


def test_many_texts_in_blocks(tmp_path: Path, encoder: Counting) -> None:
    texts = [f"text {number % 1300}" for number in range(2000)]
    got, new = embed(tmp_path / "cache.sqlite", encoder, texts, block=500)
    assert new == len(encoder.asked) == 1300
    direct = Encoder(encoder.folder).embed(texts)
    np.testing.assert_allclose(got, direct, atol=1e-5)
    np.testing.assert_array_equal(embed(tmp_path / "cache.sqlite", encoder, texts)[0], got)
    assert len(encoder.asked) == 1300


def test_what_was_embedded_before_a_kill_is_kept(tmp_path: Path, encoder: Counting) -> None:
    encoder.fail_after = 4
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "cache.sqlite", encoder, list("abcdefgh"), block=2)
    encoder.fail_after = None
    assert embed(tmp_path / "cache.sqlite", encoder, list("abcdefgh"))[1] == 4


@pytest.mark.parametrize("key", ["weights_sha256", "source_sha256", "max_tokens"])
def test_another_encoder_never_matches(tmp_path: Path, encoder: Counting, key: str) -> None:
    path = tmp_path / "cache.sqlite"
    embed(path, encoder, ["one", "two"])
    other = with_meta(encoder.folder, tmp_path / "other", **{key: 20 if key == "max_tokens" else "0" * 64})
    assert embed(path, Encoder(other), ["one", "two"])[1] == 2
    assert embed(path, encoder, ["one", "two"])[1] == 0


def test_the_cache_holds_no_text(tmp_path: Path, encoder: Counting) -> None:
    path = tmp_path / "cache.sqlite"
    embed(path, encoder, ["a very private sentence"])
    assert b"private" not in path.read_bytes()


def overwrite(path: Path, start: int, content: bytes) -> None:
    with open(path, "rb+") as handle:
        handle.seek(start)
        handle.write(content)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "page", "header"])
def test_a_damaged_cache_is_begun_anew(
    tmp_path: Path, encoder: Counting, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache.sqlite"
    texts = [f"text {number}" for number in range(60)]
    first, _ = embed(path, encoder, texts)
    size = path.stat().st_size
    if damage == "garbage":
        path.write_bytes(b"no database at all " * 100)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[: size // 2])
    elif damage == "page":
        overwrite(path, 4096, b"\xff" * (size - 2 * 4096))
    else:
        overwrite(path, 0, b"\x00" * 100)
    path.with_name("cache.sqlite-journal").write_bytes(b"stale")
    with caplog.at_level(logging.WARNING):
        got, new = embed(path, encoder, texts)
    assert new == 60 and "begun anew" in caplog.text
    np.testing.assert_allclose(got, first, atol=1e-6)
    assert embed(path, encoder, texts)[1] == 0


def test_a_vector_of_another_size_is_embedded_again(tmp_path: Path, encoder: Counting) -> None:
    path = tmp_path / "cache.sqlite"
    first, _ = embed(path, encoder, ["one"])
    with sqlite3.connect(path) as db:
        db.execute("UPDATE embedding SET vector = ?", (b"\x00" * 40,))
    db.close()
    again, new = embed(path, encoder, ["one"])
    assert new == 1
    np.testing.assert_allclose(again, first, atol=1e-6)


def test_a_cache_that_another_process_uses_is_not_taken_for_damaged(
    tmp_path: Path, encoder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.sqlite"
    embed(path, encoder, ["one"])
    monkeypatch.setattr(EmbeddingCache, "TIMEOUT_S", 0.1)
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        EmbeddingCache(path, encoder)
    other.close()
    assert embed(path, encoder, ["one"])[1] == 0
