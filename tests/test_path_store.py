"""Labels and inputs of a hierarchy variable: rows that agree, whatever the order of the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perceive.features.inhibition import CUES
from perceive.features.matrix import ALL, LEXICAL
from perceive.features.path_store import EXTRA_INPUTS, as_paths, path_columns, path_inputs, read_paths
from perceive.features.store import upstream_names, with_upstream
from perceive.taxonomy import Taxonomy
from perceive.transformer.inputs import extra_inputs

TAXONOMY = Taxonomy(
    ("core", "nuance", "micro"), (("Glad", "Calm", "Still"), ("Glad", "Wild", "Loud"), ("Low", "Sad", "Lost"))
)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.parquet"
    rows = [
        ("k", "Low", "Sad", "Lost"),
        ("elsewhere", "Low", "Sad", "Lost"),
        ("i", "Glad", "Wild", None),
        ("j", "Glad", None, None),
    ]
    pd.DataFrame(rows, columns=["item_id", "core", "nuance", "micro"]).to_parquet(path)
    return path


def test_labels_are_read_in_the_order_of_the_items(labels: Path) -> None:
    codes = read_paths(labels, pd.Series(["i", "without", "j", "k"]), TAXONOMY)
    np.testing.assert_array_equal(codes, [[0, 1, -1], [-1, -1, -1], [0, -1, -1], [1, 2, 2]])
    assert as_paths(codes[[0, 2, 3]], TAXONOMY) == [("Glad", "Wild"), ("Glad",), ("Low", "Sad", "Lost")]


def test_a_label_that_the_taxonomy_does_not_have_is_an_error(labels: Path) -> None:
    other = Taxonomy(("core",), (("Glad",),))
    with pytest.raises(ValueError, match="not in the taxonomy"):
        read_paths(labels, pd.Series(["k"]), other)


def test_the_matrix_has_the_words_the_meaning_and_the_cues() -> None:
    rng = np.random.default_rng(0)
    ids = ["a", "b", "c"]
    features = pd.DataFrame(rng.random((3, len(ALL))), columns=list(ALL)).assign(item_id=ids)
    cues = pd.DataFrame(rng.random((3, len(CUES))), columns=list(CUES)).assign(item_id=ids)[::-1]
    assert len(path_columns("invoked")) == 405 and len(path_columns("expressed")) == 408
    plain = path_inputs(features, path_columns("invoked"))
    np.testing.assert_array_equal(plain, features[list(path_columns("invoked"))].to_numpy(np.float32))
    matrix = path_inputs(features, path_columns("expressed"), cues)
    assert matrix.shape == (3, 408) and not np.isnan(matrix).any()
    column = path_columns("expressed").index("sarcasm_marks")
    np.testing.assert_allclose(matrix[:, column], cues.set_index("item_id").loc[ids, "sarcasm_marks"])
    # The count of negations is a lexical feature as well; the matrix has it once, as such.
    np.testing.assert_allclose(
        matrix[:, path_columns("expressed").index("negations")], features["negations"], rtol=1e-6
    )
    extra = extra_inputs(
        "expressed",
        pd.Series(["c", "a"]),
        features[["item_id", *LEXICAL]].sample(frac=1, random_state=1),
        cues,
    )
    assert extra.shape == (2, len(EXTRA_INPUTS["expressed"])) == (2, 18)
    np.testing.assert_allclose(extra[:, -1], cues.set_index("item_id").loc[["c", "a"], "sarcasm_marks"])
    np.testing.assert_allclose(extra[:, 0], features.set_index("item_id").loc[["c", "a"], LEXICAL[0]])


def test_answers_of_other_variables_are_joined_by_item(tmp_path: Path) -> None:
    path = tmp_path / "upstream.parquet"
    pd.DataFrame({"item_id": ["c", "a", "b"], "invoked_Sad": [0.3, 0.1, 0.2]}).to_parquet(path)
    features = pd.DataFrame({"item_id": ["a", "b", "c"], "x": [1, 2, 3]})
    assert upstream_names([path]) == ["invoked_Sad"] and upstream_names([]) == []
    joined = with_upstream(features, [path])
    assert joined["invoked_Sad"].tolist() == [0.1, 0.2, 0.3] and joined["x"].tolist() == [1, 2, 3]
    assert with_upstream(features, []) is features
    with pytest.raises(ValueError, match="lacks 1 of the items"):
        with_upstream(pd.DataFrame({"item_id": ["a", "new"], "x": [1, 2]}), [path])
