"""Labels that a formula gives: to whom, marked as such, and what changes them changes their digest."""

from __future__ import annotations

import json
import math
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perceive.corpus.derived import Derivations
from perceive.corpus.ingest import ingest_items, ingest_labels, ingest_summary, rating_frames
from perceive.corpus.reader import (
    CorpusError,
    Derived,
    Item,
    Reject,
    Tally,
    content_digests,
    read_annotations,
    read_labelled,
)
from perceive.corpus.settings import CorpusSettings
from perceive.variables import SCALES, VARIABLES

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("PERCEIVE_DATA") or REPOSITORY / "../shared/data")
USUAL = {"comparator": {"formula": "2 * abs(valence - usual(valence))"}}
AGREED = {
    "congruence": {
        "formula": "1 - abs(reader - w)",
        "columns": {"reader": {"min": 1, "max": 5}, "w": {"column": "writer", "min": 1, "max": 5}},
    }
}
BOTH = {**AGREED, **USUAL}


def record(number: int, owner: str = "o", **changes: Any) -> dict[str, Any]:
    base = {
        "item_id": f"i{number}",
        "owner_id": owner,
        "text": f"t {number}",
        "timestamp": 1_700_000_000 + number,
    }
    return base | changes


def timeline(*valences: float | None) -> list[dict[str, Any]]:
    return [record(n, perception_labels={} if v is None else {"valence": v}) for n, v in enumerate(valences)]


def corpus(
    folder: Path, records: list[dict[str, Any]], derived: Any = BOTH, **options: Any
) -> CorpusSettings:
    (folder / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return CorpusSettings(annotations=["a.jsonl"], derived=derived, **options)


def labels(wanted: CorpusSettings, folder: Path, variable: str) -> pd.DataFrame:
    ingest_labels(wanted, folder, variable, folder / "l.parquet")
    return pd.read_parquet(folder / "l.parquet").set_index("item_id")


def derived_values(wanted: CorpusSettings, folder: Path, variable: str) -> dict[str, float]:
    found = labels(wanted, folder, variable)
    return found.loc[found["derived"], "value"].to_dict()


# --------------------------------------------------------------------------- who gets a label


def test_columns_are_mapped_and_what_lacks_gives_no_label(tmp_path):
    records = [
        record(0, reader=1, writer=5),
        record(1, reader=2, writer=3.0),
        record(2, reader="3", writer=" 3"),
        record(3, reader=2),
        record(4, writer=None, reader=""),
        record(5, reader=9, writer=1),
        record(6, reader="x", writer=1),
        record(7, reader=[1], writer=1),
    ]
    wanted = corpus(tmp_path, records)
    found = labels(wanted, tmp_path, "congruence")
    assert found["value"].to_dict() == {"i0": 0.0, "i1": 0.75, "i2": 1.0}
    assert found["derived"].all() and (found["n_raters"] == 0).all() and found["spread"].isna().all()
    rejects = [entry for entry in read_annotations(wanted, tmp_path) if isinstance(entry, Reject)]
    assert [(reject.line, reject.field) for reject in rejects] == [
        (6, "reader"),
        (7, "reader"),
        (8, "reader"),
    ]
    assert "from 1 to 5" in rejects[0].reason
    # A column that a formula reads is no unknown field, as a label's is none.
    assert all(item.extra is None for item in read_annotations(wanted, tmp_path) if isinstance(item, Item))


def test_the_past_of_a_person(tmp_path):
    records = [*timeline(0.5, None, 0.25, 1.0), record(9, "other", perception_labels={"valence": 0.0})]
    records.append(record(7, timestamp=records[3]["timestamp"], perception_labels={"valence": 0.5}))
    random.Random(3).shuffle(records)
    wanted = corpus(tmp_path, records)
    # Before i2 there was .5; before i3 and i7, which do not know each other, .5 and .25.
    expected = {"i2": 0.5, "i3": 1.0, "i7": 0.25}
    assert derived_values(wanted, tmp_path, "comparator") == expected


def test_an_own_label_stays(tmp_path):
    records = timeline(0.5, 0.75, 0.25, 0.5)
    records[2]["perception_labels"]["comparator"] = 0.125
    records[3] |= {"annotations": [{"annotator_id": name, "perception_labels": {"comparator": value}}
                                   for name, value in (("a", 0.0), ("b", 1.0))]}  # fmt: skip
    wanted = corpus(tmp_path, records)
    found = labels(wanted, tmp_path, "comparator")
    assert found["value"].to_dict() == {"i1": 0.5, "i2": 0.125, "i3": 0.5}
    assert found["derived"].to_dict() == {"i1": True, "i2": False, "i3": False}
    assert found["n_raters"].to_dict() == {"i1": 0, "i2": 1, "i3": 2}
    ratings, items, framed = rating_frames(wanted, tmp_path, "comparator")
    assert set(ratings["item_id"]) == set(items["item_id"]) == {"i2", "i3"}
    pd.testing.assert_frame_equal(framed.set_index("item_id"), found, check_dtype=False)
    assert not labels(wanted, tmp_path, "valence")["derived"].any()


def test_labels_that_formulas_read_are_those_after_aggregation(tmp_path):
    several = {"annotations": [{"annotator_id": name, "perception_labels": {"valence": value}}
                               for name, value in (("a", 0.25), ("b", 0.75))]}  # fmt: skip
    records = [record(0, **several), record(1), record(2)]
    (tmp_path / "r.csv").write_text("item_id,valence\ni1,1\ni1,0.5\n")
    ratings = [{"file": "r.csv", "labels": {"valence": {}}}]
    halved = {"comparator": {"formula": "valence / 2"}}
    wanted = corpus(tmp_path, records, halved, ratings=ratings)
    assert derived_values(wanted, tmp_path, "comparator") == {"i0": 0.25, "i1": 0.375}


def test_what_is_beyond_the_scale_is_cut_and_counted(tmp_path):
    records = timeline(0.0, 1.0, 0.5, 1.0, None)
    records[3]["perception_labels"]["comparator"] = 0.5
    wanted = corpus(tmp_path, records, {"comparator": {"formula": "2 * (valence - last(valence))"}})
    report = ingest_summary(wanted, tmp_path, tmp_path / "s.json")
    assert report["derived"] == {
        "comparator": {"formula": "2 * (valence - last(valence))", "items": 2, "clipped": 2, "own": 1,
                       "without": 2, "mean": 0.5, "sd": 0.5}
    }  # fmt: skip
    assert derived_values(wanted, tmp_path, "comparator") == {"i1": 1.0, "i2": 0.0}
    assert report["labels"]["comparator"]["items"] == 1
    exact = corpus(tmp_path, records, {"comparator": {"formula": "valence - 0"}})
    assert ingest_summary(exact, tmp_path, tmp_path / "s.json")["derived"]["comparator"]["clipped"] == 0
    minus = corpus(tmp_path, timeline(0.0), {"comparator": {"formula": "-valence"}})
    [zero] = derived_values(minus, tmp_path, "comparator").values()
    assert math.copysign(1, zero) == 1


def test_a_formula_that_gives_nothing_is_told(tmp_path):
    wanted = corpus(tmp_path, timeline(None, None), USUAL)
    report = ingest_summary(wanted, tmp_path, tmp_path / "s.json")
    assert any("corpus.derived.comparator gives no item a label" in text for text in report["warnings"])
    assert report["derived"]["comparator"]["without"] == 2 and "no item carries a label" in report["warnings"]
    plain = ingest_summary(corpus(tmp_path, timeline(0.5), {}), tmp_path, tmp_path / "s.json")
    assert "derived" not in plain


def test_csv_needs_the_columns_and_joined_ones_count(tmp_path):
    (tmp_path / "r.csv").write_text("id,V\n1,5\n2,4\n")
    (tmp_path / "a.csv").write_text(
        "item_id,owner_id,text,timestamp,writer\n1,o,t,2025-01-01,4\n2,o,u,2025-01-01,\n"
    )
    join = {"file": "r.csv", "column": "item_id", "key": "id", "add": {"reader": "V"}}
    wanted = CorpusSettings(annotations=["a.csv"], derived=AGREED, joins=[join])
    assert derived_values(wanted, tmp_path, "congruence") == {"1": 0.75}
    with pytest.raises(CorpusError, match=r"no column reader .*corpus\.derived"):
        list(read_annotations(CorpusSettings(annotations=["a.csv"], derived=AGREED), tmp_path))
    jsonl = corpus(tmp_path, [record(0, key="1", writer=4)], AGREED, joins=[{**join, "column": "key"}])
    assert derived_values(jsonl, tmp_path, "congruence") == {"i0": 0.75}


@pytest.mark.parametrize(
    ("derived", "said"),
    [
        ({"invoked": {"formula": "valence"}}, "invoked: only scales can be derived: valence, arousal"),
        ({"joy": {"formula": "valence"}}, "Input should be 'valence'"),
        ({"comparator": {}}, "Field required"),
        ({"comparator": {"formula": "abs(valance)"}},
         "comparator: formula 'abs(valance)': unknown name 'valance'; did you mean "
         "'valence'? Known are valence, arousal, willingness, congruence"),
        ({"comparator": {"formula": "invoked"}}, "'invoked' cannot be used: it is a path, not a number"),
        ({"comparator": {"formula": "last(comparator)"}},
         "'comparator' cannot be used: it is derived itself"),
        ({"comparator": {"formula": "congruence"}, "congruence": {"formula": "valence"}},
         "comparator: formula 'congruence': 'congruence' cannot be used: it is derived itself"),
        ({"comparator": {"formula": "valence", "columns": {"a": {}}}}, "does not use the columns a"),
        ({"comparator": {"formula": "valence", "columns": {"valence": {}}}},
         "'valence' has a meaning of its own"),
        ({"comparator": {"formula": "a", "columns": {"a": {"min": 1}}}}, "min must be less than max"),
        ({"comparator": {"formula": "a", "columns": {"a": {"max": float("inf")}}}}, "finite number"),
        ({"comparator": {"formula": "a", "columns": {"a": {"maxi": 2}}}}, "Extra inputs"),
    ],
)  # fmt: skip
def test_settings_refuse(derived, said):
    with pytest.raises(ValueError) as caught:
        CorpusSettings(derived=derived)
    assert said in str(caught.value)


# --------------------------------------------------------------------------- digests


def all_labels(wanted: CorpusSettings, folder: Path) -> dict[str, Any]:
    found = {}
    for name in VARIABLES:
        ingest_labels(wanted, folder, name, folder / "l.parquet")
        found[f"labels/{name}"] = pd.read_parquet(folder / "l.parquet").to_csv()
    return found


NUMBER = st.integers(0, 8).map(lambda n: n / 8)
RATING = st.none() | st.integers(1, 5)


@st.composite
def edited(draw):
    """Records, settings, and both after one random edit."""
    records = [
        record(n, draw(st.sampled_from("xy")), timestamp=1_700_000_000 + draw(st.integers(0, 3)),
               reader=draw(RATING), writer=draw(RATING),
               perception_labels=draw(st.fixed_dictionaries({}, optional=dict.fromkeys(SCALES, NUMBER))))
        for n in range(draw(st.integers(1, 6)))
    ]  # fmt: skip
    after = [json.loads(json.dumps(one)) for one in records]
    before, derived = BOTH, BOTH
    one = draw(st.sampled_from(after))
    kind = draw(
        st.sampled_from(["text", "owner", "time", "column", "label", "unlabel", "drop", "order", "formula"])
    )
    if kind == "text":
        one["text"] = "another"
    elif kind == "owner":
        one["owner_id"] = draw(st.sampled_from("xyz"))
    elif kind == "time":
        one["timestamp"] = 1_700_000_000 + draw(st.integers(0, 4))
    elif kind == "column":
        one[draw(st.sampled_from(["reader", "writer"]))] = draw(RATING)
    elif kind == "label":
        one["perception_labels"][draw(st.sampled_from(SCALES))] = draw(NUMBER)
    elif kind == "unlabel":
        one["perception_labels"].pop(draw(st.sampled_from(SCALES)), None)
    elif kind == "drop" and len(after) > 1:
        after.remove(one)
    elif kind == "order":
        after = draw(st.permutations(after))
    elif kind == "formula":
        texts = [
            "abs(valence - last(valence))",
            "2*abs( valence-usual(valence) )",
            "arousal",
            "usual(arousal)",
        ]
        derived = {**AGREED, "comparator": {"formula": draw(st.sampled_from(texts))}}
        if draw(st.booleans()):
            del derived["congruence"]
    return records, before, after, derived


@given(edited())
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_digest_changes_exactly_with_the_labels(tmp_path, edit):
    records, before, after, derived = edit
    old = corpus(tmp_path, records, before)
    then, digests = all_labels(old, tmp_path), content_digests(old, tmp_path)
    new = corpus(tmp_path, after, derived)
    now, changed = all_labels(new, tmp_path), content_digests(new, tmp_path)
    assert {name for name in then if then[name] != now[name]} == {
        name for name in then if digests[name] != changed[name]
    }
    # The summary, which reads all, sees what was cut.
    tallies = []
    for wanted, lines in ((old, records), (new, after)):
        corpus(tmp_path, lines)
        tally = Tally()
        list(read_labelled(wanted, tmp_path, tally))
        tallies.append(tally.derived)
    assert (tallies[0] != tallies[1]) <= (digests["rejects"] != changed["rejects"])


def changed_parts(folder: Path, before: Any, after: Any) -> set[str]:
    found = [content_digests(corpus(folder, *one), folder) for one in (before, after)]
    return {name for name in found[0] if found[0][name] != found[1][name]}


def test_what_changes_what(tmp_path):
    records = [one | {"reader": 2, "writer": 3} for one in timeline(0.5, 0.75, 0.25, 0.5)]

    def after(number: int, **changes: Any) -> set[str]:
        edited = [dict(one) for one in records]
        edited[number] |= changes
        return changed_parts(tmp_path, (records, BOTH), (edited, BOTH))

    valence = {"labels/valence", "ratings/valence"}
    assert after(1, perception_labels={"valence": 0.625}) == valence | {"labels/comparator"}
    assert after(1, perception_labels={"valence": 0.75, "arousal": 1}) == {
        "labels/arousal",
        "ratings/arousal",
    }
    assert after(2, text="another") == {"items", "items/text"}
    assert after(2, reader=4) == set() and after(2, reader=1) == {"labels/congruence"}
    assert after(3, owner_id="p") == {"items", "items/owner_id", "labels/comparator", "rejects"}
    assert after(3, timestamp=1_700_000_001) == {"items", "items/timestamp", "labels/comparator"}
    # What is edited in corpus.derived alone reaches the variable alone (and the counts).
    last = {**AGREED, "comparator": {"formula": "abs(valence - last(valence))"}}
    assert changed_parts(tmp_path, (records, BOTH), (records, last)) == {"labels/comparator"}
    assert changed_parts(tmp_path, (records, USUAL), (records, {})) == {"labels/comparator", "rejects"}
    spaced = {**AGREED, "comparator": {"formula": "2*abs( valence - usual(valence) )"}}
    assert changed_parts(tmp_path, (records, BOTH), (records, spaced)) == set()
    # A derived label is not the same as a given one of the same value.
    given = [dict(one) for one in records]
    given[1] = {**given[1], "perception_labels": {"valence": 0.75, "comparator": 0.5}}
    found = changed_parts(tmp_path, (records, BOTH), (given, BOTH))
    assert found == {"labels/comparator", "ratings/comparator", "rejects"}


# --------------------------------------------------------------------------- memory, real corpora


def test_of_an_item_only_numbers_are_kept():
    def peak(count: int) -> int:
        wanted = CorpusSettings(derived=USUAL)
        tracemalloc.start()
        derivations = Derivations(wanted)
        for n in range(count):
            rated = {"valence": [(None, 0.5)]}
            item = Item(f"item-{n}", f"owner-{n % 9}", "word " * 50, n, "en", "LONG", None, None, None, None,
                        None, rated, {"valence": (n / count, 1, math.nan)}, False)  # fmt: skip
            derivations.add(item)
        assert sum(1 for _ in derivations.labels({})) == count - 9
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(20_000) - peak(2_000) < 18_000 * 220


@pytest.mark.parametrize(
    ("name", "variable", "count"), [("emobank", "congruence", 9062), ("affect_over_time", "comparator", 2627)]
)
def test_real_corpora(tmp_path, monkeypatch, name, variable, count):
    if not (DATA / name).is_dir():
        pytest.skip(f"the corpus {name} is not at {DATA} (set PERCEIVE_DATA)")
    monkeypatch.setenv("PERCEIVE_DATA", str(DATA.resolve()))
    wanted = CorpusSettings(
        **yaml.safe_load((REPOSITORY / f"config/corpora/{name}.yaml").read_text())["corpus"]
    )
    ingest_labels(wanted, REPOSITORY, variable, tmp_path / "l.parquet")
    table = pd.read_parquet(tmp_path / "l.parquet").set_index("item_id")
    found = table["value"]
    assert len(found) == count and table["derived"].all() and found.std() > 0.2
    # Against pandas.
    if name == "emobank":
        readers, writers = (
            pd.read_csv(DATA / name / f"{who}.csv", index_col="id") for who in ("reader", "writer")
        )
        apart = ((readers[["V", "A"]] - writers[["V", "A"]]) / 4).pow(2).sum(axis=1).pow(0.5)
        expected = (1 - 3 * apart).clip(0, 1)
    else:
        raw = pd.read_csv(DATA / name / "train.csv", dtype={"text_id": str}).sort_values(
            ["user_id", "timestamp"]
        )
        usual = raw.groupby("user_id")["valence"].transform(lambda of: of.expanding().mean().shift())
        apart = (raw["valence"] - usual).abs().set_axis(raw["text_id"]) / 4
        expected = (1.5 * apart.dropna()).clip(0, 1)
    pd.testing.assert_series_equal(
        found.sort_index(), expected.sort_index(), check_names=False, check_exact=False
    )
    ingest_items(wanted, REPOSITORY, tmp_path / "i.parquet")
    assert set(table.index) <= set(pd.read_parquet(tmp_path / "i.parquet")["item_id"])


def test_derived_entries_come_last_and_only_those_wanted(tmp_path):
    records = [one | {"reader": 1, "writer": 1} for one in timeline(0.5, 0.25)]
    wanted = corpus(tmp_path, records)
    kinds = [type(entry) for entry in read_labelled(wanted, tmp_path)]
    assert kinds == [Item, Item, Derived, Derived, Derived]
    entries = list(read_labelled(wanted, tmp_path, variables=("comparator", "valence")))
    assert [entry.variable for entry in entries if isinstance(entry, Derived)] == ["comparator"]
