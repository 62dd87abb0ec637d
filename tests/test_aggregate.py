"""One label of several ratings, the biases of annotators, and tables of single ratings."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perceive.corpus.aggregate import BiasFit, Path3, path_label, plurality_path, scale_label
from perceive.corpus.ingest import ingest_items, ingest_labels, ingest_summary, rating_frames
from perceive.corpus.reader import CorpusError, Item, Reject, Tally, content_digests, read_annotations
from perceive.corpus.settings import CorpusSettings

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("PERCEIVE_DATA") or REPOSITORY / "../shared/data")
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --------------------------------------------------------------------------- labels


def split(path: str) -> Path3:
    core, nuance, micro = [*path.split("/"), None, None][:3]
    assert core is not None
    return core, nuance, micro


PATHS = st.lists(st.sampled_from(["Sad", "Sad/A", "Sad/A/x", "Sad/B/y", "Angry", "Angry/C"]), min_size=1)


@given(PATHS, st.text(max_size=3))
@few
def test_the_plurality_path_is_the_stated_rule(paths, item_id):
    """An independent spelling of the rule: votes, then the hash, then the next level."""
    chosen: list[str] = []
    for level in range(3):
        votes = Counter(split(path)[level] for path in paths if path.split("/")[:level] == chosen)
        named = {part: count for part, count in votes.items() if part is not None}
        if not named or max(named.values()) < votes[None]:
            break
        tied = [part for part, count in named.items() if count == max(named.values())]
        chosen.append(min(tied, key=lambda part: hashlib.sha256(f"{item_id}\x1f{part}".encode()).hexdigest()))
    found = plurality_path([split(path) for path in paths], item_id)
    assert found == split("/".join(chosen))
    assert plurality_path([split(path) for path in paths[::-1]], item_id) == found
    assert any(split(path)[: len(chosen)] == tuple(chosen) for path in paths)


def test_a_tie_favours_no_class():
    paths = [split(path) for path in ("Angry", "Peaceful", "Sad")]
    counts = Counter(plurality_path(paths, f"item-{n}")[0] for n in range(3000))
    # Three standard deviations of a fair coin: sqrt(3000 * 1/3 * 2/3) = 25.8.
    assert all(abs(counts[core] - 1000) < 78 for core in ("Angry", "Peaceful", "Sad"))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@few
def test_a_scale_s_label_is_the_mean_with_the_sample_sd(values):
    value, raters, spread = scale_label(values)
    assert value == pytest.approx(statistics.fmean(values)) and 0 <= value <= 1 and raters == len(values)
    if len(values) == 1:
        assert math.isnan(spread)
    else:
        assert spread == pytest.approx(statistics.stdev(values), abs=1e-12)


def test_a_mean_beyond_the_scale_is_cut_off():
    assert scale_label([1.2, 1.0])[0] == 1.0 and scale_label([-0.25])[0] == 0.0
    assert scale_label([1.2, 0.6])[0] == pytest.approx(0.9)  # the mean is cut off, not the ratings
    assert scale_label([1.2, 1.0])[2] == pytest.approx(0.2 / math.sqrt(2))


def test_the_spread_of_paths_is_the_share_of_other_cores():
    paths = [split(path) for path in ("Sad/A", "Sad/B", "Angry", "Sad/A/x")]
    assert path_label(paths, "i") == (("Sad", "A", "x"), 4, 0.25)
    assert path_label(paths[:2], "i")[1:] == (2, 0.0)
    value, raters, spread = path_label(paths[:1], "i")
    assert value == ("Sad", "A", None) and raters == 1 and math.isnan(spread)


# --------------------------------------------------------------------------- biases


def simulated(
    biases: dict[str, float], n_items: int, noise: float, seed: int, raters: int = 3
) -> list[list[tuple[str | None, float]]]:
    rng = random.Random(seed)
    items = []
    for _ in range(n_items):
        truth = rng.uniform(0.3, 0.7)
        names = rng.sample(sorted(biases), raters)
        items.append([(name, truth + biases[name] + rng.gauss(0, noise)) for name in names])
    return items


def fit(items: list[list[tuple[str | None, float]]]) -> BiasFit:
    fitted = BiasFit()
    for ratings in items:
        fitted.add(ratings)
    return fitted


def test_biases_are_found():
    planted = {"ann": 0.12, "bob": -0.05, "cy": 0.02, "dee": -0.09, "eve": 0.0}
    bias = fit(simulated(planted, 2000, 0.05, seed=1)).solve()
    for name, value in planted.items():
        assert bias.of[name] == pytest.approx(value, abs=0.006)
    assert bias.items == 2000 and sum(bias.ratings.values()) == 6000
    assert math.sqrt(bias.error_variance) == pytest.approx(0.05, rel=0.05)
    assert math.sqrt(bias.variance) == pytest.approx(statistics.stdev(planted.values()), rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_the_biases_solve_the_mixed_model_equations(seed):
    """Against a dense solution of all equations at once, items fixed and annotators random."""
    rng = random.Random(seed)
    planted = {f"r{n}": rng.gauss(0, 0.1) for n in range(6)}
    items = simulated(planted, 25, 0.1, seed, raters=2) + simulated(planted, 15, 0.1, seed + 50, raters=4)
    bias = fit(items).solve()
    names = sorted(bias.of)
    rows = [(number, name, value) for number, ratings in enumerate(items) for name, value in ratings]
    design = np.zeros((len(rows), len(items) + len(names)))
    for row, (number, name, _) in enumerate(rows):
        design[row, number] = design[row, len(items) + names.index(name)] = 1.0
    ridge = np.zeros(design.shape[1])
    ridge[len(items) :] = bias.error_variance / bias.variance
    right = design.T @ np.array([value for _, _, value in rows])
    solved = np.linalg.solve(design.T @ design + np.diag(ridge), right)[len(items) :]
    weights = np.array([bias.ratings[name] for name in names])
    solved -= np.average(solved, weights=weights)
    assert [bias.of[name] for name in names] == pytest.approx(solved.tolist(), abs=1e-7)
    # The variance of the error is that of the residuals of the unshrunk fit.
    residuals = np.linalg.lstsq(design, np.array([value for _, _, value in rows]))[0]
    squares = float(((np.array([value for _, _, value in rows]) - design @ residuals) ** 2).sum())
    assert bias.error_variance == pytest.approx(squares / (len(rows) - len(items) - len(names) + 1))


def test_the_variance_between_annotators_is_estimated_without_bias():
    found = []
    for seed in range(150):
        rng = random.Random(seed)
        planted = {f"r{n}": rng.gauss(0, 0.1) for n in range(8)}
        found.append(fit(simulated(planted, 40, 0.1, seed + 1000, raters=2)).solve().variance)
    # The standard error of the mean of 150 is about .0005; the mean is cut at zero, which is rare here.
    assert statistics.fmean(found) == pytest.approx(0.01, abs=0.0015)


def test_few_items_are_believed_less():
    planted = {"a": 0.1, "b": -0.1, "c": 0.0, "d": 0.05}
    items = simulated(planted, 400, 0.1, seed=3)
    common = [(name, 0.5 + planted[name]) for name in "abc"]
    once = fit([*items, [*common, ("new", 0.9)]]).solve()
    often = fit([*items, *[[*common, ("new", 0.9)]] * 40]).solve()
    assert 0.1 < once.of["new"] < 0.7 * 0.4 < 0.35 < often.of["new"] < 0.4


def test_where_annotators_do_not_differ_nothing_is_corrected():
    zero = dict.fromkeys("abcd", 0.0)
    found = [fit(simulated(zero, 60, 0.1, seed)).solve() for seed in range(20)]
    assert sum(not any(bias.of.values()) for bias in found) >= 8
    assert max(abs(value) for bias in found for value in bias.of.values()) < 0.04
    same = fit([[("a", 0.5), ("b", 0.5)], [("a", 0.1), ("b", 0.1)]]).solve()
    assert same.of == {"a": 0.0, "b": 0.0} and same.variance == 0


def test_groups_without_a_common_item_are_levelled_each_for_itself():
    items = simulated({"a": 0.3, "b": 0.1}, 90, 0.02, seed=1, raters=2)
    items += simulated({"c": -0.2, "d": 0.0, "e": 0.1}, 200, 0.02, seed=2, raters=2)
    bias = fit(items).solve()
    for group in (("a", "b"), ("c", "d", "e")):
        assert sum(bias.of[name] * bias.ratings[name] for name in group) == pytest.approx(0, abs=1e-6)
    assert bias.of["a"] - bias.of["b"] == pytest.approx(0.2, abs=0.01)
    assert bias.of["d"] - bias.of["c"] == pytest.approx(0.2, abs=0.01)


def test_what_says_nothing_of_a_bias_is_left_out():
    empty = fit([[], [("a", 0.5)], [(None, 0.5), (None, 0.7)], [("a", 0.4), (None, 0.9)]]).solve()
    assert empty.items == 0 and empty.of == {}
    items = simulated({"a": 0.1, "b": -0.1, "c": 0.0}, 50, 0.05, seed=1)
    assert fit(items).solve() == fit([[*ratings, (None, 0.9)] for ratings in items]).solve()
    # Two ratings leave nothing to tell error from bias.
    assert fit([[("a", 0.2), ("b", 0.8)]]).solve().of == {"a": 0.0, "b": 0.0}


@given(st.randoms(use_true_random=False), st.integers(2, 4))
@few
def test_the_order_of_the_items_changes_no_bit(rng, raters):
    items = simulated({"a": 0.1, "b": -0.1, "c": 0.0, "d": 0.02}, 30, 0.1, seed=raters, raters=raters)
    before = fit(items).solve()
    rng.shuffle(items)
    assert fit([rng.sample(ratings, len(ratings)) for ratings in items]).solve() == before


def rated(folder: Path, count: int = 60, name: str = "a.jsonl") -> list[dict[str, Any]]:
    """A file of items that three of four annotators have rated, of whom Zoe rates .2 too high."""
    rng = random.Random(5)
    biases = {"Zoe": 0.2, "Ann": -0.1, "Bob": -0.05, "Cy": -0.05}
    records = []
    for n in range(count):
        truth = rng.uniform(0.3, 0.6)
        several = [
            {
                "annotator_id": who,
                "perception_labels": {"valence": round(truth + biases[who], 3), "invoked": "Sad"},
            }
            for who in rng.sample(sorted(biases), 3)
        ]
        records.append({"item_id": f"i{n}", "owner_id": "o", "text": "t", "timestamp": 1_700_000_000 + n,
                        "truth": truth, "annotations": several})  # fmt: skip
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in records))
    return records


def test_bias_correction_from_file_to_label(tmp_path):
    records = rated(tmp_path)
    raw = CorpusSettings(annotations=["a.jsonl"])
    corrected = CorpusSettings(annotations=["a.jsonl"], aggregation={"bias_correction": True})
    errors = {}
    for name, wanted in (("raw", raw), ("corrected", corrected)):
        items = [entry for entry in read_annotations(wanted, tmp_path) if isinstance(entry, Item)]
        errors[name] = [
            item.labels["valence"][0] - one["truth"] for item, one in zip(items, records, strict=True)
        ]
        spreads = [item.labels["valence"][2] for item in items]
        errors[f"{name} spread"] = spreads
        # The ratings stay what they were.
        for item, one in zip(items, records, strict=True):
            given = {a["annotator_id"]: a["perception_labels"]["valence"] for a in one["annotations"]}
            assert dict(item.ratings["valence"]) == given and item.labels["valence"][1] == 3
    # The level of them all is that of the raw ratings, which nothing can tell from the truth.
    assert statistics.pstdev(errors["corrected"]) < 0.002 < 0.03 < statistics.pstdev(errors["raw"])
    assert statistics.fmean(errors["corrected"]) == pytest.approx(statistics.fmean(errors["raw"]), abs=1e-6)
    assert max(errors["corrected spread"]) < 0.005 < min(errors["raw spread"])

    report = ingest_summary(corrected, tmp_path, tmp_path / "s.json")
    annotators = report["annotator_bias"]["valence"]["annotators"]
    assert [one["annotator"] for one in annotators] == [1, 2, 3, 4]
    assert [one["bias"] for one in annotators] == pytest.approx([-0.1, -0.05, -0.05, 0.2], abs=0.03)
    assert set(report["annotator_bias"]) == {"valence"}
    for name in ("Zoe", "Ann", "Bob"):
        assert name not in (tmp_path / "s.json").read_text()
    assert "annotator_bias" not in ingest_summary(raw, tmp_path, tmp_path / "s.json")


def test_the_order_of_lines_changes_no_corrected_label(tmp_path):
    records = rated(tmp_path)
    wanted = CorpusSettings(annotations=["a.jsonl"], aggregation={"bias_correction": True})
    before = content_digests(wanted, tmp_path)
    plain = content_digests(CorpusSettings(annotations=["a.jsonl"]), tmp_path)
    assert {name for name in before if before[name] != plain[name]} == {"labels/valence"}
    random.Random(2).shuffle(records)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    assert content_digests(wanted, tmp_path) == before


# --------------------------------------------------------------------------- tables of single ratings

TABLE = {
    "file": "r.csv",
    "item_id": "item",
    "annotator": "by",
    "labels": {"valence": {"column": "V", "min": 1, "max": 5}, "invoked": {"column": "emotion"}},
}


def joined(
    folder: Path, lines: list[dict[str, Any]], *tables: tuple[dict[str, Any], str], **options: Any
) -> tuple[dict[str, Item], list[Reject], Tally]:
    common = {"owner_id": "o", "text": "t", "timestamp": 1_700_000_000}
    (folder / "a.jsonl").write_text("".join(json.dumps(common | one) + "\n" for one in lines))
    for table, content in tables:
        (folder / table["file"]).write_text(content)
    wanted = CorpusSettings(annotations=["a.jsonl"], ratings=[table for table, _ in tables], **options)
    tally = Tally()
    entries = list(read_annotations(wanted, folder, tally))
    items = {entry.item_id: entry for entry in entries if isinstance(entry, Item)}
    return items, [entry for entry in entries if isinstance(entry, Reject)], tally


def test_a_table_gives_ratings_and_labels(tmp_path):
    lines = [
        {"item_id": "none"},
        {"item_id": "i1"},
        {"item_id": 2, "perception_labels": {"valence": 3, "invoked": "Happy/Playful"}},
    ]
    rows = (
        "item,by,V,emotion\n"
        "i1,b,5,Sad/Lonely\n"
        "i1,a,1,\n"
        "2,a,5,Sad\n"
        "elsewhere,a,5,Sad\n"
        "\n"
        "i1,c,,Sad/Lonely/Isolated\n"
        "2,b,2,Happy\n"
        "2,c,,Sad\n"
    )
    scale = {"valence": {"min": 1, "max": 5}}
    items, rejects, tally = joined(tmp_path, lines, (TABLE, rows), labels=scale)
    assert not rejects and items["none"].labels == {} == items["none"].ratings
    first, second = items["i1"], items["2"]
    assert first.ratings == {
        "valence": [("a", 0.0), ("b", 1.0)],
        "invoked": [("b", ("Sad", "Lonely", None)), ("c", ("Sad", "Lonely", "Isolated"))],
    }
    assert first.labels["valence"] == (0.5, 2, pytest.approx(math.sqrt(0.5)))
    assert first.labels["invoked"] == (("Sad", "Lonely", "Isolated"), 2, 0.0)
    # The corpus's own combined values stay; the ratings tell how sure they are.
    assert second.labels["valence"] == (0.5, 2, pytest.approx(0.75 / math.sqrt(2)))
    assert second.ratings["valence"] == [("a", 1.0), ("b", 0.25)]
    assert second.labels["invoked"] == (("Happy", "Playful", None), 3, pytest.approx(2 / 3))
    [table] = tally.ratings
    assert (table.file, table.lines, table.accepted, table.rejected, table.blank, table.unmatched) == (
        "r.csv", 8, 7, 0, 1, 1,
    )  # fmt: skip
    assert (tally.lines, tally.items) == (3, 3)


def test_raters_without_a_name_are_as_many_as_there_are_rows(tmp_path):
    one = {"file": "r.csv", "labels": {"valence": {}}}
    two = {"file": "s.tsv", "item_id": "id", "labels": {"valence": {"column": "v", "min": -1}}}
    tables = (one, "item_id,valence\ni,.5\ni,.25\ni,.5\n"), (two, "id\tv\ni\t-1\n")
    items, [], tally = joined(tmp_path, [{"item_id": "i"}], *tables)
    assert items["i"].ratings["valence"] == [(None, 0.0), (None, 0.25), (None, 0.5), (None, 0.5)]
    assert items["i"].labels["valence"][:2] == (0.3125, 4)
    assert [table.unmatched for table in tally.ratings] == [0, 0]
    kept, [], _ = joined(tmp_path, [{"item_id": "i", "perception_labels": {"valence": 1}}], *tables)
    assert kept["i"].labels["valence"][:2] == (1.0, 4)


def test_a_rating_of_the_lines_corrects_one_of_the_table(tmp_path):
    several = [{"annotator_id": "b", "perception_labels": {"valence": 0.5}}]
    rows = "item,by,V,emotion\ni,c,1,\ni,b,1,\ni,a,5,\n"
    items, [], _ = joined(tmp_path, [{"item_id": "i", "annotations": several}], (TABLE, rows))
    assert items["i"].ratings["valence"] == [("a", 1.0), ("b", 0.5), ("c", 0.0)]
    assert items["i"].labels["valence"][:2] == (0.5, 3)


def test_bad_rows_are_rejected_by_file_and_line(tmp_path):
    rows = (
        "item,by,V,emotion\n"
        "i,a,1,\n"
        ",b,1,\n"
        "i,,1,\n"
        "i,b,6,\n"
        "i,b,x,\n"
        "i,b,1,Sad/Joyful\n"
        "i,a,3,\n"
        "i,a,,Sad\n"
        "i,b,3\n"
        'i,b,"3,\n'
    )
    items, rejects, tally = joined(tmp_path, [{"item_id": "i"}], (TABLE, rows))
    assert [(one.file, one.line, one.field) for one in rejects] == [
        ("r.csv", 3, "item"), ("r.csv", 4, "by"), ("r.csv", 5, "V"), ("r.csv", 6, "V"),
        ("r.csv", 7, "emotion"), ("r.csv", 8, "by"), ("r.csv", 10, "line"), ("r.csv", 11, "line"),
    ]  # fmt: skip
    assert "from 1 to 5" in rejects[2].reason and "second rating" in rejects[5].reason
    # What was refused is not there, and the other variable of the same annotator is.
    assert items["i"].ratings == {"valence": [("a", 0.0)], "invoked": [("a", ("Sad", None, None))]}
    assert (tally.ratings[0].accepted, tally.ratings[0].rejected) == (2, 8)
    limits = {"limits": {"max_rejected_share": 0.5}}
    with pytest.raises(CorpusError, match=r"8 of 10 rows of ratings .80.00%. were rejected"):
        ingest_items(corpus_of(limits), tmp_path, tmp_path / "i.parquet")
    report = ingest_summary(corpus_of(limits), tmp_path, tmp_path / "s.json")
    assert (report["rejected"], report["ratings"][0]["rejected"]) == (0, 8)
    assert any("8 of 10 rows of r.csv were rejected" in warning for warning in report["warnings"])


def corpus_of(options: dict[str, Any]) -> CorpusSettings:
    return CorpusSettings(annotations=["a.jsonl"], ratings=[TABLE], **options)


def test_an_annotator_rates_once_whatever_the_table(tmp_path):
    other = {**TABLE, "file": "s.jsonl", "labels": {"valence": {"column": "V"}}}
    lines = "".join(json.dumps({"item": "i", "by": by, "V": 1}) + "\n" for by in ("a", "b", "a"))
    tables = (TABLE, "item,by,V,emotion\ni,a,,Sad\ni,b,3,\n"), (other, lines + '{"item": "i", "by": "c"}\n')
    items, rejects, _ = joined(tmp_path, [{"item_id": "i"}], *tables)
    assert [(one.file, one.line) for one in rejects] == [("s.jsonl", 2), ("s.jsonl", 3), ("s.jsonl", 4)]
    assert "has none of the keys" in rejects[2].reason
    assert items["i"].ratings["valence"] == [("a", 1.0), ("b", 0.5)]


def test_a_table_without_the_columns_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"r.csv has no column V, by .it has item, emotion.*corpus.ratings"):
        joined(tmp_path, [{"item_id": "i"}], (TABLE, "item,emotion\ni,Sad\n"))
    with pytest.raises(CorpusError, match=r"r\.txt: no format"):
        joined(tmp_path, [{"item_id": "i"}], ({**TABLE, "file": "r.txt"}, "item\n"))
    with pytest.raises(ValueError, match="at least 1"):
        CorpusSettings(ratings=[{"file": "r.csv", "labels": {}}])


def test_the_digests_see_the_table(tmp_path):
    def digests(rows: str) -> dict[str, str]:
        joined(tmp_path, [{"item_id": "i"}, {"item_id": "j"}], (TABLE, "item,by,V,emotion\n" + rows))
        return content_digests(corpus_of({}), tmp_path)

    def changed(rows: str) -> set[str]:
        after = digests(rows)
        return {name for name in before if before[name] != after[name]}

    before = digests("i,a,1,\ni,b,3,\nj,a,5,Sad\n")
    assert changed("j,a,5,Sad\ni,b,3,\ni,a,1,\n") == set()
    assert changed("i,a,3,\ni,b,1,\nj,a,5,Sad\n") == {"ratings/valence"}
    assert changed("i,a,1,\ni,b,4,\nj,a,5,Sad\n") == {"ratings/valence", "labels/valence"}
    assert changed("i,a,1,\ni,b,3,\nj,a,5,Sad\nk,a,1,\n") == {"rejects"}


def test_emobank_with_its_single_ratings(tmp_path, monkeypatch):
    if not (DATA / "emobank").is_dir():
        pytest.skip(f"the corpus emobank is not at {DATA} (set PERCEIVE_DATA)")
    monkeypatch.setenv("PERCEIVE_DATA", str(DATA.resolve()))
    raw = yaml.safe_load((REPOSITORY / "config/corpora/emobank.yaml").read_text())["corpus"]
    names = ["individual_reader_ratings.csv", "individual_writer_ratings.csv"]
    scales = {"valence": {"column": "V", "min": 1, "max": 5}, "arousal": {"column": "A", "min": 1, "max": 5}}
    raw["ratings"] = [
        {"file": f"${{PERCEIVE_DATA}}/emobank/{name}", "item_id": "id", "labels": scales} for name in names
    ]
    wanted = CorpusSettings(**raw)
    frames = [pd.read_csv(DATA / "emobank" / name) for name in names]
    ratings = pd.concat(frames)
    published = pd.read_csv(DATA / "emobank/emobank.csv").set_index("id").sort_index()
    known = ratings[ratings["id"].isin(published.index)]
    for variable, column in (("valence", "V"), ("arousal", "A")):
        assert ingest_labels(wanted, REPOSITORY, variable, tmp_path / "l.parquet") == len(published)
        labels = pd.read_parquet(tmp_path / "l.parquet").set_index("item_id")
        assert labels["value"].tolist() == pytest.approx(((published[column] - 1) / 4).tolist())
        groups = (known.set_index("id")[column] - 1).div(4).groupby("id")
        rated = labels.loc[groups.size().index]
        assert rated["n_raters"].tolist() == groups.size().tolist()
        assert rated["spread"].fillna(-1).tolist() == pytest.approx(groups.std().fillna(-1).tolist())
        unrated = labels.drop(index=rated.index)
        assert (unrated["n_raters"] == 1).all() and unrated["spread"].isna().all()
    report = ingest_summary(wanted, REPOSITORY, tmp_path / "s.json")
    assert [one["accepted"] for one in report["ratings"]] == [len(frame) for frame in frames]
    assert [one["unmatched"] for one in report["ratings"]] == [
        int((~frame["id"].isin(published.index)).sum()) for frame in frames
    ]
    assert report["rejected"] == 0 == sum(one["rejected"] for one in report["ratings"])


def test_rows_that_are_no_ratings_are_left_out_and_counted(tmp_path):
    (tmp_path / "items.jsonl").write_text(
        json.dumps({"item_id": "a", "owner_id": "o", "text": "fine", "timestamp": "2025-01-01"}) + "\n"
    )
    (tmp_path / "ratings.csv").write_text("id,V,A\na,1,1\na,1,3\na, 1 ,1\na,5,5\na,9,1\n\n")
    table = {
        "file": "ratings.csv",
        "item_id": "id",
        "labels": {"valence": {"column": "V", "min": 1, "max": 5}},
        "leave_out": {"V": 1, "A": "1"},
    }
    tally = Tally()
    settings = CorpusSettings(annotations=["items.jsonl"], ratings=[table])
    *rejects, item = sorted(
        read_annotations(settings, tmp_path, tally), key=lambda entry: isinstance(entry, Item)
    )
    assert item.labels["valence"][:2] == (0.5, 2)
    assert [reject.line for reject in rejects] == [6]
    counts = tally.ratings[0]
    assert (counts.lines, counts.accepted, counts.rejected, counts.left_out, counts.blank) == (6, 2, 1, 2, 1)
    table["leave_out"] = {"nowhere": "1"}
    with pytest.raises(CorpusError, match="no column nowhere"):
        list(read_annotations(CorpusSettings(annotations=["items.jsonl"], ratings=[table]), tmp_path))


def test_emobank_as_configured_gives_the_scores_that_were_published(tmp_path, monkeypatch):
    if not (DATA / "emobank").is_dir():
        pytest.skip(f"the corpus emobank is not at {DATA} (set PERCEIVE_DATA)")
    monkeypatch.setenv("PERCEIVE_DATA", str(DATA.resolve()))
    raw = yaml.safe_load((REPOSITORY / "config/corpora/emobank.yaml").read_text())["corpus"]
    ratings, _, labels = rating_frames(CorpusSettings(**raw), REPOSITORY, "valence")
    means = ratings.groupby("item_id")["value"].mean().loc[labels["item_id"]]
    # The scores are rounded to two decimals of 1 to 5.
    assert np.abs(means.to_numpy() - labels["value"].to_numpy()).max() < 0.0026
