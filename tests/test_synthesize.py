"""The synthetic corpus: exact counts, determinism, and labels that the text tells, but no single word."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import Ridge

from perceive.corpus import phrases, synthesize
from perceive.corpus.synthesize import CATEGORIES, HIGH_RISK, SCALES, generate, scale_counts, scaled

Records = list[dict[str, Any]]
SOURCE = Path(synthesize.__file__).resolve().parents[2]


METHODS = re.compile(
    r"\b(cut(s|ting)?|slit\w*|blade\w*|razor\w*|kni(fe|ves)|scissor\w*|stab\w*|pills?|tablets?|overdos\w*|dosage|"
    r"pois\w*|rope\w*|noose\w*|hang(s|ed|ing)?|strangl\w*|suffocat\w*|chok\w*|jump\w*|leap\w*|ledge\w*|roof\w*|"
    r"bridges?|balcon\w*|tracks|railway|guns?|shoot\w*|shot|bullet\w*|drown\w*|burn\w*|bleach|starv\w*|wrists?|"
    r"veins?|blood|bleed\w*|scratch\w*|needle\w*|chaku|chhuri|faansi|phansi|latak\w*|zehe?r|zahar|goli(yan|yaan)?|"
    r"kaat\w*|kood\w*|chhat|jala\w*|dooba?\w*|rassi|khoon|kalai|patri)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def corpus() -> Records:
    return list(generate())


def _counts(records: Records, *fields: str) -> Counter[Any]:
    return Counter(tuple(r[f] for f in fields) if len(fields) > 1 else r[fields[0]] for r in records)


def _length(text: str) -> str:
    words = len(text.split())
    return "SHORT" if words < 15 else "MEDIUM" if words < 60 else "LONG"


def test_default_counts_are_exact(corpus: Records) -> None:
    assert len(corpus) == 5200
    assert _counts(corpus, "category") == {
        "sarcasm": 1200,
        "suicide_ideation": 600,
        "self_harm": 400,
        "abuse": 800,
        "profanity": 1200,
        "sociopathic": 400,
        "financial_coercion": 600,
    }
    assert _counts(corpus, "language") == {"en": 3700, "hinglish": 1500}
    sizes = _counts(corpus, "owner_id")
    assert len(sizes) == 800
    assert sum(size >= 5 for size in sizes.values()) > 250 and max(sizes.values()) >= 15
    assert len({r["item_id"] for r in corpus}) == 5200


def test_high_risk_is_exactly_four_categories(corpus: Records) -> None:
    assert sum(r["risk_level"] == "HIGH" for r in corpus) == 2400
    assert all((r["risk_level"] == "HIGH") == (r["category"] in HIGH_RISK) for r in corpus)
    assert {r["risk_level"] for r in corpus} == {"LOW", "MEDIUM", "HIGH"}
    assert set(HIGH_RISK) == {"suicide_ideation", "self_harm", "abuse", "financial_coercion"}


@st.composite
def _plans(draw: st.DrawFn) -> dict[str, Any]:
    names = sorted(CATEGORIES)
    counts = {name: draw(st.integers(0, 25)) for name in names}
    counts[draw(st.sampled_from(names))] += 1
    total = sum(counts.values())
    return {
        "seed": draw(st.integers(0, 2**40)),
        "categories": counts,
        "hinglish_items": draw(st.integers(0, total)),
        "owners": draw(st.integers(1, total)),
        "days": draw(st.integers(1, 400)),
        "start": draw(st.dates(datetime(2001, 1, 1).date(), datetime(2060, 1, 1).date())).isoformat(),
        "label_noise": draw(st.sampled_from([0.0, 0.04, 1.0])),
    }


@settings(max_examples=40, deadline=None)
@given(_plans())
def test_any_plan_is_met_exactly(plan: dict[str, Any]) -> None:
    records = list(generate(**plan))
    categories = _counts(records, "category")
    assert {name: categories[name] for name in plan["categories"]} == plan["categories"]
    assert _counts(records, "language")["hinglish"] == plan["hinglish_items"]
    assert len(_counts(records, "owner_id")) == plan["owners"]
    start = datetime.fromisoformat(plan["start"]).replace(tzinfo=UTC)
    for owner, group in itertools.groupby(records, lambda r: r["owner_id"]):
        moments = [datetime.fromisoformat(r["timestamp"]) for r in group]
        assert all(m.utcoffset() is not None for m in moments), owner
        assert all(start <= m < start + timedelta(days=plan["days"]) for m in moments)
        assert all(a < b for a, b in itertools.pairwise(moments))
    for record in records:
        _assert_contract(record)


def _assert_contract(record: dict[str, Any]) -> None:
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record) == {
        "item_id",
        "owner_id",
        "text",
        "timestamp",
        "language",
        "category",
        "risk_level",
        "device",
        "perception_labels",
    }
    text = record["text"]
    assert text.strip() == text and len(text) > 1 and "\n" not in text and "  " not in text
    assert not re.search(r"[{}\[\]|]", text), "an unfilled slot or alternative"
    assert record["language"] in ("en", "hinglish") and record["risk_level"] in ("LOW", "MEDIUM", "HIGH")
    assert set(record["perception_labels"]) == set(SCALES)
    assert all(0 <= value <= 1 for value in record["perception_labels"].values())


def test_counts_by_language() -> None:
    wanted = {"abuse": {"en": 7, "hinglish": 3}, "sarcasm": {"hinglish": 5}}
    records = list(generate(categories=wanted, hinglish_items=None, owners=4))
    assert _counts(records, "category", "language") == {
        ("abuse", "en"): 7,
        ("abuse", "hinglish"): 3,
        ("sarcasm", "hinglish"): 5,
    }


@given(st.integers(0, 10_000))
def test_scaled_counts_sum_and_stay_within_one_of_the_proportion(total: int) -> None:
    counts = scale_counts(total)
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - total * CATEGORIES[name] / 5200) < 1 for name in CATEGORIES)


def test_scaled_corpus() -> None:
    arguments = scaled(520)
    assert arguments == {
        "categories": {name: count // 10 for name, count in CATEGORIES.items()},
        "hinglish_items": 150,
        "owners": 80,
    }
    assert len(list(generate(seed=5, **arguments))) == 520
    assert scaled(5200) == {"categories": dict(CATEGORIES), "hinglish_items": 1500, "owners": 800}
    assert next(generate(**scaled(1)))["owner_id"] == "owner-0"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"owners": 0}, "owners"),
        ({"owners": 5201}, "owners"),
        ({"days": 0}, "days"),
        ({"start": "1 May"}, "start"),
        ({"label_noise": 1.5}, "label_noise"),
        ({"label_noise": math.nan}, "label_noise"),
        ({"hinglish_items": 6000}, "hinglish_items"),
        ({"categories": {"gossip": 10}}, "gossip"),
        ({"categories": {"abuse": -1}, "hinglish_items": 0}, "categories"),
        ({"categories": {}, "hinglish_items": 0}, "categories"),
        ({"categories": {"abuse": {"fr": 3}}, "hinglish_items": None}, "fr"),
        ({"categories": {"abuse": {"en": 3}, "sarcasm": 3}, "hinglish_items": None}, "categories"),
    ],
)
def test_wrong_arguments_are_named_at_the_call(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        generate(**arguments)


def test_same_seed_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from perceive.corpus.synthesize import *\n"
        "print(write_jsonl(sys.argv[2], generate(seed=11, **scaled(520))))"
    )
    here = tmp_path / "here.jsonl"
    assert synthesize.write_jsonl(here, generate(seed=11, **scaled(520))) == 520
    for hash_seed in ("1", "2"):
        there = tmp_path / f"there-{hash_seed}.jsonl"
        done = subprocess.run(
            [sys.executable, "-c", code, str(SOURCE), str(there)],
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "520"
        assert there.read_bytes() == here.read_bytes()
    other = [r["text"] for r in generate(seed=12, **scaled(520))]
    assert other != [r["text"] for r in generate(seed=11, **scaled(520))]


def test_memory_does_not_grow_with_the_number_of_items() -> None:
    def peak(total: int) -> int:
        tracemalloc.start()
        for _ in generate(**scaled(total, owners=100)):
            pass
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    list(generate(**scaled(5200)))  # fill the lookup grids first
    small, large = peak(500), peak(5000)
    assert large < 1.3 * small


def test_texts_are_distinct_even_without_case_and_punctuation(corpus: Records) -> None:
    bare = {re.sub(r"[\W_]+", " ", r["text"].lower()).strip() for r in corpus}
    assert len(bare) >= 0.999 * len(corpus)


def test_lengths_languages_and_spellings_vary(corpus: Records) -> None:
    lengths = Counter(_length(r["text"]) for r in corpus)
    assert lengths["SHORT"] > 0.2 * len(corpus) and lengths["MEDIUM"] > 0.4 * len(corpus)
    assert 0.01 * len(corpus) < lengths["LONG"] < 0.2 * len(corpus)
    words = Counter(
        w for r in corpus if r["language"] == "hinglish" for w in re.findall(r"\w+", r["text"].lower())
    )
    for group in (("bahut", "bohot", "bht"), ("nahi", "nhi", "nahin"), ("aur", "or")):
        assert all(words[word] >= 3 for word in group), group
    mixed = sum(len(languages) > 1 for languages in _languages_by_owner(corpus))
    assert 20 < mixed < 400


def _languages_by_owner(corpus: Records) -> Iterator[set[str]]:
    for _, group in itertools.groupby(corpus, lambda r: r["owner_id"]):
        yield {r["language"] for r in group}


def test_owners_write_at_waking_hours_over_the_whole_window(corpus: Records) -> None:
    moments = [datetime.fromisoformat(r["timestamp"]) for r in corpus]
    hours = np.bincount([m.hour for m in moments], minlength=24) / len(moments)
    assert hours[19:24].sum() > 0.35 and hours[3:6].sum() < 0.1
    days = {(m.astimezone(UTC) - datetime(2025, 1, 1, tzinfo=UTC)).days for m in moments}
    assert days == set(range(90))


def test_an_owners_mood_persists(corpus: Records) -> None:
    by_category = {
        c: np.mean([_label(r, "valence") for r in corpus if r["category"] == c]) for c in CATEGORIES
    }
    pairs = [
        tuple(_label(r, "valence") - by_category[r["category"]] for r in pair)
        for _, group in itertools.groupby(corpus, lambda r: r["owner_id"])
        for pair in itertools.pairwise(group)
    ]
    first, second = np.array(pairs).T
    assert np.corrcoef(first, second)[0, 1] > 0.05


def _label(record: dict[str, Any], scale: str) -> float:
    return record["perception_labels"][scale]


@pytest.fixture(scope="module")
def test_rows(corpus: Records) -> np.ndarray:
    digests = [hashlib.sha256(r["owner_id"].encode()).digest()[0] for r in corpus]
    return np.array(digests) < 64


@pytest.fixture(scope="module")
def tfidf(corpus: Records) -> Any:
    return TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform([r["text"] for r in corpus])


@pytest.mark.parametrize(("scale", "floor"), [("valence", 0.75), ("arousal", 0.65), ("willingness", 0.55)])
def test_labels_can_be_learned_from_the_words(
    corpus: Records, tfidf: Any, test_rows: np.ndarray, scale: str, floor: float
) -> None:
    y = np.array([_label(r, scale) for r in corpus])

    def correlation(target: np.ndarray) -> float:
        model = Ridge(alpha=1.0).fit(tfidf[~test_rows], target[~test_rows])
        return float(np.corrcoef(model.predict(tfidf[test_rows]), target[test_rows])[0, 1])

    assert correlation(y) >= floor
    assert abs(correlation(np.random.default_rng(0).permutation(y))) < 0.1


def test_no_single_token_tells_a_label(corpus: Records) -> None:
    vectorizer = CountVectorizer(binary=True, min_df=10, token_pattern=r"\w+|[^\w\s]")
    present = vectorizer.fit_transform([r["text"] for r in corpus]).toarray().astype(float)
    present -= present.mean(axis=0)
    present /= np.linalg.norm(present, axis=0)
    for scale in SCALES:
        y = np.array([_label(r, scale) for r in corpus])
        y = (y - y.mean()) / np.linalg.norm(y - y.mean())
        assert np.abs(present.T @ y).max() < 0.6


def test_labels_spread_and_categories_overlap(corpus: Records) -> None:
    for scale, least in (("valence", 0.15), ("arousal", 0.12), ("willingness", 0.12)):
        assert np.std([_label(r, scale) for r in corpus]) >= least
    valence = {c: np.array([_label(r, "valence") for r in corpus if r["category"] == c]) for c in CATEGORIES}
    assert (valence["profanity"] > 0.6).mean() > 0.2, "swearing is not always negative"
    for category, values in valence.items():
        assert values.std() > 0.1 and (values > 0.4).mean() > 0.1 and (values < 0.4).mean() > 0.1, category


def test_sarcasm_praises_what_it_resents(corpus: Records) -> None:
    positive = re.compile(
        r"\b(great|wonderful|love|perfect|lovely|best|fantastic|superb|wow|thrilled|happy|joy)\b", re.I
    )
    valence = [
        _label(r, "valence") for r in corpus if r["category"] == "sarcasm" and positive.search(r["text"])
    ]
    assert len(valence) > 200 and np.mean(valence) < 0.42


def test_more_label_noise_leaves_the_text_alone() -> None:
    clean = list(generate(label_noise=0.0, **scaled(520)))
    noisy = list(generate(label_noise=0.08, **scaled(520)))
    a, b = ([_label(r, "valence") for r in records] for records in (clean, noisy))
    assert 0.05 < np.std(np.subtract(a, b)) < 0.11
    assert [r["text"] for r in clean] == [r["text"] for r in noisy]


def test_no_method_of_self_harm_is_named(corpus: Records) -> None:
    for record in itertools.chain(corpus, generate(seed=2)):
        found = METHODS.search(record["text"])
        assert found is None, (record["item_id"], found[0])


def test_no_phrase_names_a_method() -> None:
    table = (phrases.DEFAULT_FOLDER / "phrases.tsv").read_text(encoding="utf-8")
    for number, line in enumerate(table.splitlines(), start=1):
        assert METHODS.search(line.split("\t")[-1]) is None, f"phrases.tsv, line {number}"


def test_summary_counts_what_was_written(corpus: Records) -> None:
    summary = synthesize.summarize(iter(corpus))
    assert summary["items"] == 5200 and summary["owners"] == 800
    assert summary["category"] == CATEGORIES and summary["risk_level"]["HIGH"] == 2400
    assert summary["distinct_texts"] >= 0.99
    assert summary["length"] == Counter(_length(r["text"]) for r in corpus)
    sarcasm = [_label(r, "valence") for r in corpus if r["category"] == "sarcasm"]
    assert summary["labels_by_category"]["sarcasm"]["valence"]["mean"] == pytest.approx(
        np.mean(sarcasm), abs=1e-3
    )
    json.dumps(summary, allow_nan=False)
    assert synthesize.summarize([]) == {"items": 0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("event\tabuse\ten\t0.1\t0.2\t\tan [open|bracket", "line 2: '\\[' is not closed"),
        ("event\tabuse\ten\t0.1\t0.2\t\tan {unknown} slot", "line 2: the slot {unknown}"),
        ("event\tabuse\ten\t1.1\t0.2\t\ttext", "line 2: ratings must lie in 0..1"),
        ("event\tabuse\ten\thigh\t0.2\t\ttext", "line 2: ratings must be numbers"),
        ("event\tabuse\tfr\t0.1\t0.2\t\ttext", "line 2: language"),
        ("rumour\tabuse\ten\t0.1\t0.2\t\ttext", "line 2: kind"),
        ("event\tabuse\ten\t0.1", "line 2: 4 columns"),
    ],
)
def test_malformed_phrases_are_named(tmp_path: Path, line: str, message: str) -> None:
    head, rest = (phrases.DEFAULT_FOLDER / "phrases.tsv").read_text(encoding="utf-8").split("\n", 1)
    (tmp_path / "phrases.tsv").write_text(f"{head}\n{line}\n{rest}", encoding="utf-8")
    (tmp_path / "spelling.tsv").write_bytes((phrases.DEFAULT_FOLDER / "spelling.tsv").read_bytes())
    with pytest.raises(phrases.PhraseError, match=message):
        phrases.load_phrasebook(tmp_path)
