"""The columns of the feature matrix, and that its one learned part learns from training rows alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA

from perceive import io
from perceive.features import matrix, store
from perceive.features.lexical import FEATURES as LEXICAL
from perceive.features.matrix import ALL, ANCHORS, CONTEXT, EMBEDDING, Projection, assemble, context
from perceive.features.temporal import FEATURES as TEMPORAL

SCRIPTS = Path(__file__).resolve().parent.parent / "workflow_scripts"
WIDE = 400


def embeddings(rng: np.random.Generator, languages: np.ndarray, wide: str = "hinglish") -> np.ndarray:
    """Rows of 384 dimensions, padded with NaN, and of `WIDE` ones for one language."""
    values = rng.normal(size=(len(languages), WIDE)).astype(np.float32)
    values[languages != wide, 384:] = np.nan
    return values


# --- Columns -----------------------------------------------------------------------------------------------


def test_the_columns_and_their_order() -> None:
    assert (len(LEXICAL), len(EMBEDDING), len(TEMPORAL), len(ALL)) == (15, 390, 13, 418)
    assert (*LEXICAL, *EMBEDDING, *TEMPORAL) == ALL and len(set(ALL)) == 418
    assert EMBEDDING[:2] == ("emb_000", "emb_001") and EMBEDDING[383] == "emb_383"
    assert EMBEDDING[384:] == ANCHORS and ANCHORS[0] == "anchor_happy" and ANCHORS[-1] == "anchor_fearful"
    assert matrix.BASES == ("lx", "eb", "tm", "full", "transformer")
    assert matrix.PATH_BASES == ("lx", "eb", "transformer") and len(matrix.TEXT) == 405
    assert dict(matrix.BASE_FEATURES) == {"lx": LEXICAL, "eb": EMBEDDING, "tm": TEMPORAL, "full": ALL}
    assert CONTEXT == (
        "len_short", "len_medium", "len_long", "lang_en", "lang_hinglish",
        "profanity_score", "negations", "emoji_count", "word_count",
    )  # fmt: skip


def tables(rng: np.random.Generator, n: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Lexical, embedding and temporal tables of n items, their columns in another order."""
    ids = [f"i{number}" for number in range(n)]

    def table(names: tuple[str, ...]) -> pd.DataFrame:
        frame = pd.DataFrame(rng.normal(size=(n, len(names))), columns=list(names))
        return frame[frame.columns[::-1]].assign(item_id=ids)

    return table(LEXICAL), table(EMBEDDING), table(TEMPORAL)


def test_assembling_puts_every_column_in_its_place() -> None:
    rng = np.random.default_rng(0)
    lexical, embedding, temporal = tables(rng, 7)
    projected = rng.normal(size=(7, 384))
    frame = assemble(lexical, embedding, temporal, projected)
    assert list(frame.columns) == ["item_id", *ALL] and len(frame.columns) == 419
    assert list(frame["item_id"]) == list(lexical["item_id"])
    assert set(frame.dtypes[1:]) == {np.dtype(np.float32)}
    for table, names in ((lexical, LEXICAL), (embedding, ANCHORS), (temporal, TEMPORAL)):
        np.testing.assert_array_equal(frame[list(names)], table[list(names)].astype(np.float32))
    np.testing.assert_array_equal(frame[list(EMBEDDING[:384])], projected.astype(np.float32))


def test_the_context_of_the_blender() -> None:
    items = pd.DataFrame(
        {
            "length_bucket": ["SHORT", "MEDIUM", "LONG", "SHORT"],
            "language": ["en", "hinglish", "en", "hinglish"],
        },
        index=[5, 6, 7, 8],
    )
    lexical = pd.DataFrame(np.arange(60.0).reshape(4, 15), columns=list(LEXICAL))
    found = context(items, lexical)
    assert found.shape == (4, len(CONTEXT)) and found.dtype == np.float32
    np.testing.assert_array_equal(
        found[:, :5], [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 1, 0], [1, 0, 0, 0, 1]]
    )
    for number, name in enumerate(CONTEXT[5:], start=5):
        np.testing.assert_array_equal(found[:, number], lexical[name])


# --- The projection ----------------------------------------------------------------------------------------


def test_384_dimensions_pass_unchanged() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 384)).astype(np.float32)
    languages = np.array(["en", "hinglish"] * 25)
    projection = Projection.fit(values, languages)
    assert not projection.components
    np.testing.assert_array_equal(projection.transform(values, languages), values)


def test_dimensions_that_the_encoder_has_switched_off_say_nothing() -> None:
    values = np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32)
    values[:, 7] *= 1e-33
    values[:, 9] = 3e-8 - 1e-9 * values[:, 9]
    out = Projection.fit(values, ["en"] * 50).transform(values, ["en"] * 50)
    assert not out[:, [7, 9]].any()
    np.testing.assert_array_equal(np.delete(out, [7, 9], axis=1), np.delete(values, [7, 9], axis=1))


def test_fewer_dimensions_are_padded_with_zeros() -> None:
    values = np.random.default_rng(0).normal(size=(5, 100)).astype(np.float32)
    out = Projection.fit(values, ["en"] * 5).transform(values, ["en"] * 5)
    np.testing.assert_array_equal(out[:, :100], values)
    assert out.shape == (5, 384) and not out[:, 100:].any()


def test_a_wider_encoder_is_reduced_to_its_principal_components() -> None:
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(WIDE, 10)))[0].T
    languages = np.array(["hinglish"] * 150 + ["en"] * 20)
    values = embeddings(rng, languages)
    scores = rng.normal(size=(150, 10)) * np.arange(20, 10, -1)
    values[:150] = 3 + scores @ directions + 0.01 * rng.normal(size=(150, WIDE))
    projection = Projection.fit(values, languages)
    assert list(projection.components) == ["hinglish"]
    out = projection.transform(values, languages)
    exact = PCA(10).fit_transform(values[:150])
    np.testing.assert_allclose(np.abs(out[:150, :10]), np.abs(exact), atol=0.02)
    np.testing.assert_array_equal(out[150:], values[150:, :384])
    again = Projection.fit(values, languages)
    np.testing.assert_array_equal(again.components["hinglish"], projection.components["hinglish"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 2, 30])
def test_few_training_rows_are_enough(n: int) -> None:
    rng = np.random.default_rng(0)
    languages = np.array(["hinglish"] * n)
    values = embeddings(rng, languages)
    projection = Projection.fit(values, languages)
    out = projection.transform(embeddings(rng, languages), languages)
    assert out.shape == (n, 384) and np.isfinite(out).all()
    assert not out[:, n:].any()


def test_a_language_that_training_lacks_is_still_finite() -> None:
    rng = np.random.default_rng(0)
    projection = Projection.fit(embeddings(rng, np.array(["en"] * 9)), ["en"] * 9)
    languages = np.array(["hinglish", "en"])
    assert np.isfinite(projection.transform(embeddings(rng, languages), languages)).all()
    assert projection.transform(np.zeros((0, WIDE), np.float32), np.array([], str)).shape == (0, 384)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40))
def test_a_row_is_projected_alike_whatever_the_others_are(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    languages = rng.choice(["en", "hinglish"], n)
    values = embeddings(rng, languages)
    projection = Projection.fit(embeddings(rng, np.array(["hinglish"] * 25)), ["hinglish"] * 25)
    whole = projection.transform(values, languages)
    some = rng.permutation(n)[: n // 2 + 1]
    np.testing.assert_allclose(projection.transform(values[some], languages[some]), whole[some], atol=1e-4)


def test_the_projection_survives_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    languages = np.array(["en", "hinglish"] * 20)
    values = rng.normal(size=(40, WIDE)).astype(np.float32)
    projection = Projection.fit(values, languages)
    assert sorted(projection.components) == ["en", "hinglish"]
    save_file(projection.tensors(), tmp_path / "projection.safetensors")
    read = Projection.from_tensors(load_file(tmp_path / "projection.safetensors"))
    np.testing.assert_array_equal(read.transform(values, languages), projection.transform(values, languages))
    save_file(Projection().tensors(), tmp_path / "empty.safetensors")
    assert not Projection.from_tensors(load_file(tmp_path / "empty.safetensors")).components


# --- The script that lays out the folds --------------------------------------------------------------------


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Corpus:
    """The inputs of the script on 90 items, and its outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        n = 90
        self.lexical, embedding, self.temporal = tables(rng, n)
        self.languages = np.where(np.arange(n) % 3 == 0, "en", "hinglish")
        raw = pd.DataFrame(embeddings(rng, self.languages), columns=[f"emb_{i:03d}" for i in range(WIDE)])
        self.embedding = pd.concat([raw, embedding[[*ANCHORS, "item_id"]]], axis=1)
        self.items = pd.DataFrame({"item_id": self.lexical["item_id"], "language": self.languages})
        split = np.array(["train"] * 60 + ["val"] * 15 + ["test"] * 12 + ["excluded"] * 3)
        fold = pd.array([number % 2 if number < 60 else None for number in range(n)], "Int8")
        self.split_items = pd.DataFrame(
            {
                "item_id": self.lexical["item_id"],
                "split": split,
                "fold": fold,
                "reason": None,
                "barred_folds": np.int32(0),
            }
        )

    def run(self) -> dict[str, pd.DataFrame]:
        inputs = {
            "language": self.items,
            "split_items": self.split_items,
            "lexical": self.lexical,
            "embedding": self.embedding,
            "temporal": self.temporal,
        }
        for name, frame in inputs.items():
            io.write_parquet(self.folder / f"{name}.parquet", frame)
        final = [str(self.folder / f"{name}.parquet") for name in ("train", "val", "test")]
        outputs = SimpleNamespace(
            train=[str(self.folder / str(fold) / "train.parquet") for fold in (0, 1)],
            val=[str(self.folder / str(fold) / "val.parquet") for fold in (0, 1)],
            final=final,
            projection=str(self.folder / "projection.safetensors"),
        )
        paths = SimpleNamespace(**{name: str(self.folder / f"{name}.parquet") for name in inputs})
        paths.columns = [paths.language]
        script("folds").main(SimpleNamespace(input=paths, output=outputs))
        written = [*outputs.train, *outputs.val, *final]
        found = {
            str(Path(path).relative_to(self.folder).with_suffix("")): io.read_parquet(path)
            for path in written
        }
        return found | {
            "projection": pd.DataFrame({"sum": [*load_file(outputs.projection)["mean.hinglish"]]})
        }


def test_each_part_holds_its_rows(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    found = corpus.run()
    ids = corpus.split_items["item_id"]
    fold = corpus.split_items["fold"].fillna(-1).to_numpy()
    split = corpus.split_items["split"].to_numpy()
    for name, rows in {
        "0/train": fold == 1,
        "0/val": fold == 0,
        "1/train": fold == 0,
        "1/val": fold == 1,
        "train": fold >= 0,
        "val": split == "val",
        "test": split == "test",
    }.items():
        assert list(found[name]["item_id"]) == list(ids[rows]), name
        assert list(found[name].columns) == ["item_id", *ALL]


@pytest.mark.parametrize(
    ("changed", "may_change"),
    [
        # An item of fold 0 is learned from by the model of fold 1 and by the final one.
        (2, {"1/train", "1/val", "0/val", "train", "val", "test", "projection"}),
        (1, {"0/train", "0/val", "1/val", "train", "val", "test", "projection"}),
        (61, {"val"}),
        (76, {"test"}),
        (88, set()),
    ],
    ids=["fold 0", "fold 1", "val", "test", "excluded"],
)
def test_the_projection_is_learned_from_training_rows_alone(
    tmp_path: Path, changed: int, may_change: set[str]
) -> None:
    corpus = Corpus(tmp_path)
    assert corpus.languages[changed] == "hinglish"
    before = corpus.run()
    corpus.embedding.loc[changed, [f"emb_{i:03d}" for i in range(WIDE)]] += 5.0
    after = corpus.run()
    assert {name for name in before if not before[name].equals(after[name])} == may_change


@pytest.mark.parametrize("rows", [slice(None, None, -1), slice(0, 80)])
def test_rows_that_do_not_agree_are_an_error(tmp_path: Path, rows: slice) -> None:
    corpus = Corpus(tmp_path)
    corpus.lexical = corpus.lexical.iloc[rows].reset_index(drop=True)
    with pytest.raises(ValueError, match="the rows of lexical are not those of the items"):
        corpus.run()


# --- Reading -----------------------------------------------------------------------------------------------


def test_inputs_of_an_ensemble_are_aligned_by_item(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lexical, embedding, temporal = tables(rng, 6)
    features = assemble(lexical, embedding, temporal, rng.normal(size=(6, 384)))
    items = pd.DataFrame(
        {
            "item_id": [f"i{number}" for number in range(9)],
            "language": ["en", "hinglish", "en"] * 3,
            "length_bucket": ["SHORT", "SHORT", "LONG"] * 3,
        }
    )
    shuffled = items.sample(frac=1, random_state=1)
    chosen = features.iloc[[4, 1, 2]]
    values, found = store.model_inputs(chosen, shuffled)
    np.testing.assert_array_equal(values, chosen[list(ALL)])
    assert values.dtype == found.dtype == np.float32 and values.shape == (3, 418)
    np.testing.assert_array_equal(found, context(items.iloc[[4, 1, 2]], chosen))
    with pytest.raises(KeyError):
        store.model_inputs(chosen, items.iloc[:3])


def test_only_labelled_rows_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    labels = pd.DataFrame(
        {"item_id": ["b", "z", "a"], "value": [0.5, 0.1, 1.0], "n_raters": 1, "spread": np.nan}
    )
    io.write_parquet(path, labels)
    read = store.read_labels(path)
    assert read.to_dict() == {"b": 0.5, "z": 0.1, "a": 1.0} and read.dtype == np.float64
    rows = store.labelled(pd.DataFrame({"item_id": ["a", "c", "b"], "x": [1, 2, 3]}), read)
    assert rows.to_dict("list") == {"item_id": ["a", "b"], "x": [1, 3]} and list(rows.index) == [0, 1]
