"""The synthetic corpus: exact counts, determinism, ceilings; labels that texts tell, but no single word."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import subprocess
import sys
import tracemalloc
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.metrics import cohen_kappa_score, f1_score

from perceive.corpus import phrases, synthesize
from perceive.corpus.composition import CATEGORIES, HIGH_RISK
from perceive.corpus.reader import plurality_path
from perceive.corpus.synthesis import Report, write_corpus
from perceive.corpus.synthesize import generate, raters, scale_counts, scaled, simulate
from perceive.taxonomy import load_taxonomy
from perceive.variables import CORES, HIERARCHIES, SCALES

Pairs = list[tuple[dict[str, Any], dict[str, Any]]]
SOURCE = Path(synthesize.__file__).resolve().parents[2]
TAXONOMY = load_taxonomy(SOURCE.parent / "resources" / "taxonomy.tsv")


METHODS = re.compile(
    r"\b(cut(s|ting)?|slit\w*|blade\w*|razor\w*|kni(fe|ves)|scissor\w*|stab\w*|pills?|tablets?|overdos\w*|dosage|"
    r"pois\w*|rope\w*|noose\w*|hang(s|ed|ing)?|strangl\w*|suffocat\w*|chok\w*|jump\w*|leap\w*|ledge\w*|roof\w*|"
    r"bridges?|balcon\w*|tracks|railway|guns?|shoot\w*|shot|bullet\w*|drown\w*|burn\w*|bleach|starv\w*|wrists?|"
    r"veins?|blood|bleed\w*|scratch\w*|needle\w*|chaku|chhuri|faansi|phansi|latak\w*|zehe?r|zahar|goli(yan|yaan)?|"
    r"kaat\w*|kood\w*|chhat|jala\w*|dooba?\w*|rassi|khoon|kalai|patri)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def corpus() -> Pairs:
    return list(simulate())


@pytest.fixture(scope="module")
def report(corpus: Pairs) -> dict[str, Any]:
    return reported(corpus)


def reported(pairs: Pairs, **settings: Any) -> dict[str, Any]:
    report = Report(raters(**settings))
    for record, truth in pairs:
        report.add(record, truth)
    return report.result()


def ratings(record: dict[str, Any], variable: str) -> list[Any]:
    return [annotation["perception_labels"][variable] for annotation in record["annotations"]]


def mean_labels(pairs: Pairs, scale: str) -> np.ndarray:
    return np.array([np.mean(ratings(record, scale)) for record, _ in pairs])


def truths(pairs: Pairs, variable: str) -> np.ndarray:
    return np.array([truth[variable] for _, truth in pairs])


def core_of(path: str) -> str:
    return path.partition("/")[0]


def counts_of(pairs: Pairs, field: str) -> Counter[Any]:
    return Counter(record[field] for record, _ in pairs)


# --- counts ------------------------------------------------------------------------------------------------


def test_default_counts_are_exact(corpus: Pairs) -> None:
    assert len(corpus) == 5200
    assert counts_of(corpus, "category") == CATEGORIES
    assert counts_of(corpus, "language") == {"en": 3700, "hinglish": 1500}
    assert counts_of(corpus, "risk_level") == {"HIGH": 2400, "MEDIUM": 1300, "LOW": 1500}
    assert all((record["risk_level"] == "HIGH") == (record["category"] in HIGH_RISK) for record, _ in corpus)
    sizes = counts_of(corpus, "owner_id")
    assert len(sizes) == 800
    assert sum(size >= 5 for size in sizes.values()) > 250 and max(sizes.values()) >= 15
    assert len(counts_of(corpus, "item_id")) == 5200


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    names = sorted([*CATEGORIES, "routine"])
    counts = {name: draw(st.integers(0, 25)) for name in names}
    counts[draw(st.sampled_from(names))] += 1
    total = sum(counts.values())
    lower = sum(count for name, count in counts.items() if name not in HIGH_RISK)
    return {
        "seed": draw(st.integers(0, 2**40)),
        "categories": counts,
        "hinglish_items": draw(st.integers(0, total)),
        "medium_risk_items": draw(st.integers(0, lower)),
        "owners": draw(st.integers(1, total)),
        "days": draw(st.integers(1, 400)),
        "start": draw(st.dates(datetime(2001, 1, 1).date(), datetime(2060, 1, 1).date())).isoformat(),
        "annotators": draw(st.integers(1, 4)),
        "noise": draw(st.sampled_from([0.0, 1.0, 5.0])),
    }


@settings(max_examples=40, deadline=None)
@given(plans())
def test_any_plan_is_met_exactly(plan: dict[str, Any]) -> None:
    pairs = list(simulate(**plan))
    categories = counts_of(pairs, "category")
    assert {name: categories[name] for name in plan["categories"]} == plan["categories"]
    assert counts_of(pairs, "language")["hinglish"] == plan["hinglish_items"]
    assert counts_of(pairs, "risk_level")["MEDIUM"] == plan["medium_risk_items"]
    assert len(counts_of(pairs, "owner_id")) == plan["owners"]
    start = datetime.fromisoformat(plan["start"]).replace(tzinfo=UTC)
    for owner, group in itertools.groupby((record for record, _ in pairs), lambda record: record["owner_id"]):
        moments = [datetime.fromisoformat(record["timestamp"]) for record in group]
        assert all(moment.utcoffset() is not None for moment in moments), owner
        assert all(start <= moment < start + timedelta(days=plan["days"]) for moment in moments)
        assert all(before < after for before, after in itertools.pairwise(moments))
    for record, truth in pairs:
        assert_contract(record, truth, plan["annotators"], plan["noise"])


def assert_contract(record: dict[str, Any], truth: dict[str, Any], annotators: int, noise: float) -> None:
    assert json.loads(json.dumps([record, truth], allow_nan=False)) == [record, truth]
    assert set(record) == {
        "item_id", "owner_id", "text", "timestamp", "language", "category", "risk_level", "device",
        "annotations",
    }  # fmt: skip
    text = record["text"]
    assert text.strip() == text and len(text) > 1 and "\n" not in text and "  " not in text
    assert not re.search(r"[{}\[\]|]", text), "an unfilled slot or alternative"
    assert record["language"] in ("en", "hinglish") and record["risk_level"] in ("LOW", "MEDIUM", "HIGH")
    assert (record["risk_level"] == "HIGH") == (record["category"] in HIGH_RISK)
    assert len({annotation["annotator_id"] for annotation in record["annotations"]}) == annotators
    for annotation in record["annotations"]:
        labels = annotation["perception_labels"]
        assert set(labels) == {*SCALES, *HIERARCHIES}
        assert all(0 <= labels[scale] <= 1 for scale in SCALES)
        assert all(TAXONOMY.is_valid(labels[name].split("/")) for name in HIERARCHIES)
        if noise == 0:
            assert all(labels[name] == truth[name] for name in labels)
    assert (truth["item_id"], truth["owner_id"]) == (record["item_id"], record["owner_id"])
    assert truth["timestamp"] == datetime.fromisoformat(record["timestamp"]).timestamp()


def test_counts_by_language() -> None:
    wanted = {"abuse": {"en": 7, "hinglish": 3}, "sarcasm": {"hinglish": 5}}
    records = generate(categories=wanted, hinglish_items=None, medium_risk_items=2, owners=4)
    assert Counter((record["category"], record["language"]) for record in records) == {
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
        "medium_risk_items": 130,
        "owners": 80,
    }
    assert len(list(generate(seed=5, **arguments))) == 520
    assert scaled(5200)["categories"] == dict(CATEGORIES) and scaled(5200)["owners"] == 800
    assert next(generate(**scaled(1)))["owner_id"] == "owner-0"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"owners": 0}, "owners"),
        ({"owners": 5201}, "owners"),
        ({"days": 0}, "days"),
        ({"start": "1 May"}, "start"),
        ({"noise": 5.5}, "noise"),
        ({"noise": math.nan}, "noise"),
        ({"annotators": 0}, "annotators"),
        ({"hinglish_items": 6000}, "hinglish_items"),
        ({"medium_risk_items": 2801}, "medium_risk_items"),
        ({"categories": {"gossip": 10}}, "gossip"),
        ({"categories": {"abuse": -1}, "hinglish_items": 0, "medium_risk_items": 0}, "categories"),
        ({"categories": {}, "hinglish_items": 0, "medium_risk_items": 0}, "categories"),
        ({"categories": {"abuse": {"fr": 3}}, "hinglish_items": None, "medium_risk_items": 0}, "fr"),
        ({"categories": {"abuse": {"en": 3}, "sarcasm": 3}, "hinglish_items": None}, "categories"),
    ],
)
def test_wrong_arguments_are_named_at_the_call(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        generate(**arguments)


def test_routine_days_exist_and_are_off_by_default(corpus: Pairs) -> None:
    assert "routine" not in CATEGORIES
    plan = {"categories": {"routine": 200}, "hinglish_items": 60, "medium_risk_items": 0, "owners": 30}
    days = list(simulate(**plan))
    assert np.mean(truths(days, "valence")) > 0.5 > np.mean(truths(corpus, "valence"))
    assert {record["risk_level"] for record, _ in days} == {"LOW"}


# --- the same everywhere, in bounded memory ----------------------------------------------------------------


def test_same_seed_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import hashlib, json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from perceive.corpus.synthesize import simulate, scaled\n"
        "text = json.dumps(list(simulate(seed=11, **scaled(520))))\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    here = hashlib.sha256(json.dumps(list(simulate(seed=11, **scaled(520)))).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(SOURCE)],
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here
    texts = [[record["text"] for record in generate(seed=seed, **scaled(520))] for seed in (11, 12)]
    assert texts[0] != texts[1]


def test_memory_does_not_grow_with_the_number_of_items(tmp_path: Path) -> None:
    def peak(total: int) -> int:
        plan = scaled(total, owners=100)
        tracemalloc.start()
        count = write_corpus(simulate(**plan), tmp_path / "a.jsonl", tmp_path / "t.jsonl", Report(raters()))
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == total
        return reached

    peak(1500)  # fills the lookup grids
    small, large = peak(500), peak(5000)
    assert large < 1.5 * small


def test_what_is_written_is_what_was_made(tmp_path: Path) -> None:
    pairs = list(simulate(seed=4, **scaled(260)))
    report = Report(raters(seed=4))
    assert write_corpus(iter(pairs), tmp_path / "a.jsonl", tmp_path / "t.jsonl", report) == 260
    lines = [[json.loads(line) for line in (tmp_path / name).open()] for name in ("a.jsonl", "t.jsonl")]
    assert list(zip(*lines, strict=True)) == pairs
    assert report.result() == reported(pairs, seed=4)
    assert Report(raters()).result() == {"items": 0}


# --- texts -------------------------------------------------------------------------------------------------


def test_texts_are_distinct_even_without_case_and_punctuation(corpus: Pairs) -> None:
    bare = {re.sub(r"[\W_]+", " ", record["text"].lower()).strip() for record, _ in corpus}
    assert len(bare) >= 0.999 * len(corpus)


def test_lengths_languages_and_spellings_vary(corpus: Pairs, report: dict[str, Any]) -> None:
    lengths = report["length_bucket"]
    assert lengths["SHORT"] > 0.15 * len(corpus) and lengths["MEDIUM"] > 0.4 * len(corpus)
    assert 0.01 * len(corpus) < lengths["LONG"] < 0.25 * len(corpus)
    texts = [record["text"].lower() for record, _ in corpus if record["language"] == "hinglish"]
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    for group in (("bahut", "bohot", "bht"), ("nahi", "nhi", "nahin"), ("aur", "or")):
        assert all(words[word] >= 3 for word in group), group
    languages = defaultdict(set)
    for record, _ in corpus:
        languages[record["owner_id"]].add(record["language"])
    assert 20 < sum(len(spoken) > 1 for spoken in languages.values()) < 400


def test_no_method_of_self_harm_is_named(corpus: Pairs) -> None:
    for record in itertools.chain((record for record, _ in corpus), generate(seed=2)):
        found = METHODS.search(record["text"])
        assert found is None, (record["item_id"], found[0])


@pytest.mark.parametrize("name", ["phrases.tsv", "emotions.tsv"])
def test_no_phrase_names_a_method(name: str) -> None:
    table = (phrases.DEFAULT_FOLDER / name).read_text(encoding="utf-8").splitlines()
    assert len(table) > 500
    for number, line in enumerate(table, start=1):
        assert METHODS.search(line.split("\t")[-1]) is None, f"{name}, line {number}"


# --- the labels --------------------------------------------------------------------------------------------


def test_every_core_occurs_and_scales_spread(corpus: Pairs) -> None:
    for name in HIERARCHIES:
        said = Counter(
            plurality_path([(*label.split("/"),) for label in ratings(record, name)], record["item_id"])[0]
            for record, _ in corpus
        )
        assert set(said) == set(CORES) and min(said.values()) >= 0.03 * len(corpus)
    least = {"valence": 0.15, "arousal": 0.12, "willingness": 0.12, "congruence": 0.15, "comparator": 0.14}
    for scale, spread in least.items():
        assert mean_labels(corpus, scale).std() >= spread, scale
    # A constant must fail the gates.
    willingness = mean_labels(corpus, "willingness")
    assert np.abs(willingness - np.median(willingness)).mean() > 0.10
    assert all(mean_labels(corpus, scale).std() > 0.12 for scale in ("congruence", "comparator"))


def test_what_is_expressed_may_differ_and_congruence_follows(corpus: Pairs, report: dict[str, Any]) -> None:
    assert 0.15 < report["cores_differ"] < 0.4
    same = np.array([truth["invoked"] == truth["expressed"] for _, truth in corpus])
    apart = np.array([core_of(truth["invoked"]) != core_of(truth["expressed"]) for _, truth in corpus])
    congruence = truths(corpus, "congruence")
    assert congruence[same].mean() > congruence[apart].mean() + 0.3
    sarcasm = np.array([record["category"] == "sarcasm" for record, _ in corpus])
    assert apart[sarcasm].mean() > apart[~sarcasm].mean()
    # Masks are glad: bad is hidden behind good far more often than the other way round.
    bad = np.array([core_of(truth["invoked"]) in ("Sad", "Angry", "Fearful") for _, truth in corpus])
    glad = np.array([core_of(truth["expressed"]) in ("Happy", "Strong", "Peaceful") for _, truth in corpus])
    assert (bad & glad).sum() > 4 * (~bad & ~glad).sum()


def test_profanity_is_not_always_negative(corpus: Pairs) -> None:
    valence = np.array([truth["valence"] for record, truth in corpus if record["category"] == "profanity"])
    assert (valence > 0.55).mean() > 0.2 and (valence < 0.4).mean() > 0.2


def test_moods_persist_within_owners(corpus: Pairs) -> None:
    pairs = [
        (before["valence"], after["valence"], before["mood"], after["mood"])
        for _, group in itertools.groupby((truth for _, truth in corpus), lambda truth: truth["owner_id"])
        for before, after in itertools.pairwise(group)
        if after["timestamp"] - before["timestamp"] < 2 * 86_400
    ]
    assert len(pairs) > 800
    valence, later, mood, later_mood = np.array(pairs).T
    assert np.corrcoef(valence, later)[0, 1] > 0.25
    assert np.corrcoef(mood, later_mood)[0, 1] > 0.5


def test_the_comparator_tells_the_distance_from_the_owners_usual_state(corpus: Pairs) -> None:
    departure, comparator = [], []
    for _, group in itertools.groupby((truth for _, truth in corpus), lambda truth: truth["owner_id"]):
        usual: tuple[float, float] | None = None
        for truth in group:
            here = truth["valence"], truth["arousal"]
            if usual is not None:
                departure.append(math.dist(here, usual))
                comparator.append(truth["comparator"])
            usual = (
                here if usual is None else tuple(0.7 * u + 0.3 * h for u, h in zip(usual, here, strict=True))
            )
    assert np.corrcoef(departure, comparator)[0, 1] > 0.6


def test_more_noise_leaves_texts_and_truth_alone() -> None:
    clean, noisy = (list(simulate(noise=noise, **scaled(520))) for noise in (0.0, 2.0))
    assert [record["text"] for record, _ in clean] == [record["text"] for record, _ in noisy]
    assert [truth for _, truth in clean] == [truth for _, truth in noisy]
    assert np.std(mean_labels(clean, "valence") - mean_labels(noisy, "valence")) > 0.05


# --- the noise ceiling -------------------------------------------------------------------------------------


def test_the_reported_ceiling_is_that_of_the_true_state(corpus: Pairs, report: dict[str, Any]) -> None:
    for scale in SCALES:
        true, rated = truths(corpus, scale), mean_labels(corpus, scale)
        ceiling = report["ceiling"][scale]
        assert ceiling["pearson"] == pytest.approx(np.corrcoef(true, rated)[0, 1], abs=0.002)
        assert ceiling["rmse"] == pytest.approx(np.std(rated - true), abs=0.002)
        assert 0.93 < ceiling["pearson"] < 0.97, "about .95"
    for name in HIERARCHIES:
        true = [truth[name].split("/") for _, truth in corpus]
        said = [
            plurality_path([tuple(label.split("/")) for label in ratings(record, name)], record["item_id"])
            for record, _ in corpus
        ]
        ceiling = report["ceiling"][name]
        for depth, level in enumerate(("core", "nuance", "micro"), start=1):
            prefixes = [["/".join(path[:depth]) for path in paths] for paths in (true, said)]
            expected = f1_score(*prefixes, average="macro")
            assert ceiling[f"macro_f1_{level}"] == pytest.approx(expected, abs=1e-4)
        first = [[core_of(label) for label in labels] for labels in
                 zip(*(ratings(record, name)[:2] for record, _ in corpus), strict=True)]  # fmt: skip
        kappa = cohen_kappa_score(*first)
        assert report["kappa_core"][name]["rater-1, rater-2"] == pytest.approx(kappa, abs=1e-4)
        assert min(report["kappa_core"][name].values()) > 0.70


def test_annotators_without_noise_leave_nothing_to_miss() -> None:
    ceiling = reported(list(simulate(noise=0.0, **scaled(520))), noise=0.0)["ceiling"]
    assert all(of["pearson"] == 1 and of["rmse"] < 1e-6 for name, of in ceiling.items() if name in SCALES)
    assert all(set(ceiling[name].values()) == {1.0} for name in HIERARCHIES)


def test_twice_the_noise_puts_the_gates_out_of_reach() -> None:
    """What a perfect model reaches passes the gates of the contract at noise 1, and fails them at noise 2."""
    reports = {noise: reported(list(simulate(noise=noise)), noise=noise) for noise in (1.0, 2.0)}

    def met(noise: float) -> dict[str, bool]:
        ceiling, kappas = reports[noise]["ceiling"], reports[noise]["kappa_core"]
        return {
            "valence RMSE": ceiling["valence"]["rmse"] <= 0.09,
            "arousal RMSE": ceiling["arousal"]["rmse"] <= 0.09,
            "kappa invoked": min(kappas["invoked"].values()) >= 0.70,
            "kappa expressed": min(kappas["expressed"].values()) >= 0.70,
        }

    assert all(met(1.0).values()) and not any(met(2.0).values())


# --- neither random nor trivial ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unseen(corpus: Pairs) -> np.ndarray:
    """A quarter of the owners, whom no model below has seen."""
    digests = [hashlib.sha256(record["owner_id"].encode()).digest()[0] for record, _ in corpus]
    return np.array(digests) < 64


@pytest.fixture(scope="module")
def tfidf(corpus: Pairs) -> Any:
    return TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform(
        [record["text"] for record, _ in corpus]
    )


def ridge_r(words: Any, target: np.ndarray, unseen: np.ndarray) -> float:
    model = Ridge(alpha=1.0).fit(words[~unseen], target[~unseen])
    return float(np.corrcoef(model.predict(words[unseen]), target[unseen])[0, 1])


@pytest.mark.parametrize(("scale", "floor"), [("valence", 0.65), ("arousal", 0.5), ("willingness", 0.35)])
def test_labels_can_be_learned_from_the_words(
    corpus: Pairs, tfidf: Any, unseen: np.ndarray, report: dict[str, Any], scale: str, floor: float
) -> None:
    labels = mean_labels(corpus, scale)
    assert floor <= ridge_r(tfidf, labels, unseen) < report["ceiling"][scale]["pearson"] - 0.03
    assert abs(ridge_r(tfidf, np.random.default_rng(0).permutation(labels), unseen)) < 0.09


def test_no_single_token_tells_a_label(corpus: Pairs) -> None:
    vectorizer = CountVectorizer(binary=True, min_df=10, token_pattern=r"\w+|[^\w\s]")
    present = vectorizer.fit_transform([record["text"] for record, _ in corpus]).toarray().astype(float)
    present -= present.mean(axis=0)
    present /= np.linalg.norm(present, axis=0)
    targets = [mean_labels(corpus, scale) for scale in SCALES]
    for name in HIERARCHIES:
        cores = np.array([core_of(path) for path in truths(corpus, name)])
        targets += [(cores == core).astype(float) for core in CORES]
    for target in targets:
        centred = target - target.mean()
        assert np.abs(present.T @ (centred / np.linalg.norm(centred))).max() < 0.6


# --- phrase files ------------------------------------------------------------------------------------------


def broken(folder: Path, name: str, number: int, line: str) -> Path:
    """The phrase files with one line more."""
    for file in phrases.DEFAULT_FOLDER.glob("*.tsv"):
        lines = file.read_text(encoding="utf-8").split("\n")
        if file.name == name:
            lines.insert(number - 1, line)
        (folder / file.name).write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("phrases.tsv", "event\tabuse\ten\t0.1\t0.2\t\tan [open|bracket", "line 2"),
        ("phrases.tsv", "event\tabuse\ten\t0.1\t0.2\t\tan {unknown} slot", "unknown"),
        ("phrases.tsv", "event\tabuse\ten\t1.1\t0.2\t\ttext", "line 2"),
        ("phrases.tsv", "event\tabuse\ten\thigh\t0.2\t\ttext", "line 2"),
        ("phrases.tsv", "event\tabuse\tfr\t0.1\t0.2\t\ttext", "line 2"),
        ("phrases.tsv", "rumour\tabuse\ten\t0.1\t0.2\t\ttext", "line 2"),
        ("phrases.tsv", "event\tabuse\ten\t0.1", "line 2"),
        ("emotions.tsv", "Sad\tLonely\tIsolated\tshout\ten\t0.1\t0.2\ttext", "line 2: kind"),
        ("emotions.tsv", "Sad\tLonely\tIsolated\tstate\tfr\t0.1\t0.2\ttext", "line 2: language"),
        ("emotions.tsv", "Sad\tLonely\tIsolated\tstate\ten\t1.2\t0.2\ttext", "line 2"),
    ],
)
def test_malformed_phrases_are_named(tmp_path: Path, name: str, line: str, message: str) -> None:
    with pytest.raises(phrases.PhraseError, match=message) as error:
        phrases.load_phrasebook(broken(tmp_path, name, 2, line))
    assert name in str(error.value)


def test_the_words_cover_the_taxonomy() -> None:
    book = phrases.load_phrasebook()
    assert {tuple(emotion.path.split("/")) for emotion in book.emotions} == set(TAXONOMY.paths)
