"""Near-duplicates: the sketches, the audit's exact join and a comparison of all pairs find the same ones."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive import exact_join, near_duplicates
from perceive.splits import normalise_text

DATA = Path(os.environ.get("PERCEIVE_DATA", "../shared/data"))
SENTENCE = "i am so very tired of this long day and she was not kind to me when yaar bahut thak gaya hun"
WORDS = SENTENCE.split()
relaxed = settings(max_examples=150, deadline=None)


def shingles(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[start : start + 5] for start in range(len(padded) - 4)}


def all_pairs(texts: list[str], threshold: float, min_shingles: int) -> list[list[int]]:
    """The definition, by comparing every text with every other."""
    sets = [shingles(text) for text in texts]
    found = []
    for (i, one), (j, other) in itertools.combinations(enumerate(sets), 2):
        if min(len(one), len(other)) >= min_shingles and min(len(one), len(other)) > 0:
            together = len(one | other)
            if len(one & other) >= threshold * together - 1e-9:
                found.append([i, j])
    return found


def both(texts: list[str], threshold: float = 0.8, min_shingles: int = 20) -> list[list[int]]:
    """The pairs, found in two ways."""
    sketched = near_duplicates.near_pairs(texts, threshold=threshold, min_shingles=min_shingles)
    joined = exact_join.similar_pairs(texts, threshold=threshold, min_shingles=min_shingles)
    assert sketched.shape[1] == joined.shape[1] == 2 and sketched.dtype == joined.dtype == np.int64
    assert sketched.tolist() == joined.tolist()
    return sketched.tolist()


@st.composite
def corpora(draw: st.DrawFn) -> list[str]:
    """Texts of a few words, and edits of them."""
    sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)
    texts = draw(st.lists(sentences, min_size=1, max_size=8))
    for _ in range(draw(st.integers(0, 12))):
        text = draw(st.sampled_from(texts))
        place = draw(st.integers(0, len(text)))
        edit = draw(st.sampled_from(["", "x", "hm ", " today", "मैं", "\ud800"]))
        texts.append(text[:place] + edit + text[place + draw(st.integers(0, 3)) :])
    return sorted(set(texts))


@given(corpora(), st.floats(0.5, 1), st.integers(0, 30))
@relaxed
def test_the_pairs_are_those_of_the_definition(texts, threshold, min_shingles):
    assert both(texts, threshold, min_shingles) == all_pairs(texts, threshold, min_shingles)


@given(corpora(), st.randoms(use_true_random=False))
@relaxed
def test_the_order_of_the_texts_does_not_matter(texts, random):
    shuffled = random.sample(texts, len(texts))
    for search in (near_duplicates.near_pairs, exact_join.similar_pairs):
        pairs = search(shuffled, threshold=0.7, min_shingles=5)
        named = sorted(sorted((shuffled[i], shuffled[j])) for i, j in pairs)
        expected = [sorted((texts[i], texts[j])) for i, j in search(texts, threshold=0.7, min_shingles=5)]
        assert named == sorted(expected)
        assert (pairs[:, 0] < pairs[:, 1]).all() and pairs.tolist() == sorted(pairs.tolist())


@pytest.mark.parametrize("threshold", [0.5, 0.62, 0.8, 0.93])
def test_pairs_at_the_threshold_are_not_missed(threshold):
    """400 pairs that are just similar enough, and as many that just are not, among themselves unlike."""
    rng = np.random.default_rng(5)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz0123456789"))
    texts, expected = [], []
    for number in range(800):
        length = int(rng.integers(60, 140))
        core = "".join(rng.choice(letters, length))
        extra = int(np.floor((length - 2) / threshold)) - (length - 2) + number % 2
        texts += [core, core + " " + "".join(rng.choice(letters, extra - 1)) if extra else core + " "]
        if number % 2 == 0:
            expected.append([2 * number, 2 * number + 1])
    pairs = near_duplicates.near_pairs(texts, threshold=threshold)
    assert pairs.tolist() == expected
    if threshold == 0.8:
        assert both(texts) == expected


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        # One word more, one misspelt, one spelt differently.
        ("He said it was my fault, as ever", "idk he said it was my fault as ever", True),
        ("I have not slept for three days as of today", "I have not slept for three day as of today", True),
        (
            "Bahut din se sab log ghar par khush hain yaar",
            "bahut din se sab log ghar par khus hain yaar",
            True,
        ),
        ("काम बहुत है और घर जाने का मन नहीं करता आजकल", "काम बहुत है और घर जाने का मन नहीं करता", True),
        # Another meaning.
        ("I am not happy with my life right now", "I am happy with my life right now", False),
        ("She left me in the rain yesterday", "I left her in the rain yesterday", False),
        ("I feel really sad about him", "I feel really sad about her", False),
        # Too short to tell: only equal texts are copies.
        ("same as yesterday", "same as yesterday.", None),
        ("same as yesterday", "same as yesterda", False),
        ("Day number 11", "Day number 12", False),
        ("so tired today", "so tired todayy", False),
        ("ok", "okk", False),
        ("😀😀", "😀", False),
    ],
)
def test_what_is_a_near_copy(one, other, near):
    texts = [normalise_text(one), normalise_text(other)]
    if near is None:
        assert texts[0] == texts[1]
    else:
        assert both(texts) == ([[0, 1]] if near else [])


def test_both_texts_must_be_long_enough():
    texts = ["abcdefghijklmnopqrstuv", "abcdefghijklmnopqrstuvw"]
    assert [len(shingles(text)) for text in texts] == [20, 21]
    assert both(texts, min_shingles=20) == [[0, 1]]
    assert both(texts, min_shingles=21) == []


@pytest.mark.parametrize("texts", [[], [""], ["a"], ["a", "b"], ["the same long enough text of one person"]])
def test_nothing_to_compare(texts):
    assert both(texts) == []


@pytest.mark.parametrize("threshold", [0.49, 1.01, float("nan")])
def test_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match=r"must lie in 0\.5\.\.1"):
        near_duplicates.near_pairs(["a"], threshold=threshold)


@given(corpora(), st.floats(0.5, 1), st.data())
@relaxed
def test_some_texts_compared_with_all(texts, threshold, data):
    drawn = st.lists(st.integers(0, len(texts) - 1), max_size=len(texts))
    probes = np.array(data.draw(drawn), dtype=np.int64)
    found = exact_join.similar_pairs(texts, threshold=threshold, min_shingles=5, probes=probes)
    assert found.tolist() == [pair for pair in all_pairs(texts, threshold, 5) if set(pair) & set(probes)]


def test_long_texts():
    text = " ".join(f"{word}{number}" for number in range(12) for word in WORDS)
    assert both([text, f"{text} x"]) == [[0, 1]] and len(shingles(text)) > 1000


@pytest.mark.parametrize("limit", ["_MAX_CANDIDATES", "_MAX_PAIRS"])
def test_a_corpus_of_one_template_is_compared_or_refused(monkeypatch, limit):
    template = "the timer rang after {:04d} minutes and nobody in the whole house took any notice of it"
    texts = [template.format(number) for number in range(300)]
    assert len(both(texts)) == 300 * 299 / 2
    monkeypatch.setattr(near_duplicates, limit, 1000)
    with pytest.raises(ValueError, match=r"300 texts have too many pairs .* higher threshold") as error:
        near_duplicates.near_pairs(texts)
    assert "timer" not in str(error.value)


def test_adjacency_is_symmetric_and_holds_the_text_itself():
    matrix = near_duplicates.adjacency(np.array([[0, 2], [2, 3]]), 5)
    assert (matrix @ np.array([0, 0, 1, 0, 0]) > 0).tolist() == [True, False, True, True, False]
    assert (matrix @ np.array([1, 1, 0, 0, 0]) > 0).tolist() == [True, True, True, False, False]
    assert (near_duplicates.adjacency(np.empty((0, 2), dtype=np.int64), 2).toarray() == np.eye(2)).all()


def test_blocks_do_not_change_the_result(monkeypatch):
    texts = [f"{word} it rained on the {word} the whole long day and we stayed at home" for word in WORDS]
    whole = both(texts)
    for module, name in ((near_duplicates, "_BLOCK"), (exact_join, "_ROWS"), (exact_join, "_PAIRS")):
        monkeypatch.setattr(module, name, 3)
    assert both(texts) == whole != []
    monkeypatch.setattr(exact_join, "_CELLS", 2 * len(texts))  # two rows at once
    assert both(texts) == whole


@pytest.mark.skipif(not (DATA / "emobank").is_dir(), reason="PERCEIVE_DATA has no emobank")
def test_emobank():
    texts = pd.read_csv(DATA / "emobank" / "emobank.csv", keep_default_na=False)["text"]
    normal = sorted({normalise_text(text) for text in texts})
    pairs = both(normal)
    assert len(pairs) == 49
    assert np.bincount(np.ravel(pairs)).max() == 2  # one text has two near-copies, 96 have one
