"""Later files correct earlier ones: field by field, on record, in bounded memory, leaving nothing behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perceive.corpus.ingest import ingest_items, ingest_rejects, ingest_summary
from perceive.corpus.reader import (
    READ_COLUMNS,
    CorpusError,
    Item,
    Reject,
    Tally,
    content_digests,
    read_annotations,
)
from perceive.corpus.settings import CorpusSettings
from perceive.variables import VARIABLES

REPOSITORY = Path(__file__).resolve().parents[1]
SECRET = "zebrafinch"
WHOLE = {"owner_id": "o1", "text": f"I feel {SECRET}", "timestamp": 1_700_000_000}
COUNTS = ("new", "corrected", "unchanged", "withdrawn", "restored", "moved")


def whole(item_id: Any = "i1", **changes: Any) -> dict[str, Any]:
    return {"item_id": item_id, **WHOLE, **changes}


def rated(**labels: Any) -> dict[str, Any]:
    """The annotations of a line: annotator to labels."""
    return {"annotations": [{"annotator_id": who, "perception_labels": what} for who, what in labels.items()]}


def write(folder: Path, rounds: Sequence[Any], suffix: str = ".jsonl") -> list[str]:
    names = []
    for number, lines in enumerate(rounds):
        names.append(f"round{number}{suffix}")
        if not isinstance(lines, str):
            lines = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
        (folder / names[-1]).write_text(lines)
    return names


def read(
    folder: Path, rounds: Sequence[Any], suffix: str = ".jsonl", **options: Any
) -> tuple[dict[str, Item], list[Reject], Tally]:
    wanted = CorpusSettings(annotations=write(folder, rounds, suffix), **options)
    tally = Tally()
    entries = list(read_annotations(wanted, folder, tally))
    items = {entry.item_id: entry for entry in entries if isinstance(entry, Item)}
    rejects = [entry for entry in entries if isinstance(entry, Reject)]
    assert len(items) + len(rejects) == len(entries) and tally.items == len(items)
    for one in tally.rounds:
        assert one.accepted + one.rejected + one.blank == one.lines
        assert one.accepted == one.new + one.corrected + one.unchanged + one.withdrawn + one.restored
    assert tally.rejected == len(rejects)
    assert all(SECRET not in json.dumps(reject.record()) for reject in rejects)
    return items, rejects, tally


def counts(tally: Tally, number: int = -1) -> dict[str, int]:
    return {name: count for name in COUNTS if (count := getattr(tally.rounds[number], name))}


# --------------------------------------------------------------------------- what a correction may say


@pytest.mark.parametrize(
    ("correction", "changed"),
    [
        ({"text": "another text"}, {"text": "another text"}),
        ({"text": "w " * 60}, {"text": "w " * 60, "length_bucket": "LONG"}),
        ({"timestamp": 1_700_000_001}, {"timestamp": 1_700_000_001_000_000}),
        ({"language": "EN"}, {"language": "en"}),
        ({"category": "work"}, {"category": "work"}),
        ({"risk_level": "high"}, {"risk_level": "HIGH"}),
        ({"device": "pen"}, {"device": "pen"}),
        ({"split": "test"}, {"split": "test"}),
        ({"owner_id": "o2"}, {"owner_id": "o2"}),
        ({"mood": 2, "more": [1]}, {"extra": '{"mood": 2, "more": [1], "place": "home"}'}),
        ({"mood": None, "place": " ", "more": "x"}, {"extra": '{"mood": 1, "more": "x", "place": "home"}'}),
        (
            dict.fromkeys(("owner_id", "text", "timestamp", "language", "category", "risk_level", "split")),
            {},
        ),
        ({"owner_id": "", "text": " \n", "timestamp": "", "language": " ", "category": "", "device": ""}, {}),
        ({"perception_labels": {}}, {}),
        ({"annotations": []}, {}),
        ({"withdrawn": False}, {}),
        ({"withdrawn": None}, {}),
        ({"mood": 1, "text": WHOLE["text"], "timestamp": "2023-11-14T22:13:20Z", "language": "hinglish"}, {}),
    ],
)
def test_a_correction_of_fields(tmp_path, correction, changed):
    first = whole(language="hinglish", category="home", risk_level="LOW", device="phone", split="val",
                  mood=1, place="home", perception_labels={"valence": 0.5})  # fmt: skip
    other = whole("i2")
    [before, untouched], [], _ = (list(x.values()) if isinstance(x, dict) else x
                                  for x in read(tmp_path, [[first, other]]))  # fmt: skip
    items, [], tally = read(tmp_path, [[first, other], [{"item_id": "i1", **correction}]])
    for name in Item.__dataclass_fields__:
        if name != "labels":
            assert getattr(items["i1"], name) == changed.get(name, getattr(before, name)), name
            assert getattr(items["i2"], name) == getattr(untouched, name)
    moved = {"moved": 1} if "owner_id" in changed else {}
    assert counts(tally) == ({"corrected": 1, **moved} if changed else {"unchanged": 1})
    assert counts(tally, 0) == {"new": 2}


PLAIN = {"perception_labels": {"valence": 0.5, "invoked": "Sad"}}
SEVERAL = rated(ann={"valence": 0.25, "invoked": "Sad"}, bob={"valence": 0.75})
SAD, HAPPY = ("Sad", None, None), ("Happy", None, None)


@pytest.mark.parametrize(
    ("first", "correction", "valence", "invoked", "counted"),
    [
        (PLAIN, {"perception_labels": {"valence": 1}}, {None: 1.0}, {None: SAD}, "corrected"),
        (PLAIN, {"perception_labels": {"valence": None}}, None, {None: SAD}, "corrected"),
        (PLAIN, {"perception_labels": {"arousal": None}}, {None: 0.5}, {None: SAD}, "unchanged"),
        (PLAIN, {"perception_labels": {"valence": 0.5}}, {None: 0.5}, {None: SAD}, "unchanged"),
        (PLAIN, rated(ann={"valence": 1}), {"ann": 1.0}, {None: SAD}, "corrected"),
        (
            PLAIN,
            rated(ann={"valence": 1}, bob={"valence": 0}),
            {"ann": 1.0, "bob": 0.0},
            {None: SAD},
            "corrected",
        ),
        (PLAIN, rated(ann={"valence": None}), {None: 0.5}, {None: SAD}, "unchanged"),
        (SEVERAL, {"perception_labels": {"valence": 1}}, {None: 1.0}, {"ann": SAD}, "corrected"),
        (SEVERAL, {"perception_labels": {"valence": None}}, None, {"ann": SAD}, "corrected"),
        (SEVERAL, rated(ann={"valence": 1}), {"ann": 1.0, "bob": 0.75}, {"ann": SAD}, "corrected"),
        (SEVERAL, rated(ann={"valence": None}), {"bob": 0.75}, {"ann": SAD}, "corrected"),
        (
            SEVERAL,
            rated(ann={"valence": None, "invoked": None}, bob={"valence": None}),
            None,
            None,
            "corrected",
        ),
        (
            SEVERAL,
            rated(abe={"valence": 0}),
            {"abe": 0.0, "ann": 0.25, "bob": 0.75},
            {"ann": SAD},
            "corrected",
        ),
        (
            SEVERAL,
            rated(ann={"valence": None}, cy={"valence": 0}),
            {"bob": 0.75, "cy": 0.0},
            {"ann": SAD},
            "corrected",
        ),
        (SEVERAL, rated(bob={"valence": 0.75}), {"ann": 0.25, "bob": 0.75}, {"ann": SAD}, "unchanged"),
        (SEVERAL, rated(cy={"valence": None}), {"ann": 0.25, "bob": 0.75}, {"ann": SAD}, "unchanged"),
        (
            SEVERAL,
            {**rated(cy={"invoked": "Happy"}), "perception_labels": {"valence": 0}},
            {None: 0.0},
            {"ann": SAD, "cy": HAPPY},
            "corrected",
        ),
    ],
)
def test_a_correction_of_labels(tmp_path, first, correction, valence, invoked, counted):
    items, [], tally = read(tmp_path, [[whole(**first)], [{"item_id": "i1", **correction}]])
    expected = {"valence": valence, "invoked": invoked}
    found = items["i1"].ratings
    assert {name: list(ratings.items()) for name, ratings in expected.items() if ratings} == found
    assert set(items["i1"].labels) == set(found) and counts(tally) == {counted: 1}
    if valence:
        assert items["i1"].labels["valence"][:2] == (sum(valence.values()) / len(valence), len(valence))


REFUSED = [
    ({"item_id": "i1", "perception_labels": {"valence": 7}}, "perception_labels.valence", "out of range"),
    ({"item_id": "i1", "text": 3}, "text", "string"),
    ({"item_id": "i1", "text": "\u200b"}, "text", "empty"),
    ({"item_id": "i1", "timestamp": 0}, "timestamp", "outside"),
    ({"item_id": "i1", "perception_labels": {"valence": None}, **rated(a={"valence": 1})},
     "perception_labels.valence", "annotations too"),
    ({"item_id": "i1", "withdrawn": "x"}, "withdrawn", "must be one of"),
    ({"item_id": "i9", "perception_labels": {"valence": 0.5}}, "owner_id", "no earlier file holds the item"),
    ({"item_id": "i9", "owner_id": "o", "timestamp": 1_700_000_000}, "text", "no earlier file"),
    ({"item_id": "i9", "owner_id": "o", "text": "t"}, "timestamp", "no earlier file"),
    ({"item_id": "i9", "withdrawn": True}, "withdrawn", "no earlier file holds the item"),
    ({"perception_labels": {"valence": 0.5}}, "owner_id", "missing"),
    ("{", "line", "malformed"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "field", "reason"), REFUSED)
def test_a_bad_correction_loses_nothing(tmp_path, bad, field, reason):
    good = {"item_id": "i1", "category": "after"}
    items, [reject], tally = read(tmp_path, [[whole(**PLAIN)], [bad, "", good]])
    assert (reject.file, reject.line, reject.field) == ("round1.jsonl", 1, field) and reason in reject.reason
    assert items["i1"].text == WHOLE["text"] and items["i1"].labels["valence"][0] == 0.5
    # The line that was refused does not stand in the way of the correct one.
    assert items["i1"].category == "after" and list(items) == ["i1"]
    assert (tally.lines, tally.accepted, tally.rejected, tally.blank) == (4, 2, 1, 1)


def test_withdrawn_and_brought_back(tmp_path):
    first = [whole(**PLAIN, category="a"), whole("i2")]
    gone = [{"item_id": "i1", "withdrawn": True, "text": 3}]
    items, [], tally = read(tmp_path, [first, gone])
    assert list(items) == ["i2"] and counts(tally) == {"withdrawn": 1}
    items, [], tally = read(tmp_path, [first, gone, [{"item_id": "i1", "withdrawn": "yes"}]])
    assert list(items) == ["i2"] and counts(tally) == {"unchanged": 1}
    short = [{"item_id": "i1", "perception_labels": {"valence": 1}}]
    items, [reject], tally = read(tmp_path, [first, gone, short])
    assert list(items) == ["i2"] and "only a whole record brings it back" in reject.reason
    # What it was before is not remembered.
    items, [], tally = read(tmp_path, [first, gone, [whole(owner_id="o2")], short])
    assert items["i1"].ratings == {"valence": [(None, 1.0)]} and items["i1"].category is None
    assert counts(tally, 2) == {"restored": 1} and counts(tally) == {"corrected": 1}
    with pytest.raises(CorpusError, match="all items are withdrawn"):
        wanted = CorpusSettings(annotations=write(tmp_path, [first[:1], gone]))
        ingest_items(wanted, tmp_path, tmp_path / "i.parquet")


def test_a_file_names_an_item_once(tmp_path):
    first = [whole()]
    correction = {"item_id": "i1", "category": "a"}
    for second in (
        [correction, {**correction, "category": "b"}],
        [correction, {"item_id": "i1", "withdrawn": True}],
        [correction, correction],
    ):
        items, [reject], _ = read(tmp_path, [first, second])
        assert items["i1"].category == "a" and (reject.line, reject.field) == (2, "item_id")
        assert "duplicate" in reject.reason
    gone = [{"item_id": "i1", "withdrawn": True}, whole()]
    items, [reject], _ = read(tmp_path, [first, gone])
    assert not items and reject.line == 2
    # As in the first file itself, of which no earlier one is to be spoken.
    _, [reject], _ = read(tmp_path, [[{"item_id": "i1", "text": "t"}], first])
    assert (reject.file, reject.reason) == ("round0.jsonl", "missing or empty")
    items, [reject], _ = read(tmp_path, [[whole(), whole(text="x")], []])
    assert items["i1"].text == WHOLE["text"] and reject.line == 2


def test_items_without_an_id_are_known_by_owner_time_and_text(tmp_path):
    nameless = {**WHOLE, **PLAIN}
    again = {**WHOLE, "timestamp": "2023-11-14T22:13:20Z", "perception_labels": {"valence": 1}}
    items, [], tally = read(tmp_path, [[nameless], [again, {**again, "text": "new"}]])
    assert [item.labels["valence"][0] for item in items.values()] == [1.0, 1.0]
    assert counts(tally) == {"new": 1, "corrected": 1} and tally.derived_ids == 2
    [item_id, _] = items
    items, [], _ = read(tmp_path, [[nameless], [{"item_id": item_id, "text": "other"}]])
    assert items[item_id].text == "other"
    items, [], _ = read(tmp_path, [[nameless], [{**WHOLE, "withdrawn": True}]])
    assert not items
    items, [reject], _ = read(tmp_path, [[nameless], [{**again, "withdrawn": 1, "text": "x"}]])
    assert reject.field == "withdrawn" and len(items) == 1


def test_constants_and_defaults_are_no_corrections(tmp_path):
    constants = {"owner_id": "c", "category": "constant", "risk_level": "LOW"}
    first = {"item_id": "i1", "text": "t", "timestamp": 1, "risk_level": "HIGH", "language": "hinglish"}
    first["timestamp"] = 1_700_000_000
    items, [], tally = read(
        tmp_path, [[first], [{"item_id": "i1", "category": "own"}], [{"item_id": "i1"}]], constants=constants
    )
    item = items["i1"]
    assert (item.category, item.risk_level, item.language, item.owner_id) == ("own", "HIGH", "hinglish", "c")
    assert counts(tally, 1) == {"corrected": 1} and counts(tally, 2) == {"unchanged": 1}
    _, [], tally = read(
        tmp_path, [[first], [{"item_id": "i1", "owner_id": "c", "text": "u"}]], constants=constants
    )
    assert counts(tally) == {"corrected": 1}
    # To say what the item is in any case changes nothing of it.
    items, [], tally = read(
        tmp_path, [[whole()], [{"item_id": "i1", "language": "en", "category": "constant"}]],
        constants=constants,
    )  # fmt: skip
    assert counts(tally) == {"unchanged": 1} and tally.default_language == 0
    _, [], tally = read(tmp_path, [[whole(), whole("i2")], [{"item_id": "i1", "language": "hinglish"}]])
    assert tally.default_language == 1


def test_a_moved_item_is_counted(tmp_path):
    items, [], tally = read(tmp_path, [[whole(), whole("i2")], [{"item_id": "i1", "owner_id": "o9"}]])
    # What a later file names comes last.
    assert [(item.item_id, item.owner_id) for item in items.values()] == [("i2", "o1"), ("i1", "o9")]
    assert counts(tally) == {"corrected": 1, "moved": 1}


def test_what_was_assumed_is_told_of_the_items_as_they_are(tmp_path):
    first = [whole("a", text="x\x00y"), whole("b", text="x\x00y"), whole("c", timestamp="2025-01-01")]
    _, [], tally = read(tmp_path, [first, []])
    assert (tally.cleaned, tally.naive_timestamps) == (2, 1)
    _, [], tally = read(tmp_path, [first, [{"item_id": name, "category": "x"} for name in "abc"]])
    assert (tally.cleaned, tally.naive_timestamps) == (2, 1)
    second = [{"item_id": "a", "text": "xy z"}, {"item_id": "b", "withdrawn": True},
              {"item_id": "c", "timestamp": "2025-01-01T00:00:01Z"}]  # fmt: skip
    items, [], tally = read(tmp_path, [first, second])
    assert (tally.cleaned, tally.naive_timestamps) == (0, 0) and not items["a"].cleaned


# --------------------------------------------------------------------------- CSV, joins, order

COLUMNS = {
    "columns": {"item_id": "id", "owner_id": "who", "text": "body", "timestamp": "at", "withdrawn": "gone"},
    "labels": {"valence": {"column": "V", "min": 1, "max": 5}, "invoked": {"column": "emotion"}},
}


def test_corrections_in_csv_need_few_columns(tmp_path):
    rounds = [
        "id,who,body,at,V,emotion,note\n1,o,t,2025-01-01,3,Sad,n\n2,o,t,2025-01-01,3,Sad,n\n",
        "id,V,note\n1,5,\n2,,new\n",
        "id,gone,emotion\n1,no,Happy\n2,Yes,\n",
    ]
    items, [], tally = read(tmp_path, rounds[:2], ".csv", **COLUMNS)
    assert [item.labels["valence"][0] for item in items.values()] == [1.0, 0.5]
    assert [json.loads(item.extra)["note"] for item in items.values()] == ["n", "new"]
    assert [item.labels["invoked"][0] for item in items.values()] == [SAD, SAD]
    assert counts(tally) == {"corrected": 2}
    items, [], tally = read(tmp_path, rounds, ".csv", **COLUMNS)
    assert items["1"].labels["invoked"][0] == HAPPY and list(items) == ["1"]
    assert counts(tally) == {"corrected": 1, "withdrawn": 1}
    _, [reject], _ = read(tmp_path, [rounds[0], "id,V\n9,5\n"], ".csv", **COLUMNS)
    assert reject.field == "owner_id"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("id,valence", "has no column that corrects anything .it has id, valence.*corpus.labels"),
        ("V,body", "has no column at, emotion, id, who"),
    ],
)
def test_a_correction_in_csv_that_corrects_nothing_is_a_mistake(tmp_path, header, said):
    first = "id,who,body,at,V,emotion\n1,o,t,2025-01-01,3,Sad\n"
    with pytest.raises(CorpusError, match=said):
        read(tmp_path, [first, header + "\n1,2\n"], ".csv", **COLUMNS)


def test_the_first_file_needs_no_column_for_withdrawing_and_later_ones_may_be_of_another_format(tmp_path):
    (tmp_path / "a.csv").write_text("id,who,body,at,V,emotion\n1,o,t,2025-01-01,3,Sad\n")
    (tmp_path / "b.jsonl").write_text('{"id": 1, "perception_labels": {"valence": 1}}\n')
    wanted = CorpusSettings(annotations=["a.csv", "b.jsonl"], **COLUMNS)
    [item] = read_annotations(wanted, tmp_path)
    assert isinstance(item, Item) and item.labels["valence"][0] == 0.0


def test_joins_and_positions_are_taken_where_a_correction_has_the_column(tmp_path):
    (tmp_path / "meta.tsv").write_text("doc\towner\td1\nx\tann\tnews\ny\tbob\tblog\n")
    options: dict[str, Any] = {
        "columns": {"owner_id": "owner", "category": "d1"},
        "joins": [{"file": "meta.tsv", "column": "doc", "add": ["owner", "d1"]}],
        "order": {"column": "place", "pattern": r"(\d+)", "start": "2020-01-01"},
    }
    first = {"item_id": "i1", "text": "t", "doc": "x", "place": "5"}
    start = 1_577_836_800_000_000
    items, [], _ = read(tmp_path, [[first], [{"item_id": "i1", "text": "u"}]], **options)
    assert (items["i1"].owner_id, items["i1"].category, items["i1"].text) == ("ann", "news", "u")
    assert items["i1"].timestamp == start + 5_000_000
    items, [], _ = read(tmp_path, [[first], [{"item_id": "i1", "doc": "y", "place": 9}]], **options)
    assert (items["i1"].owner_id, items["i1"].category) == ("bob", "blog")
    assert items["i1"].timestamp == start + 9_000_000
    items, [], _ = read(
        tmp_path, [[{**first, "owner": "cy"}], [{"item_id": "i1", "doc": "y", "d1": 3}]], **options
    )
    assert (items["i1"].owner_id, items["i1"].category) == ("bob", "blog")
    bad = [
        ({"item_id": "i1", "doc": "z"}, "doc"),
        ({"item_id": "i1", "place": "none"}, "place"),
        ({"item_id": "i2", "text": "t", "owner": "cy", "place": 1}, "doc"),
        ({"item_id": "i2", "text": "t", "doc": "x"}, "timestamp"),
    ]
    for record, field in bad:
        items, [reject], _ = read(tmp_path, [[first], [record]], **options)
        assert reject.field == field and items["i1"].owner_id == "ann" and len(items) == 1
    _, [reject], _ = read(tmp_path, [[{**first, "doc": None}], []], **options)
    assert (reject.field, reject.reason) == ("doc", "no row in the joined table")


def test_what_formulas_read_is_corrected_like_labels(tmp_path):
    derived = {
        "congruence": {"formula": "1 - abs(r - w)", "columns": {"r": {"max": 4}, "w": {"column": "W"}}}
    }
    first = [whole(r=1, W=0.5), whole("i2", r=4)]
    items, [], _ = read(tmp_path, [first], derived=derived)
    assert items["i1"].inputs == [0.25, 0.5] and items["i2"].inputs == [1.0, None]
    assert items["i1"].extra is None
    later = [{"item_id": "i1", "r": 2, "W": None}, {"item_id": "i2", "text": "u", "W": ""}]
    items, [], tally = read(tmp_path, [first, later], derived=derived)
    assert items["i1"].inputs == [0.5, 0.5] and items["i2"].inputs == [1.0, None]
    assert counts(tally) == {"corrected": 2}
    items, [reject], tally = read(
        tmp_path, [first, [{"item_id": "i1", "r": 1}, {"item_id": "i2", "W": 9}]], derived=derived
    )
    assert counts(tally) == {"unchanged": 1} and (reject.field, items["i2"].inputs) == ("W", [1.0, None])
    gone = [{"item_id": "i1", "withdrawn": True, "r": "x"}]
    items, [], tally = read(tmp_path, [first, gone, [whole(W=1)]], derived=derived)
    assert items["i1"].inputs == [None, 1.0] and counts(tally) == {"restored": 1}
    rounds = ["item_id,owner_id,text,timestamp,r,W\n1,o,t,2025-01-01,2,\n", "item_id,W\n1,1\n"]
    items, [], tally = read(tmp_path, rounds, ".csv", derived=derived)
    assert items["1"].inputs == [0.5, 1.0] and counts(tally) == {"corrected": 1}


# --------------------------------------------------------------------------- against a model

ANNOTATORS = ("ann", "bob", "cy")
VALUES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
PATHS = st.sampled_from(["Sad", "Sad/Lonely", "Sad/Lonely/Isolated", "Happy/Playful"])
LABELS = st.fixed_dictionaries(
    {}, optional={"valence": st.none() | VALUES, "arousal": st.none() | VALUES, "invoked": st.none() | PATHS}
)


@st.composite
def lines(draw):
    line: dict[str, Any] = {"item_id": draw(st.sampled_from(["a", "b", "c", "d"]))}
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return {**line, "withdrawn": True}
    if kind < 5:
        line |= {"owner_id": draw(st.sampled_from(["o1", "o2"])), "text": draw(st.sampled_from(["t", "u"])),
                 "timestamp": draw(st.sampled_from([1_700_000_000, 1_700_000_001]))}  # fmt: skip
    optional = {
        "owner_id": st.sampled_from(["o1", "o2", None, 1.5]),
        "language": st.sampled_from(["en", "hinglish", ""]),
        "category": st.sampled_from(["x", "y", None]),
        "mood": st.sampled_from([1, "z", None, ""]),
        "perception_labels": LABELS,
        "annotations": st.dictionaries(st.sampled_from(ANNOTATORS), LABELS).map(
            lambda x: rated(**x)["annotations"]
        ),
    }
    return line | draw(st.fixed_dictionaries({}, optional=optional))


class Model:
    """The rules once more, over plain dictionaries."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any] | None] = {}
        self.counts: list[dict[str, int]] = []
        self.rejected: list[tuple[int, int]] = []

    def read(self, rounds: Sequence[Sequence[dict[str, Any]]]) -> None:
        for number, records in enumerate(rounds):
            self.counts.append({})
            seen: set[str] = set()
            for line, record in enumerate(records, 1):
                counted = None if record["item_id"] in seen else self.line(record)
                if counted is None:
                    self.rejected.append((number, line))
                    continue
                seen.add(record["item_id"])
                for name in counted:
                    self.counts[-1][name] = self.counts[-1].get(name, 0) + 1

    def line(self, record: dict[str, Any]) -> list[str] | None:
        item_id = record["item_id"]
        known = item_id in self.items
        old = self.items.get(item_id)
        if record.get("withdrawn"):
            if not known:
                return None
            self.items[item_id] = None
            return ["unchanged" if old is None else "withdrawn"]
        several = {one["annotator_id"]: one["perception_labels"] for one in record.get("annotations") or []}
        plain = record.get("perception_labels") or {}
        if record.get("owner_id") == 1.5 or any(plain.keys() & labels.keys() for labels in several.values()):
            return None
        if old is None and not all(record.get(name) for name in WHOLE):
            return None
        new = {"labels": {}, **(old or {"mood": None})}
        new["labels"] = {name: dict(ratings) for name, ratings in new["labels"].items()}
        for name in (*WHOLE, "language", "category", "mood"):
            # An unknown field of a first line is kept as it is.
            if record.get(name) not in (None, "") or (name == "mood" and old is None and name in record):
                new[name] = record[name]
        for name, value in plain.items():
            new["labels"].pop(name, None)
            if value is not None:
                new["labels"][name] = {None: value}
        for who, labels in several.items():
            for name, value in labels.items():
                ratings = new["labels"].setdefault(name, {})
                if value is None:
                    ratings.pop(who, None)
                else:
                    ratings.pop(None, None)
                    ratings[who] = value
        new["labels"] = {name: ratings for name, ratings in new["labels"].items() if ratings}
        self.items[item_id] = new
        if old is None:
            return ["restored" if known else "new"]

        def seen(item: dict[str, Any]) -> dict[str, Any]:
            return {**item, "language": item.get("language", "en"), "category": item.get("category")}

        moved = ["moved"] if old["owner_id"] != new["owner_id"] else []
        return [*moved, "unchanged" if seen(old) == seen(new) else "corrected"]

    def lines(self) -> list[dict[str, Any]]:
        """One file that says at once what the rounds amount to."""
        records = []
        for item_id, item in self.items.items():
            if item is None:
                continue
            record = {name: item[name] for name in item if name not in ("labels", "mood")}
            if "mood" in item and (item["mood"] is not None):
                record["mood"] = item["mood"]
            plain = {name: ratings[None] for name, ratings in item["labels"].items() if None in ratings}
            several = {
                who: {name: r[who] for name, r in item["labels"].items() if who in r} for who in ANNOTATORS
            }
            records.append({"item_id": item_id, **record, "perception_labels": plain, **rated(**several)})
        return records


@given(st.lists(st.lists(lines(), max_size=6), min_size=2, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_rounds_are_as_the_model_has_them(tmp_path, rounds):
    for records in rounds:
        for record in records:
            # Kept or not, a null or empty unknown field of a first line is beside the point here.
            if record.get("mood") in (None, ""):
                record.pop("mood", None)
    model = Model()
    model.read(rounds)
    items, rejects, tally = read(tmp_path, rounds)
    assert [(int(one.file[5]), one.line) for one in rejects] == model.rejected
    assert [counts(tally, number) for number in range(len(rounds))] == model.counts
    assert set(items) == {item_id for item_id, item in model.items.items() if item is not None}
    # One file with the result is the same corpus: what a round does not change in the end changes no digest.
    ending = content_digests(
        CorpusSettings(annotations=[f"round{n}.jsonl" for n in range(len(rounds))]), tmp_path
    )
    (tmp_path / "once.jsonl").write_text("".join(json.dumps(one) + "\n" for one in model.lines()))
    once = content_digests(CorpusSettings(annotations=["once.jsonl"]), tmp_path)
    assert {name for name in once if once[name] != ending[name]} <= {"rejects"}


@given(st.lists(st.lists(lines(), max_size=6), min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_round_that_changes_nothing_changes_no_digest_but_that_of_the_counts(tmp_path, rounds, rng):
    before = content_digests(CorpusSettings(annotations=write(tmp_path, [*rounds, []])), tmp_path)
    items, _, _ = read(tmp_path, [*rounds, []])
    idle = [{"item_id": item_id, "owner_id": item.owner_id, "text": ""} for item_id, item in items.items()]
    rng.shuffle(idle)
    after = content_digests(CorpusSettings(annotations=write(tmp_path, [*rounds, idle])), tmp_path)
    assert {name for name in after if before[name] != after[name]} == ({"rejects"} if idle else set())


CONSTANTS = {
    "owner_id": st.sampled_from(["o1", "ann"]),
    "timestamp": st.sampled_from(["1700000000", "2020-01-01"]),
    "language": st.sampled_from(["en", "hinglish"]),
    "category": st.just("x"),
    "device": st.just("pen"),
    "split": st.sampled_from(["train", "test"]),
}


@st.composite
def rounds_with_constants(draw):
    rounds = []
    for records in draw(st.lists(st.lists(lines(), max_size=5), min_size=1, max_size=3)):
        for record in records:
            if draw(st.integers(0, 3)) == 0:
                del record["item_id"]
        rounds.append((records, draw(st.fixed_dictionaries({}, optional=CONSTANTS))))
    return rounds


@given(rounds_with_constants())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_constants_of_a_file_are_what_each_of_its_records_says(tmp_path, rounds):
    def found(folder: str, rounds: list[Any], constants: list[Any]) -> Any:
        (tmp_path / folder).mkdir(exist_ok=True)
        names = write(tmp_path / folder, rounds)
        entries = [{"file": name, "constants": given} for name, given in zip(names, constants, strict=True)]
        wanted = CorpusSettings(annotations=entries)
        tally = Tally()
        rejects = [
            one for one in read_annotations(wanted, tmp_path / folder, tally) if isinstance(one, Reject)
        ]
        return content_digests(wanted, tmp_path / folder), rejects, tally

    def blank(value: Any) -> bool:
        return value is None or value == ""

    written = [
        [
            record | {name: value for name, value in given.items() if blank(record.get(name))}
            for record in records
        ]
        for records, given in rounds
    ]
    plain, constants = [records for records, _ in rounds], [given for _, given in rounds]
    assert found("plain", plain, constants) == found("written", written, [{}] * len(rounds))


def test_a_file_of_ids_corrects_by_its_constants(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(whole(name)) + "\n" for name in "abc"))
    (tmp_path / "b.csv").write_text("item_id\na\nc\n")
    wanted = CorpusSettings(annotations=["a.jsonl", {"file": "b.csv", "constants": {"split": "test"}}])
    tally = Tally()
    found = {one.item_id: one.split for one in read_annotations(wanted, tmp_path, tally)}
    assert found == {"a": "test", "b": None, "c": "test"} and counts(tally) == {"corrected": 2}
    with pytest.raises(CorpusError, match="no column that corrects anything"):
        list(read_annotations(CorpusSettings(annotations=["a.jsonl", "b.csv"]), tmp_path))


SPLIT_UP = {"perception_labels": {"invoked": "Sad,Happy"}}


@pytest.mark.parametrize(
    ("rounds", "invoked", "undecided", "counted"),
    [
        ([SPLIT_UP], None, 1, "new"),
        ([SPLIT_UP, {"category": "x"}], None, 1, "corrected"),
        ([SPLIT_UP, SPLIT_UP], None, 1, "unchanged"),
        ([SPLIT_UP, {"perception_labels": {"invoked": "Sad"}}], {None: SAD}, 0, "corrected"),
        ([SPLIT_UP, {"perception_labels": {"invoked": None}}], None, 0, "corrected"),
        ([{"perception_labels": {"invoked": "Sad"}}, SPLIT_UP], None, 1, "corrected"),
        ([{"perception_labels": {"invoked": "Sad"}}, SPLIT_UP, {"withdrawn": True}], None, 0, "withdrawn"),
        ([SPLIT_UP, rated(ann={"invoked": "Sad"})], {"ann": SAD}, 0, "corrected"),
        ([rated(ann={"invoked": "Sad"}), rated(bob={"invoked": "Happy,Sad"})], {"ann": SAD}, 0, "corrected"),
        (
            [rated(ann={"invoked": "Sad"}, bob={"invoked": "Happy,Sad"}), rated(ann={"invoked": None})],
            None,
            1,
            "corrected",
        ),
    ],
)
def test_labels_without_a_common_ancestor_are_corrected_like_others(
    tmp_path, rounds, invoked, undecided, counted
):
    first, *later = rounds
    lines = [[whole(**first), whole("i2", **SPLIT_UP)], *([{"item_id": "i1", **one}] for one in later)]
    items, [], tally = read(tmp_path, lines, labels={"invoked": {"separator": ","}})
    found = items["i1"].ratings.get("invoked", []) if "i1" in items else []
    assert dict(found) == (invoked or {}) and "i2" in items
    assert tally.no_common_ancestor == {"invoked": 1 + undecided}
    assert counts(tally) == {counted: 2 if counted == "new" else 1}


def test_a_corrected_label_changes_its_own_digests_alone(tmp_path):
    first = [whole(f"i{n}", perception_labels={"valence": n / 9, "invoked": "Sad"}) for n in range(9)]
    before = content_digests(CorpusSettings(annotations=write(tmp_path, [first])), tmp_path)
    assert set(before) == {
        "items", "rejects", *(f"items/{column}" for column in READ_COLUMNS),
        *(f"{part}/{name}" for part in ("labels", "ratings") for name in VARIABLES),
    }  # fmt: skip
    correction = {"item_id": "i3", "perception_labels": {"valence": 1}}
    after = content_digests(CorpusSettings(annotations=write(tmp_path, [first, [correction]])), tmp_path)
    assert {name for name in after if before[name] != after[name]} == {
        "labels/valence", "ratings/valence", "rejects",
    }  # fmt: skip


# --------------------------------------------------------------------------- summary


def test_the_summary_of_rounds(tmp_path):
    rounds = [
        [whole(f"i{n}", **PLAIN) for n in range(6)],
        ["{", {"item_id": "i0", "category": "x"}, {"item_id": "i1", "category": ""}, "",
         {"item_id": "i2", "withdrawn": True}, {"item_id": "i3", "owner_id": "o2"}, whole("i9")],
        [whole("i2")],
    ]  # fmt: skip
    wanted = CorpusSettings(annotations=write(tmp_path, rounds), limits={"max_rejected_share": 0.2})
    report = ingest_summary(wanted, tmp_path, tmp_path / "s.json")
    zero = dict.fromkeys(("rejected", "blank", *COUNTS), 0)
    assert report["rounds"] == [
        {**zero, "file": "round0.jsonl", "lines": 6, "accepted": 6, "new": 6},
        {**zero, "file": "round1.jsonl", "lines": 7, "accepted": 5, "rejected": 1, "blank": 1, "new": 1,
         "corrected": 2, "unchanged": 1, "withdrawn": 1, "moved": 1},
        {**zero, "file": "round2.jsonl", "lines": 1, "accepted": 1, "restored": 1},
    ]  # fmt: skip
    assert (report["items"], report["lines"], report["accepted"], report["rejected"]) == (7, 14, 12, 1)
    assert report["owners"] == 2 and report["labels"]["valence"]["items"] == 5
    assert ingest_items(wanted, tmp_path, tmp_path / "i.parquet") == 7


# --------------------------------------------------------------------------- memory, and what is left behind


def test_memory_does_not_grow_with_the_files(tmp_path):
    def peak(count: int) -> int:
        names = [f"{count}a.jsonl", f"{count}b.jsonl"]
        for name in names:
            with (tmp_path / name).open("w") as handle:
                for n in range(count):
                    handle.write(json.dumps(whole(f"i{n}", text="word " * 20, **PLAIN)) + "\n")
        tracemalloc.start()
        assert sum(1 for _ in read_annotations(CorpusSettings(annotations=names), tmp_path)) == count
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    # Of Python's own; SQLite's cache is bounded by itself. Two sets of hashes of 12 to 24 bytes an id, and
    # an old table while the new one is filled.
    assert peak(3_000) < peak(300) + 2 * 2_700 * 36


KILLED = """
import os, signal, sys
from pathlib import Path
from perceive.corpus import rounds
from perceive.corpus.reader import read_annotations
from perceive.corpus.settings import CorpusSettings

rounds._CACHE_KIB = 64  # so that the few items of a test reach the file
names = ["round0.jsonl", "round1.jsonl"]
folder, temporary = Path(sys.argv[1]), os.environ["SQLITE_TMPDIR"]
for number, entry in enumerate(read_annotations(CorpusSettings(annotations=names), folder)):
    if number == 5:
        links = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        held = [link for link in links if link.startswith(temporary) and link.endswith(" (deleted)")]
        print(len(held), len(os.listdir(temporary)), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to see the unnamed file")
def test_a_killed_run_leaves_no_text_behind(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    first = [whole(f"i{n}", text=f"{SECRET} " * 30) for n in range(2_000)]
    write(tmp_path, [first, [{"item_id": one["item_id"], "category": "x"} for one in first]])
    environment = {
        **os.environ, "SQLITE_TMPDIR": str(temporary), "TMPDIR": str(temporary),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # Its texts were on disk, in a file that no name led to.
    assert done.stdout.split() == ["1", "0"]
    assert list(temporary.iterdir()) == []


# --------------------------------------------------------------------------- fuzzing


def damaged(record: dict[str, Any], rng: random.Random) -> bytes:
    line = json.dumps(record).encode()
    at = rng.randrange(len(line))
    kind = rng.randrange(7)
    if kind == 0:
        return line[:at]
    if kind == 1:
        return line[:at] + bytes([rng.randrange(256)]) + line[at + 1 :]
    if kind == 2:
        return line[:at] + rng.choice([b"\xff", b"\\ud800", b"\x00", b'"', b"[" * 99]) + line[at:]
    odd = [None, True, [], {}, "", "x", -1, 1e308, 10**30, float("nan"), {"core": 1}, [{}], "2025-99-99"]
    key = rng.choice([*record, "annotations", "perception_labels", "withdrawn", "split", "mood", "item_id"])
    if kind == 6:
        key, odd = "perception_labels", [{name: rng.choice(odd)} for name in (*VARIABLES, "joy")]
    return json.dumps({**record, key: rng.choice(odd)}).encode()


@pytest.mark.parametrize("seed", range(3))
def test_rounds_of_damaged_corrections(tmp_path, seed):
    rng = random.Random(seed)
    several = rated(ann={"valence": 0.5, "invoked": "Sad"}, bob={"valence": 0.25})
    total = 0
    names = []
    for number in range(4):
        entries = []
        for n in range(1_000):
            name = f"i{rng.randrange(1_500)}" if number else f"i{n}"
            said = rng.choice([PLAIN, several, {"withdrawn": True}])
            entry = {"item_id": name, **(WHOLE if rng.random() < 0.5 else {}), **said}
            line = json.dumps(entry).encode() if rng.random() < 0.5 else damaged(entry, rng)
            entries.append(line.replace(b"\n", b" "))
        names.append(f"{number}.jsonl")
        (tmp_path / names[-1]).write_bytes(b"\n".join(entries) + b"\n")
        total += len(entries)
    wanted = CorpusSettings(annotations=names, limits={"max_rejected_share": 1})
    report = ingest_summary(wanted, tmp_path, tmp_path / "s.json")
    assert report["accepted"] + report["rejected"] + report["blank"] == report["lines"] == total
    assert report["rejected"] > 500 and report["accepted"] > 500
    for one in report["rounds"]:
        assert one["accepted"] + one["rejected"] + one["blank"] == one["lines"] == 1_000
        assert one["accepted"] == sum(one[name] for name in COUNTS[:-1])
    assert report["items"] == ingest_items(wanted, tmp_path, tmp_path / "i.parquet")
    ingest_rejects(wanted, tmp_path, tmp_path / "r.jsonl")
    text = (tmp_path / "r.jsonl").read_text()
    assert SECRET not in text and len(text.splitlines()) == report["rejected"]
    assert all(json.loads(entry)["reason"] for entry in text.splitlines())
