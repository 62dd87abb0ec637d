"""Every line is accepted, or rejected with a line number and a reason; and the digests cover what is read."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perceive.corpus.aggregate import ROOT, common_ancestor
from perceive.corpus.reader import (
    READ_COLUMNS,
    CorpusError,
    Item,
    MissingFileError,
    Reject,
    SeenIds,
    Tally,
    content_digests,
    input_files,
    read_annotations,
    taxonomy_path,
)
from perceive.corpus.records import expand
from perceive.corpus.settings import CorpusSettings
from perceive.corpus.values import MAX_CACHED, MAX_ID_CHARS, LabelParser, clean_text, parse_timestamp
from perceive.variables import VARIABLES

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("PERCEIVE_DATA") or REPOSITORY / "../shared/data")
SECRET = "zebrafinch"  # stands in every text; no reject may repeat it
fuzz = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def record(**changes: Any) -> dict[str, Any]:
    base = {
        "item_id": "i1",
        "owner_id": "o1",
        "text": f"I feel {SECRET} today",
        "timestamp": "2025-03-01T10:00:00Z",
        "language": "en",
        "category": "routine",
        "risk_level": "LOW",
        "perception_labels": {"valence": 0.7, "invoked": "Sad/Lonely/Isolated"},
    }
    base.update(changes)
    return {key: value for key, value in base.items() if value is not ...}


def line(**changes: Any) -> bytes:
    return json.dumps(record(**changes), ensure_ascii=False).encode() + b"\n"


def read(
    folder: Path, content: bytes | str, name: str = "a.jsonl", **options: Any
) -> tuple[list[Item], list[Reject], Tally]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    tally = Tally()
    entries = list(read_annotations(CorpusSettings(annotations=[name], **options), folder, tally))
    items = [entry for entry in entries if isinstance(entry, Item)]
    rejects = [entry for entry in entries if isinstance(entry, Reject)]
    assert (tally.accepted, tally.rejected) == (len(items), len(rejects))
    assert tally.accepted + tally.rejected + tally.blank == tally.lines
    return items, rejects, tally


# --------------------------------------------------------------------------- accepted


def test_a_full_record(tmp_path):
    content = line(risk_level="high", device="phone", split="test", mood=[1, "ज"], perception_labels={
        "valence": 1, "willingness": 0, "arousal": None, "expressed": {"core": "Angry", "nuance": "Furious"}
    })  # fmt: skip
    [item], [], _ = read(tmp_path, content)
    assert (item.item_id, item.owner_id, item.risk_level, item.device, item.split) == (
        "i1", "o1", "HIGH", "phone", "test",
    )  # fmt: skip
    assert item.timestamp == datetime(2025, 3, 1, 10, tzinfo=UTC).timestamp() * 1e6
    assert item.length_bucket == "SHORT"
    assert json.loads(item.extra) == {"mood": [1, "ज"]}
    assert set(item.labels) == {"valence", "willingness", "expressed"}
    assert item.labels["valence"][:2] == (1.0, 1) and math.isnan(item.labels["valence"][2])
    assert item.labels["expressed"][0] == ("Angry", "Furious", None)
    assert item.ratings["valence"] == [(None, 1.0)]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + line() + line(item_id="i2"),
        line().replace(b"\n", b"\r\n") + line(item_id="i2").replace(b"\n", b"\r\n"),
        line() + line(item_id="i2").rstrip(),
        b"\n" + line() + b"  \t \r\n\n" + line(item_id="i2") + b"\n",
        b"\xef\xbb\xbf\n" + line() + line(item_id="i2"),
    ],
    ids=["bom", "crlf", "no-final-newline", "blank-lines", "bom-blank"],
)
def test_line_notations(tmp_path, content):
    items, rejects, tally = read(tmp_path, content)
    assert [item.item_id for item in items] == ["i1", "i2"] and not rejects
    assert tally.blank == len(content.splitlines()) - 2


@pytest.mark.parametrize(
    ("text", "bucket"),
    [
        ("x", "SHORT"),
        ("x" * 100_000, "SHORT"),
        ("w " * 50_000, "LONG"),
        ("😀", "SHORT"),
        ("👩‍👩‍👧 ❤️", "SHORT"),
        ("मैं आज बहुत खुश हूँ", "SHORT"),
        ("one\ntwo\tthree\r\nfour", "SHORT"),
        ("w " * 14, "SHORT"),
        ("w " * 15, "MEDIUM"),
        ("w " * 59, "MEDIUM"),
        ("w " * 60, "LONG"),
        ("2", "SHORT"),
        ("null", "SHORT"),
    ],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_texts_that_are_kept_as_they_are(tmp_path, text, bucket, escaped):
    [item], [], tally = read(tmp_path, json.dumps(record(text=text), ensure_ascii=escaped))
    assert item.text == text and item.length_bucket == bucket and tally.cleaned == 0


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("he\x00llo", "hello"),
        ("a\x0bb", "a b"),
        ("a\x07", "a"),
        ("\x1b[31mred", "[31mred"),
        ("\x85a\x9f", " a"),
    ],
)
def test_control_characters_are_removed_and_counted(tmp_path, text, cleaned):
    [item], [], tally = read(tmp_path, json.dumps(record(text=text)))
    assert item.text == cleaned == clean_text(text)
    assert item.cleaned and tally.cleaned == 1


HALF_PAST_TEN = datetime(2025, 3, 1, 10, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "zone"),
    [
        (1740825000, "UTC"),
        (1740825000.0, "UTC"),
        (1740825000000, "UTC"),
        ("1740825000", "UTC"),
        ("1740825000000", "UTC"),
        ("1740825000.000", "UTC"),
        ("2025-03-01T10:30:00Z", "Asia/Kolkata"),
        ("2025-03-01T16:00:00+05:30", "UTC"),
        ("2025-03-01 10:30", "UTC"),
        ("2025-03-01T10:30:00.000000", "UTC"),
        ("2025-03-01T16:00:00", "Asia/Kolkata"),
        (" 2025-03-01T10:30:00+00:00 ", "UTC"),
    ],
)
def test_timestamps(tmp_path, value, zone):
    [item], [], _ = read(tmp_path, line(timestamp=value), default_timezone=zone)
    assert item.timestamp == int(HALF_PAST_TEN.timestamp()) * 1_000_000


def test_a_date_alone_is_midnight_and_naive():
    assert parse_timestamp("2025-03-01") == (int(datetime(2025, 3, 1, tzinfo=UTC).timestamp()) * 10**6, True)


@given(st.datetimes(datetime(1990, 1, 2), datetime(2099, 12, 30)))
@fuzz
def test_all_notations_of_a_time_agree(moment):
    moment = moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)
    expected, naive = parse_timestamp(moment.isoformat())
    assert not naive
    milliseconds = expected // 1000
    assert parse_timestamp(milliseconds)[0] == parse_timestamp(str(milliseconds))[0] == expected
    assert parse_timestamp(milliseconds // 1000)[0] == milliseconds // 1000 * 10**6


def test_an_absent_id_derives_from_content(tmp_path):
    content = line(item_id=...) + line(item_id=..., text="other") + line(item_id=...)
    items, [reject], tally = read(tmp_path, content)
    assert len({item.item_id for item in items}) == 2 and tally.derived_ids == 2
    assert all(len(item.item_id) == 16 for item in items)
    assert (reject.line, reject.field) == (3, "item_id") and "duplicate" in reject.reason


def test_absent_language_is_the_default(tmp_path):
    [item], [], tally = read(tmp_path, line(language=...), default_language="hinglish")
    assert item.language == "hinglish" and tally.default_language == 1


# --------------------------------------------------------------------------- rejected

NAN_LINE = line().replace(b"0.7", b"NaN")
REJECTED = [
    (b'{"owner_id": "o"', "line", "malformed JSON"),
    (b'["a"]', "line", "not a JSON object"),
    (b"17", "line", "not a JSON object"),
    (b"null", "line", "not a JSON object"),
    (b"[" * 100_000, "line", "malformed JSON"),
    (b'{"a": ' + b"9" * 5000 + b"}", "line", "malformed JSON"),
    (line().replace(b"feel", b"\xff\xfe"), "line", "not valid UTF-8"),
    (line().replace(b"feel", b"\xed\xa0\x80"), "line", "not valid UTF-8"),
    (line().replace(b"feel", b"\\ud83d"), "text", "surrogate"),
    (b"\xef\xbb\xbf\xef\xbb\xbf" + line(), "line", "malformed JSON"),
    (line(owner_id=...), "owner_id", "missing"),
    (line(owner_id=None), "owner_id", "missing"),
    (line(owner_id="  "), "owner_id", "empty"),
    (line(owner_id=True), "owner_id", "string or an integer"),
    (line(owner_id=1.5), "owner_id", "string or an integer"),
    (line(owner_id={"a": 1}), "owner_id", "string or an integer"),
    (line(owner_id="o\x00"), "owner_id", "control"),
    (line(owner_id="o" * 257), "owner_id", "longer than 256"),
    (line(item_id=[1]), "item_id", "string or an integer"),
    (line(text=...), "text", "missing"),
    (line(text=""), "text", "empty"),
    (line(text=" \n\t "), "text", "empty"),
    (line(text="\x00\x01\x7f"), "text", "empty"),
    (line(text="\u200b\ufeff "), "text", "empty"),
    (line(text=5), "text", "string"),
    (line(text=["a"]), "text", "string"),
    (line(text="x" * 100_001), "text", "longer than 100000"),
    (line(timestamp=...), "timestamp", "missing"),
    (line(timestamp=""), "timestamp", "missing"),
    (line(timestamp="yesterday"), "timestamp", "ISO 8601"),
    (line(timestamp="2025-13-01"), "timestamp", "ISO 8601"),
    (line(timestamp="2025-02-30T10:00:00Z"), "timestamp", "ISO 8601"),
    (line(timestamp=True), "timestamp", "ISO 8601"),
    (line(timestamp={}), "timestamp", "ISO 8601"),
    (line(timestamp=float("nan")), "timestamp", "ISO 8601"),
    (line(timestamp=float("inf")), "timestamp", "ISO 8601"),
    (line(timestamp=10**300), "timestamp", "ISO 8601"),
    (line(timestamp=0), "timestamp", "outside 1990"),
    (line(timestamp=-1), "timestamp", "outside 1990"),
    (line(timestamp="1989-12-31T23:59:59Z"), "timestamp", "outside 1990"),
    (line(timestamp="2100-01-01T00:00:00Z"), "timestamp", "outside 1990"),
    (line(timestamp="0001-01-01T00:00:00+14:00"), "timestamp", "outside 1990"),
    (line(timestamp=1740825000000000), "timestamp", "outside 1990"),
    (line(language="fr"), "language", "en, hinglish"),
    (line(language=3), "language", "en, hinglish"),
    (line(risk_level="severe"), "risk_level", "LOW, MEDIUM, HIGH"),
    (line(risk_level=["LOW"]), "risk_level", "LOW, MEDIUM, HIGH"),
    (line(split="dev"), "split", "train, val, test"),
    (line(category=7), "category", "string"),
    (line(device={}), "device", "string"),
    (line(perception_labels=[]), "perception_labels", "object"),
    (line(perception_labels={"joy": 1}), "perception_labels.joy", "unknown label"),
    (line(perception_labels={f"{SECRET} is here": 1}), "perception_labels.<unprintable>", "unknown label"),
    (line(perception_labels={"valence": 1.0001}), "perception_labels.valence", "out of range"),
    (line(perception_labels={"valence": -1}), "perception_labels.valence", "out of range"),
    (line(perception_labels={"valence": 10**400}), "perception_labels.valence", "out of range"),
    (line(perception_labels={"valence": True}), "perception_labels.valence", "number"),
    (line(perception_labels={"valence": "0.5"}), "perception_labels.valence", "number"),
    (line(perception_labels={"valence": float("inf")}), "perception_labels.valence", "NaN or infinite"),
    (NAN_LINE, "perception_labels.valence", "NaN or infinite"),
    (
        line(perception_labels={"invoked": "Bored"}),
        "perception_labels.invoked",
        "the taxonomy has no such core",
    ),
    (
        line(perception_labels={"invoked": "Sad/Playful"}),
        "perception_labels.invoked",
        "no such nuance below its core",
    ),
    (
        line(perception_labels={"invoked": {"core": "Sad", "nuance": "Lonely", "micro": "Joyful"}}),
        "perception_labels.invoked",
        "no such micro below its nuance",
    ),
    (line(perception_labels={"invoked": "Sad//Isolated"}), "perception_labels.invoked", "non-empty"),
    (line(perception_labels={"invoked": "Sad/a/b/c"}), "perception_labels.invoked", "one to three"),
    (line(perception_labels={"invoked": ""}), "perception_labels.invoked", "non-empty"),
    (line(perception_labels={"invoked": 0.5}), "perception_labels.invoked", "must be a path"),
    (line(perception_labels={"invoked": {}}), "perception_labels.invoked", "one to three"),
    (
        line(perception_labels={"invoked": {"core": "Sad", "micro": "x"}}),
        "perception_labels.invoked",
        "non-empty",
    ),
    (line(perception_labels={"invoked": {"core": "Sad", "x": 1}}), "perception_labels.invoked", "only"),
    (
        line(annotations=[{"annotator_id": "a", "perception_labels": {"valence": 0.1}}]),
        "perception_labels.valence",
        "annotations too",
    ),
    (
        line(annotations=[{"annotator_id": "a", "perception_labels": {"valence": None}}]),
        "perception_labels.valence",
        "annotations too",
    ),
    (line(withdrawn=True), "withdrawn", "no earlier file holds the item"),
    (line(withdrawn="YES", perception_labels=3), "withdrawn", "no earlier file holds the item"),
    (line(withdrawn="perhaps"), "withdrawn", "must be one of true"),
    (line(withdrawn=[True]), "withdrawn", "must be one of true"),
    (
        line(perception_labels=..., annotations=[{"annotator_id": "a"}]),
        "annotations[0].perception_labels",
        "object",
    ),
    (
        line(perception_labels=..., annotations=[{"annotator_id": "a", "perception_labels": {"joy": 1}}]),
        "annotations[0].perception_labels.joy",
        "unknown label",
    ),
    (
        line(perception_labels=..., annotations=[{"annotator_id": "a", "perception_labels": {}, "x": 1}]),
        "annotations[0]",
        "only",
    ),
    (line(perception_labels=..., annotations={}), "annotations", "list"),
    (line(perception_labels=..., annotations=[3]), "annotations[0]", "object"),
    (
        line(perception_labels=..., annotations=[{"perception_labels": {}}]),
        "annotations[0].annotator_id",
        "missing",
    ),
    (line(mood=float("nan")), "extra", "NaN"),
    (line().replace(b'"routine"', b'"\\ud800"'), "category", "surrogate"),
    (line(mood="@").replace(b"@", b"\\udc00"), "extra", "surrogate"),
]


@pytest.mark.parametrize(("bad", "field", "reason"), REJECTED)
def test_rejected(tmp_path, bad, field, reason):
    """The bad line stands third, between good ones, which are accepted all the same."""
    content = line(item_id="a") + b"\n" + bad.rstrip(b"\n") + b"\n" + line(item_id="b")
    items, [reject], tally = read(tmp_path, content)
    assert [item.item_id for item in items] == ["a", "b"] and tally.blank == 1
    assert (reject.file, reject.line, reject.field) == ("a.jsonl", 3, field)
    assert reason in reject.reason
    assert SECRET not in json.dumps(reject.record())


def test_duplicates_are_rejected_but_not_for_a_line_that_was_rejected_itself(tmp_path):
    content = line(text="") + line() + line(text="again")
    [item], rejects, _ = read(tmp_path, content)
    assert SECRET in item.text
    assert [(r.line, r.field, r.item_id) for r in rejects] == [(1, "text", "i1"), (3, "item_id", "i1")]


def test_an_id_that_looks_like_a_text_is_not_repeated(tmp_path):
    _, [reject], _ = read(tmp_path, line(item_id=f"my {SECRET}", timestamp=0))
    assert reject.item_id is None


def test_files_of_equal_names_are_told_apart(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_bytes(line() + b"{")
    entries = list(read_annotations(CorpusSettings(annotations=["x/a.jsonl", "y/a.jsonl"]), tmp_path))
    assert [entry.file[-9:] for entry in entries if isinstance(entry, Reject)] == ["x/a.jsonl", "y/a.jsonl"]


def test_a_line_beyond_all_bounds_is_skipped(tmp_path):
    content = line(item_id="a") + b'{"text": "' + b"x" * (9 << 20) + b'"}\n' + line(item_id="b")
    items, [reject], _ = read(tmp_path, content)
    assert len(items) == 2 and reject.line == 2 and "longer than" in reject.reason


# --------------------------------------------------------------------------- several annotators


def annotations(*labels: dict[str, Any]) -> bytes:
    several = [{"annotator_id": f"r{i}", "perception_labels": entry} for i, entry in enumerate(labels)]
    return line(perception_labels=..., annotations=several)


def test_annotators_are_aggregated(tmp_path):
    content = annotations(
        {"valence": 0.2, "invoked": "Sad/Lonely/Isolated"},
        {"valence": 0.4, "invoked": "Sad/Lonely"},
        {"valence": 0.9, "invoked": "Angry/Furious", "arousal": 0.5, "congruence": None},
    )
    [item], [], _ = read(tmp_path, content)
    mean, raters, spread = item.labels["valence"]
    assert mean == pytest.approx(0.5) and raters == 3
    assert spread == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2))
    assert item.labels["invoked"] == (("Sad", "Lonely", "Isolated"), 3, pytest.approx(1 / 3))
    assert item.labels["arousal"][:2] == (0.5, 1) and math.isnan(item.labels["arousal"][2])
    assert set(item.labels) == set(item.ratings) == {"valence", "invoked", "arousal"}
    assert item.ratings["arousal"] == [("r2", 0.5)]


def test_ratings_come_in_the_order_of_the_annotators_whatever_that_of_the_list(tmp_path):
    several = [
        {"annotator_id": name, "perception_labels": {"valence": value, "invoked": "Sad"}}
        for name, value in (("b", 0.1), (7, 1), ("a", -0.0))
    ]
    [item], [], _ = read(tmp_path, line(perception_labels=..., annotations=several))
    assert item.ratings["valence"] == [("7", 1.0), ("a", 0.0), ("b", 0.1)]
    # No negative zero, whose digest would be another.
    assert [type(value) for _, value in item.ratings["valence"]] == [float] * 3
    assert math.copysign(1, item.ratings["valence"][1][1]) == 1
    assert [name for name, _ in item.ratings["invoked"]] == ["7", "a", "b"]


def test_both_kinds_of_labels_in_one_record(tmp_path):
    several = [{"annotator_id": name, "perception_labels": {"arousal": 0.5}} for name in "ab"]
    [item], [], _ = read(tmp_path, line(annotations=several))
    assert item.ratings["arousal"] == [("a", 0.5), ("b", 0.5)] and item.labels["arousal"][1] == 2
    assert item.ratings["valence"] == [(None, 0.7)] and item.labels["valence"][1] == 1
    [item], [], _ = read(tmp_path, line(annotations=[]))
    assert set(item.labels) == {"valence", "invoked"}


def test_one_annotator_once(tmp_path):
    several = [{"annotator_id": name, "perception_labels": {"valence": 0.5}} for name in ("r", "q", " r ")]
    _, [reject], _ = read(tmp_path, line(perception_labels=..., annotations=several))
    assert reject.field == "annotations[2].annotator_id" and "second" in reject.reason


# --------------------------------------------------------------------------- CSV and TSV

CSV = {
    "columns": {"item_id": "id", "owner_id": "who", "text": "body", "timestamp": "at"},
    "labels": {"valence": {"column": "V", "min": 1, "max": 5}, "invoked": {"column": "emotion"}},
    "taxonomy": None,
}
HEADER = "id,who,body,at,V,emotion,note\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_csv(tmp_path, newline, bom):
    content = HEADER + (
        '1,o,"two\nlines, one text ""q""",2025-01-01,5,Sad,n1\n'
        "\n"
        "2,o,plain,2025-01-02,,,\n"
        ",,  ,,,,\n"
        "3,o,plain,2025-01-02,6,,\n"
        "4,o,plain,2025-01-02,3\n"
    )
    items, rejects, tally = read(tmp_path, bom + content.replace("\n", newline).encode(), "a.csv", **CSV)
    assert [item.item_id for item in items] == ["1", "2"]
    assert items[0].text == f'two{newline}lines, one text "q"'
    assert items[0].labels["valence"][0] == 1.0 and items[0].labels["invoked"][0] == ("Sad", None, None)
    assert items[1].labels == {}
    assert json.loads(items[0].extra) == {"note": "n1"}
    assert [(r.line, r.field, r.item_id) for r in rejects] == [(7, "valence", "3"), (8, "line", None)]
    assert tally.blank == 2 and tally.lines == 6 and tally.naive_timestamps == 2


@pytest.mark.parametrize("cell", ["nan", "inf", "1_0", "0_3", "high", "0.99", "5.01", "-3", "1,5"])
def test_csv_labels_are_numbers_on_their_scale(tmp_path, cell):
    _, [reject], _ = read(tmp_path, HEADER + f'1,o,t,2025-01-01,"{cell}",,\n', "a.csv", **CSV)
    assert reject.field == "valence" and ("from 1 to 5" in reject.reason or "NaN" in reject.reason)


def test_csv_invalid_utf8_and_stray_quotes_cost_their_own_lines_only(tmp_path):
    content = (
        HEADER.encode()
        + b"1,o,good,2025-01-01,3,,\n"
        + b"2,o,b\xffd,2025-01-01,3,,\n"
        + b'3,o,"bad"x,2025-01-01,3,,\n'
        + b"4,o,good,2025-01-01,3,,\n"
        + b'5,o,"never closed,2025-01-01,3,,\n'
        + b"6,o,swallowed,2025-01-01,3,,\n"
    )
    items, rejects, tally = read(tmp_path, content, "a.csv", **CSV)
    assert [item.item_id for item in items] == ["1", "4"]
    assert [r.line for r in rejects] == [3, 4, 6, 7] and tally.lines == 6
    assert "UTF-8" in rejects[0].reason and "quote" in rejects[1].reason and "not closed" in rejects[3].reason


def test_a_quote_never_closed_does_not_swallow_a_long_file(tmp_path):
    good = "".join(f"{n},o,{'x' * 100},2025-01-01,3,,\n" for n in range(5000))
    items, rejects, tally = read(tmp_path, HEADER + '0a,o,"open,2025-01-01,3,,\n' + good, "a.csv", **CSV)
    assert len(items) + len(rejects) == tally.lines == 5001 and len(items) > 3000


def test_csv_texts_longer_than_the_module_s_own_limit(tmp_path):
    content = HEADER + f"1,o,{'x' * 150_000},2025-01-01,3,,\n2,o,{'x' * 199_000},2025-01-01,3,,\n"
    items, rejects, _ = read(tmp_path, content, "a.csv", **CSV, limits={"max_text_chars": 150_000})
    assert len(items) == 1 and [r.field for r in rejects] == ["text"]


def test_tsv_without_quoting(tmp_path):
    content = 'owner_id\ttext\ttimestamp\no\t"she said\t1740825000\n'
    [item], [], _ = read(tmp_path, content, "a.tsv", quote_char=None)
    assert item.text == '"she said'


# --------------------------------------------------------------------------- files without a header

HEADERLESS = {
    "header": ["body", " who ", "at"],
    "columns": {"owner_id": "who", "text": "body", "timestamp": "at"},
}


def test_a_file_without_a_header(tmp_path):
    rows = f"one\to1\t2025-01-01\n\n{SECRET}\to2\ntwo\to1\t2025-01-02\tmore\nthree\to3\t2025-01-03\n"
    for bom in ("", "\ufeff"):
        items, rejects, tally = read(tmp_path, bom + rows, "a.tsv", **HEADERLESS)
        assert [(item.text, item.owner_id, item.extra) for item in items] == [
            ("one", "o1", None),
            ("three", "o3", None),
        ]
        assert [(r.line, r.field, r.reason) for r in rejects] == [
            (number, "line", "not 3 fields as in corpus.header") for number in (3, 4)
        ]
        assert (tally.lines, tally.blank) == (5, 1)
    # A line that cannot be read is one like any other, the first one too.
    _, [reject], _ = read(tmp_path, b"on\xff\to1\t2025-01-01\n", "a.tsv", **HEADERLESS)
    assert (reject.line, reject.reason) == (1, "not valid UTF-8")
    assert read(tmp_path, "", "a.tsv", **HEADERLESS)[2].lines == 0


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@given(st.lists(st.tuples(*[st.text('ab ",\t\n', min_size=1, max_size=5).map("x{}".format)] * 2), max_size=5))
@fuzz
def test_columns_that_the_configuration_names_are_those_that_a_header_names(tmp_path, kind, rows):
    def written(*lines: Sequence[str]) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n").writerows(lines)
        return text.getvalue()

    lines = [(str(number), *row) for number, row in enumerate(rows)]
    header = ["item_id", "text", "note"]
    constants = {"owner_id": "o", "timestamp": "2025-01-01"}
    within = read(tmp_path, written(header, *lines), f"a.{kind}", constants=constants)
    apart = read(tmp_path, written(*lines), f"a.{kind}", constants=constants, header=header)
    assert within == apart and len(within[0]) == len(rows)


def test_a_header_is_not_read_as_a_record(tmp_path):
    with pytest.raises(CorpusError, match=r"a\.tsv, line 1: .* remove corpus\.header"):
        read(tmp_path, "body\twho \tat\none\to1\t2025-01-01\n", "a.tsv", **HEADERLESS)
    with pytest.raises(CorpusError, match=r"no column body .it has text, who, at.*corpus\.header"):
        read(tmp_path, "one\to1\t2025-01-01\n", "a.tsv", **{**HEADERLESS, "header": ["text", "who", "at"]})
    # JSON objects name their keys themselves.
    [item], [], _ = read(tmp_path, line(), header=["text"])
    assert item.item_id == "i1"


# --------------------------------------------------------------------------- labels in a corpus's own words

OWN_WORDS = {"1": "Sad/Lonely/Isolated", "2": "Sad/Lonely/Excluded", "3": "Sad/Hurt", "4": "Happy"}
ISOLATED = ("Sad", "Lonely", "Isolated")
CODED = {"labels": {"invoked": {"column": "emotions", "values": OWN_WORDS, "separator": ","}}}


def coded(cell: str) -> str:
    return f'owner_id,text,timestamp,emotions\no,{SECRET},2025-01-01,"{cell}"\n'


@pytest.mark.parametrize(
    ("cell", "path"),
    [
        ("1", ISOLATED),
        (" 1 ", ISOLATED),
        ("1,1", ISOLATED),
        ("1, 2", ("Sad", "Lonely", None)),
        ("2,1", ("Sad", "Lonely", None)),
        ("1,3", ("Sad", None, None)),
        ("1,2,3", ("Sad", None, None)),
        ("3,3", ("Sad", "Hurt", None)),
        ("3,4", None),
        ("1,2,4", None),
        ("", None),
    ],
)
def test_several_labels_are_their_deepest_common_ancestor(tmp_path, cell, path):
    for name, content in (
        ("a.csv", coded(cell)),
        ("a.jsonl", line(perception_labels=..., emotions=cell)),
        ("a.jsonl", line(perception_labels={"invoked": cell} if cell else {})),
    ):
        [item], [], tally = read(tmp_path, content, name, **CODED)
        assert (item.labels["invoked"][0] if item.ratings else None) == path
        assert tally.no_common_ancestor == ({"invoked": 1} if cell and path is None else {})


@pytest.mark.parametrize(
    "cell", ["5", "01", "1;2", "1,5", "1,", ",", "Sad", "Sad/Hurt", SECRET, f"1,{SECRET}", "1,2,"]
)
def test_a_value_that_is_not_translated_is_rejected(tmp_path, cell):
    _, [reject], _ = read(tmp_path, coded(cell), "a.csv", **CODED)
    assert (reject.line, reject.field) == (2, "invoked") and SECRET not in reject.reason
    assert reject.reason == "must be one of 1, 2, 3, 4, or several of them with ',' between"
    several = [{"annotator_id": "a", "perception_labels": {"invoked": cell}}]
    for labels, where in (
        ({"perception_labels": {"invoked": cell}}, "perception_labels.invoked"),
        ({"perception_labels": ..., "emotions": cell}, "emotions"),
        ({"perception_labels": ..., "annotations": several}, "annotations[0].perception_labels.invoked"),
    ):
        _, [reject], _ = read(tmp_path, line(**labels), **CODED)
        assert reject.field == where and reject.reason.startswith("must be one of 1, 2, 3, 4")


@pytest.mark.parametrize(
    ("value", "valid"), [(1, True), (5, False), (True, False), ([1], False), ({}, False)]
)
def test_numbers_of_json_are_translated_too(tmp_path, value, valid):
    items, rejects, _ = read(tmp_path, line(perception_labels={"invoked": value}), **CODED)
    assert [item.labels["invoked"][0] for item in items] == [ISOLATED] * valid
    assert [reject.reason[:14] for reject in rejects] == ["must be one of"] * (not valid)


def test_paths_may_stand_side_by_side_without_a_translation(tmp_path):
    plain = {"labels": {"invoked": {"separator": " | "}}}
    for cell, path in (
        ("Sad/Lonely | Sad/Hurt", ("Sad", None, None)),
        ("Sad / Lonely/Isolated", ISOLATED),
        ({"core": "Sad"}, ("Sad", None, None)),
    ):
        [item], [], _ = read(tmp_path, line(perception_labels={"invoked": cell}), **plain)
        assert item.labels["invoked"][0] == path
    for cell, reason in (("Sad | Bored", "such core"), ("Sad |  | Sad", "non-empty"), (7, "must be a path")):
        _, [reject], _ = read(tmp_path, line(perception_labels={"invoked": cell}), **plain)
        assert reason in reject.reason
    # Of the other hierarchy, which has no separator, and of scales, it changes nothing.
    _, [reject], _ = read(tmp_path, line(perception_labels={"expressed": "Sad | Sad"}), **plain)
    assert "no such core" in reject.reason


def test_what_a_corpus_writes_fills_no_memory():
    parser = LabelParser(CorpusSettings(**CODED).labels, None, "corpus.labels")
    parser.cell("invoked", "1," * 1_000 + "1", "")
    for number in range(2 * MAX_CACHED):
        assert parser.cell("invoked", ",".join(f"{number:b}".translate({48: "1", 49: "2"})), "")[0] == "Sad"
    known = parser._notations["invoked"].known
    assert 0 < len(known) <= MAX_CACHED and max(map(len, known)) <= MAX_ID_CHARS


def test_words_for_the_points_of_a_scale(tmp_path):
    likert = {"column": "V", "min": 1, "max": 5, "values": {" no": 1, "1": 3, "yes": " 5 "}}
    for cell, value in (("no", 0.0), (" 1", 0.5), ("yes", 1.0)):
        [item], [], _ = read(tmp_path, HEADER + f"1,o,t,2025-01-01,{cell},,\n", "a.csv",
                             **{**CSV, "labels": {**CSV["labels"], "valence": likert}})  # fmt: skip
        assert item.labels["valence"][0] == value
    several = [{"annotator_id": "a", "perception_labels": {"valence": value}} for value in ("yes", 0.5)]
    labels = {"valence": {"values": {"yes": 1}}}
    [item], [], _ = read(tmp_path, line(perception_labels=..., annotations=several[:1]), labels=labels)
    assert item.ratings["valence"] == [("a", 1.0)]
    _, [reject], _ = read(tmp_path, line(perception_labels=..., annotations=several[1:]), labels=labels)
    assert reject.reason == "must be one of yes"


def test_annotators_whose_labels_have_no_common_ancestor_do_not_count(tmp_path):
    def rated(*cells: str) -> tuple[Item, Tally]:
        several = [
            {"annotator_id": f"r{n}", "perception_labels": {"invoked": c}} for n, c in enumerate(cells)
        ]
        [item], [], tally = read(tmp_path, line(perception_labels=..., annotations=several), **CODED)
        return item, tally

    item, tally = rated("1", "1,4", "1,2")
    assert item.ratings["invoked"] == [("r0", ISOLATED), ("r2", ("Sad", "Lonely", None))]
    assert item.labels["invoked"][1] == 2 and tally.no_common_ancestor == {}
    item, tally = rated("1,4", "4,3")
    assert item.ratings == {} and tally.no_common_ancestor == {"invoked": 1}


def test_rating_tables_in_a_corpus_s_own_words(tmp_path):
    (tmp_path / "r.csv").write_text('item_id,who,e\ni1,a,1\ni1,b,2\ni1,c,"1,4"\ni2,a,"4,1"\ni2,b,9\n')
    table = {
        "file": "r.csv",
        "annotator": "who",
        "labels": {"invoked": {**CODED["labels"]["invoked"], "column": "e"}},
    }
    content = "".join(
        line(item_id=name, perception_labels=labels).decode()
        for name, labels in (("i1", ...), ("i2", ...), ("i3", {"invoked": "Sad"}))
    )
    wanted = CorpusSettings(annotations=["a.jsonl"], ratings=[table])
    (tmp_path / "a.jsonl").write_text(content)
    tally = Tally()
    reject, *items = read_annotations(wanted, tmp_path, tally)
    assert (reject.file, reject.line, reject.field) == ("r.csv", 6, "e")
    assert "must be one of 1, 2, 3, 4" in reject.reason
    assert [list(item.ratings.get("invoked", [])) for item in items] == [
        [("a", ISOLATED), ("b", ("Sad", "Lonely", "Excluded"))], [], [(None, ("Sad", None, None))],
    ]  # fmt: skip
    assert tally.no_common_ancestor == {"invoked": 1} and tally.ratings[0].accepted == 4


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            {"invoked": {"values": {"5": "Sad/Playful"}}},
            r"corpus\.labels\.invoked\.values: .*'5'.*no such nuance",
        ),
        ({"invoked": {"values": {"5": " "}}}, "non-empty"),
        ({"invoked": {"values": {"5": "Sad,Happy"}, "separator": ","}}, "no such core"),
        ({"valence": {"values": {"5": "high"}}}, r"corpus\.labels\.valence\.values: .*number from 0 to 1"),
        ({"valence": {"values": {"5": 5}}}, "out of range"),
    ],
)
def test_a_translation_must_lead_to_a_label(tmp_path, labels, said):
    with pytest.raises(CorpusError, match=said):
        read(tmp_path, line(), labels=labels)
    (tmp_path / "r.csv").write_text("item_id\n")
    table = {"file": "r.csv", "labels": labels}
    with pytest.raises(CorpusError, match=said.replace("corpus\\.", r"r\.csv .corpus\.ratings.: ")):
        read(tmp_path, line(), ratings=[table])


TREE = [tuple(path.split("/")) for path in ("a", "a/b", "a/b/c", "a/b/d", "a/e", "a/e/f", "g", "g/h/i")]


@given(st.lists(st.sampled_from(TREE), min_size=1, max_size=5), st.randoms(use_true_random=False))
@fuzz
def test_the_common_ancestor_is_the_longest_common_beginning(paths, rng):
    padded = [(*path, None, None)[:3] for path in paths]
    found = common_ancestor(padded)
    shared = [n for n in (1, 2, 3) if len({path[:n] if len(path) >= n else path for path in paths}) == 1
              and all(len(path) >= n for path in paths)]  # fmt: skip
    assert found == ((*paths[0][: max(shared)], None, None)[:3] if shared else ROOT)
    rng.shuffle(padded)
    assert common_ancestor(padded) == found == common_ancestor([*padded, *padded])


# --------------------------------------------------------------------------- constants of a file


def test_what_all_records_of_a_file_have_in_common(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(line(item_id="a") + line(item_id="b", split="val", category=" "))
    (tmp_path / "b.csv").write_text("item_id,text\nc,t\n")
    given_constants = {"owner_id": "ann", "timestamp": "2020-01-01", "language": "hinglish", "split": "test"}
    tally = Tally()
    wanted = CorpusSettings(
        annotations=[
            {"file": "a.jsonl", "constants": {"split": "train", "category": "x", "owner_id": "nobody"}},
            {"file": "b.csv", "constants": given_constants},
        ],
        constants={"split": "val", "device": "phone", "risk_level": "LOW"},
    )
    items = {item.item_id: item for item in read_annotations(wanted, tmp_path, tally)}
    told = {
        name: (i.owner_id, i.language, i.category, i.risk_level, i.device, i.split)
        for name, i in items.items()
    }
    assert told == {
        "a": ("o1", "en", "routine", "LOW", "phone", "train"),
        "b": ("o1", "en", "x", "LOW", "phone", "val"),
        "c": ("ann", "hinglish", None, "LOW", "phone", "test"),
    }
    assert items["c"].timestamp == datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 10**6
    assert (tally.naive_timestamps, tally.default_language) == (1, 0)
    # One file needs no list.
    alone = CorpusSettings(annotations={"file": "a.jsonl", "constants": {"device": "pen"}})
    assert [item.device for item in read_annotations(alone, tmp_path)] == ["pen"] * 2


def test_an_id_derives_from_the_constants_of_the_file_too(tmp_path):
    one, other = line(item_id=...), line(item_id=..., owner_id=..., category="work")
    (tmp_path / "a.jsonl").write_bytes(one)
    (tmp_path / "b.jsonl").write_bytes(other)
    tally = Tally()
    entries = ["a.jsonl", {"file": "b.jsonl", "constants": {"owner_id": "o1"}}]
    [item] = read_annotations(CorpusSettings(annotations=entries), tmp_path, tally)
    assert item.category == "work" and (tally.rounds[1].new, tally.rounds[1].corrected) == (0, 1)


def test_constants_of_a_file_are_no_column_of_it(tmp_path):
    """They are meant as they stand: the translation of the column is not for them."""
    (tmp_path / "a.csv").write_text("owner_id,text,timestamp,part\no,t,2025-01-01,\no,u,2025-01-01,dev\n")
    wanted = CorpusSettings(
        annotations=[{"file": "a.csv", "constants": {"split": "train"}}],
        columns={"split": {"column": "part", "values": {"dev": "test"}}},
    )
    assert [item.split for item in read_annotations(wanted, tmp_path)] == ["train", "test"]


@pytest.mark.parametrize(
    ("constants", "said"),
    [
        ({"split": "dev"}, r"corpus\.annotations\[1\]\.constants\.split: must be one of train"),
        ({"timestamp": "soon"}, r"corpus\.annotations\[1\]\.constants\.timestamp: neither ISO 8601"),
    ],
)
def test_constants_of_a_file_are_checked(tmp_path, constants, said):
    (tmp_path / "a.jsonl").write_bytes(line())
    entries = ["a.jsonl", {"file": "a.jsonl", "constants": constants}]
    with pytest.raises(CorpusError, match=said):
        list(read_annotations(CorpusSettings(annotations=entries), tmp_path))


# --------------------------------------------------------------------------- joins and order


def test_value_maps_constants_joins_and_order(tmp_path):
    (tmp_path / "meta.tsv").write_text("id\tdocument\tkind\nd_10_20\tD\tblog\nd_5_9\tD\tblog\n")
    rows = ("id,part,words,body", "d_10_20,dev,True,later", "d_5_9,train,False,first", "d_1_2,train,True,x")
    content = "\n".join([*rows, "d_5_9,old,,x"])
    items, rejects, _ = read(
        tmp_path, content, "a.csv",
        columns={
            "item_id": "id", "owner_id": "document", "text": "body", "category": "kind",
            "split": {"column": "part", "values": {"train": "train", "dev": "test"}},
            "device": {"column": "words", "values": {True: "pen", False: "phone"}},
        },
        constants={"risk_level": "LOW"},
        joins=[{"file": "meta.tsv", "column": "id", "add": ["document", "kind"]}],
        order={"column": "id", "pattern": r"_(\d+)(?:_\d+)?$", "start": "2010-01-01", "step_seconds": 2},
    )  # fmt: skip
    start = int(datetime(2010, 1, 1, tzinfo=UTC).timestamp()) * 10**6
    assert [
        (i.owner_id, i.split, i.device, i.category, i.risk_level, i.timestamp - start) for i in items
    ] == [
        ("D", "test", "pen", "blog", "LOW", 20 * 10**6),
        ("D", "train", "phone", "blog", "LOW", 10 * 10**6),
    ]
    assert [(r.line, r.field) for r in rejects] == [(4, "id"), (5, "split")]
    _, [reject], _ = read(tmp_path, line(), order={"column": "place"})
    assert (reject.field, reject.reason) == ("place", "has no position (corpus.order.pattern)")
    # A time that the order replaces is kept as an unknown field.
    [item], [], _ = read(tmp_path, line(timestamp="soon", item_id="d_7"), order={"step_seconds": 3})
    assert json.loads(item.extra) == {"timestamp": "soon"} and item.timestamp == 946_684_821_000_000
    assert "joined table" in rejects[0].reason and "train, dev" in rejects[1].reason


def test_two_tables_with_equal_columns_are_joined_under_other_names(tmp_path):
    (tmp_path / "readers.csv").write_text("id,V,N\n1,5,7\n")
    (tmp_path / "writers.tsv").write_text("key\tV\tN\n1\t2\t4\n")
    joins = [
        {"file": "readers.csv", "column": "id", "add": {"reader_V": "V"}},
        {"file": "writers.tsv", "column": "id", "key": "key", "add": {"V2": "V", "N": "N"}},
    ]
    labels = {"valence": {"column": "V", "max": 5}, "arousal": {"column": "reader_V", "max": 5}}
    options = {"columns": {"item_id": "id"}, "labels": labels}
    content = "id,owner_id,text,timestamp,V\n1,o,t,2025-01-01,3\n"
    [item], [], _ = read(tmp_path, content, "a.csv", joins=joins, **options)
    assert {name: label[0] for name, label in item.labels.items()} == {"valence": 0.6, "arousal": 1.0}
    assert json.loads(item.extra) == {"V2": "2", "N": "4"}
    with pytest.raises(CorpusError, match="columns V are there already"):
        read(tmp_path, content, "a.csv", joins=[{**joins[0], "add": {"V": "N"}}], **options)
    with pytest.raises(CorpusError, match=r"readers.csv has no column 'W'"):
        read(tmp_path, content, "a.csv", joins=[{**joins[0], "add": {"V3": "W"}}], **options)
    for clash in ([{**joins[0], "add": ["N"]}, joins[1]], [{**joins[0], "add": ["V", "V"]}]):
        with pytest.raises(
            ValueError, match=r"add the columns [NV]; rename them by a map, e.g. add: {other_"
        ):
            CorpusSettings(joins=clash)


def test_jsonl_takes_the_column_map_too(tmp_path):
    content = json.dumps({"who": 7, "body": "t", "at": 1740825000, "V": 2, "emotion": "Sad/Low"})
    options = {**CSV, "labels": {**CSV["labels"], "arousal": {"min": -1}}}
    [item], [], _ = read(tmp_path, content, **options)
    assert item.owner_id == "7" and item.labels["valence"][0] == 0.25
    assert item.labels["invoked"][0] == ("Sad", "Low", None) and item.extra is None
    second = json.loads(content) | {"perception_labels": {"arousal": 0}}
    [item], [], _ = read(tmp_path, json.dumps(second), **options)
    assert item.labels["arousal"][0] == 0.5


def test_a_label_column_and_a_label_of_the_record_are_not_both_taken(tmp_path):
    for labels in ({"perception_labels": {"valence": 3}}, {"perception_labels": {"valence": None}}):
        content = json.dumps({"who": 7, "body": "t", "at": 1740825000, "V": 2, **labels})
        _, [reject], _ = read(tmp_path, content, **CSV)
        assert reject.field == "V" and "give one of them" in reject.reason


@pytest.mark.parametrize(
    ("table", "path", "reason"),
    [
        ("mood\npositive\nnegative\n", "positive", None),
        ("mood\npositive\nnegative\n", "positive/joy", "the levels mood only"),
        ("mood\npositive\nnegative\n", "joy", "no such mood"),
        ("mood\tfeeling\ttier\npositive\tjoy\tA\n", "positive/joy", None),
        ("mood\tfeeling\ttier\npositive\tjoy\tA\n", "positive/positive", "no such feeling below its mood"),
        ("a\tb\tc\nx\tx\tx\n", "x/x/x", None),
        (None, "what/ever/you like", None),
    ],
)
def test_other_taxonomies(tmp_path, table, path, reason):
    if table is not None:
        (tmp_path / "mine.tsv").write_text(table)
    content = line(perception_labels={"invoked": path})
    items, rejects, _ = read(tmp_path, content, taxonomy=None if table is None else "mine.tsv")
    if reason is None:
        assert "/".join(part for part in items[0].labels["invoked"][0] if part) == path
    else:
        assert reason in rejects[0].reason and rejects[0].field == "perception_labels.invoked"


def test_the_taxonomy_is_looked_for_here_and_in_the_repository(tmp_path, monkeypatch):
    wanted = CorpusSettings()
    shipped = taxonomy_path(wanted, tmp_path)
    assert shipped is not None and shipped.is_file() and tmp_path not in shipped.parents
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources/taxonomy.tsv").write_text("mood\npositive\n")
    assert taxonomy_path(wanted, tmp_path) == tmp_path / "resources/taxonomy.tsv"
    assert taxonomy_path(CorpusSettings(taxonomy=None), tmp_path) is None
    monkeypatch.setenv("MOODS", str(tmp_path))
    assert taxonomy_path(CorpusSettings(taxonomy="${MOODS}/resources/taxonomy.tsv"), "/").is_file()
    with pytest.raises(MissingFileError, match=r"nowhere.tsv .corpus.taxonomy"):
        taxonomy_path(CorpusSettings(taxonomy="nowhere.tsv"), tmp_path)
    (tmp_path / "a.jsonl").write_bytes(line())
    (tmp_path / "broken.tsv").write_text("mood\tmood\nx\ty\n")
    with pytest.raises(CorpusError, match=r"broken\.tsv"):
        list(read_annotations(CorpusSettings(annotations=["a.jsonl"], taxonomy="broken.tsv"), tmp_path))


@pytest.mark.parametrize(
    ("constants", "said"),
    [
        ({"risk_level": "severe"}, "corpus.constants.risk_level: must be one of LOW"),
        ({"timestamp": "soon"}, "corpus.constants.timestamp: neither ISO 8601"),
        ({"owner_id": " "}, "corpus.constants.owner_id: missing or empty"),
    ],
)
def test_constants_are_checked_once_and_for_all(tmp_path, constants, said):
    with pytest.raises(CorpusError, match=said):
        read(tmp_path, line(), constants=constants)


def test_constants_fill_in_what_a_record_leaves_out(tmp_path):
    constants = {"owner_id": "c", "timestamp": "2020-01-01", "language": "hinglish", "risk_level": "high"}
    content = line(owner_id=..., timestamp=None, language="", risk_level=...) + line(item_id="i2")
    items, [], tally = read(tmp_path, content, constants={**constants, "split": "val", "category": "c"})
    seconds = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())
    first, second = items
    assert (first.owner_id, first.timestamp, first.language) == ("c", seconds * 10**6, "hinglish")
    assert (first.risk_level, first.split, first.category) == ("HIGH", "val", "routine")
    assert (second.owner_id, second.language, second.risk_level) == ("o1", "en", "LOW")
    assert (tally.naive_timestamps, tally.default_language) == (1, 0)


# --------------------------------------------------------------------------- what is not about a line


def test_a_missing_file_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    source = {"url": "https://example.org/x", "licence": "CC0", "citation": "A & B (2020)"}
    wanted = CorpusSettings(name="x", annotations=["${NOWHERE:-gone}/a.csv"], source=source)
    with pytest.raises(MissingFileError) as error:
        list(read_annotations(wanted, tmp_path))
    for part in (str(tmp_path / "gone/a.csv"), "https://example.org/x", "CC0", "A & B (2020)", "NOWHERE"):
        assert part in str(error.value)
    assert expand("${NOWHERE:-gone}") == "gone"
    monkeypatch.setenv("NOWHERE", "here")
    assert expand("${NOWHERE:-gone}/${NOWHERE}") == "here/here"
    monkeypatch.delenv("NOWHERE")
    with pytest.raises(CorpusError, match="NOWHERE is not set"):
        expand("${NOWHERE}")


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", "id,who\n", CSV, "no column V, at, body, emotion .it has id, who"),
        ("a.csv", "", CSV, "is empty"),
        ("a.csv", "text,text,owner_id,timestamp\n", {}, "same name"),
        ("a.txt", "x", {}, "corpus.format"),
    ],
)
def test_files_that_cannot_be_read_as_configured(tmp_path, name, content, options, message):
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, content, name, **options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"limits": {"max_rejected_share": 2}},
        {"limits": {"min_timestamp": "2100-01-01", "max_timestamp": "2000-01-01"}},
        {"limits": {"min_timestamp": "soon"}},
        {"labels": {"joy": {}}},
        {"labels": {"valence": {"min": 1, "max": 1}}},
        {"constants": {"text": "x"}},
        {"default_timezone": "Mars/Olympus"},
        {"order": {"pattern": "no group"}},
        {"order": {"pattern": "("}},
        {"order": {}, "columns": {"timestamp": "at"}},
        {"order": {}, "constants": {"timestamp": "2020-01-01"}},
        {"order": {}, "annotations": [{"file": "a", "constants": {"timestamp": "2020-01-01"}}]},
        {"annotations": [{"constants": {}}]},
        {"annotations": [{"file": ""}]},
        {"annotations": [{"file": "a", "constants": {"text": "x"}}]},
        {"annotations": [3]},
        {"header": ["a", "b", " a"]},
        {"header": ["a", " "]},
        {"labels": {"valence": {"separator": ","}}},
        {"labels": {"invoked": {"separator": ""}}},
        {"labels": {"invoked": {"separator": "/"}}},
        {"labels": {"invoked": {"values": {"1": None}}}},
        {"labels": {"invoked": {"values": {"1": ["Sad"]}}}},
        {"ratings": [{"file": "r.csv", "labels": {"arousal": {"separator": ","}}}]},
        {"synthetic": {"owners": 6000}},
        {"synthetic": {"hinglish_items": 6000}},
        {"colums": {}},
    ],
)
def test_settings_reject(wrong):
    with pytest.raises(ValueError, match="validation error"):
        CorpusSettings(**wrong)


def test_default_synthetic_counts_are_the_contract_s():
    synthetic = CorpusSettings().synthetic
    assert (synthetic.items, synthetic.hinglish_items, synthetic.owners, synthetic.days) == (
        5200,
        1500,
        800,
        90,
    )


def test_the_reader_imports_nothing_heavy():
    code = (
        "import sys, perceive.corpus.reader; "
        "print([m for m in ('numpy', 'pandas', 'pyarrow', 'pydantic') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "workflow_scripts")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------- fuzzing


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Damage one line: cut, swap, repeat, insert bytes, or replace a value."""
    kind = rng.randrange(8)
    at = rng.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([rng.randrange(256)]) + content[at:]
    if kind == 2:
        return content[:at] + content[at + rng.randrange(1, 9) :]
    if kind == 3:
        return (
            content[:at]
            + rng.choice([b"\xed\xa0\x80", b"\\ud800", b"\xff", b"\r", b"\n", b'"', b"\x00"])
            + content[at:]
        )
    if kind == 4:
        return content * 2
    if kind == 5:
        return content[at:] + content[:at]
    odd = [
        None,
        True,
        [],
        {},
        "",
        " ",
        -1,
        1e308,
        10**30,
        float("nan"),
        "NaN",
        "😀",
        "2025-99-99",
        "Sad/",
        {"core": 1},
    ]
    damaged = json.loads(content)
    key = rng.choice([*damaged, "annotations", "split", "device", "mood"])
    damaged[key] = rng.choice(odd)
    if kind == 7:
        damaged["perception_labels"] = {rng.choice([*VARIABLES, "joy", ""]): rng.choice(odd)}
    return json.dumps(damaged, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def assert_explained(rejects: list[Reject], total: int) -> None:
    for reject in rejects:
        assert 1 <= reject.line <= total + 1 and reject.field and reject.reason
        assert SECRET not in json.dumps(reject.record())
    assert [r.line for r in rejects] == sorted(r.line for r in rejects)


@given(st.integers(0, 2**32))
@fuzz
def test_mutated_jsonl(tmp_path, seed):
    rng = random.Random(seed)
    lines = [line(item_id=f"i{n}").rstrip(b"\n") for n in range(40)]
    content = b"\n".join(mutate(x, rng) if rng.random() < 0.7 else x for x in lines)
    items, rejects, tally = read(tmp_path, content)
    assert tally.lines == content.count(b"\n") + (not content.endswith(b"\n"))
    assert_explained(rejects, tally.lines)
    assert len({item.item_id for item in items}) == len(items)
    for item in items:
        item.text.encode()
        assert item.text.strip() and "\x00" not in item.text
        for value, raters, _ in item.labels.values():
            assert raters >= 1 and (isinstance(value, tuple) or 0 <= value <= 1)
    content_digests(CorpusSettings(annotations=["a.jsonl"]), tmp_path)


@given(st.integers(0, 2**32))
@fuzz
def test_mutated_csv(tmp_path, seed):
    rng = random.Random(seed)
    content = "".join(f'{n},o,"my {SECRET}\n, day {n}",2025-01-01,3,Sad,n\n' for n in range(30)).encode()
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(content))
        insert = rng.choice([b'"', b",", b"\n", b"\r", b"\x00", b"\xff", b"\xed\xa0\x80", b"\t"])
        content = content[:at] + insert + content[at + rng.randrange(3) :]
    _, rejects, tally = read(tmp_path, HEADER.encode() + content, "a.csv", **CSV)
    assert tally.lines > 0
    assert_explained(rejects, content.count(b"\n") + 1)


@given(st.binary(max_size=300))
@fuzz
def test_any_bytes(tmp_path, content):
    _, rejects, tally = read(tmp_path, content)
    assert_explained(rejects, tally.lines)
    _, rejects, _ = read(tmp_path, b"owner_id,text,timestamp\n" + content, "a.csv")
    assert all(reject.reason for reject in rejects)


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=300))
@fuzz
def test_seen_ids_are_a_set(identifiers):
    seen = SeenIds()
    assert not any(identifier in seen for identifier in identifiers)
    assert all(seen.add(identifier) for identifier in identifiers)
    assert not any(seen.add(identifier) for identifier in identifiers)
    assert all(identifier in seen for identifier in identifiers) and "another one" not in seen


def test_seen_ids_grow():
    seen = SeenIds()
    assert all(seen.add(str(n)) for n in range(20_000))
    assert not any(seen.add(str(n)) for n in range(20_000))


# --------------------------------------------------------------------------- digests


def corpus(folder: Path, records: list[dict[str, Any]]) -> dict[str, str]:
    (folder / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return content_digests(CorpusSettings(annotations=["d.jsonl"]), folder)


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


@st.composite
def corpora(draw):
    scale = st.floats(0, 1)
    path = st.sampled_from(["Sad", "Sad/Lonely", "Sad/Lonely/Isolated", "Happy/Playful"])
    labels = st.fixed_dictionaries(
        {}, optional={name: path if name in ("invoked", "expressed") else scale for name in VARIABLES}
    )
    return [
        record(item_id=f"i{n}", owner_id=f"o{n % 3}", text=f"text {n}", perception_labels=draw(labels))
        for n in range(draw(st.integers(1, 6)))
    ]


@given(corpora(), st.data())
@fuzz
def test_a_changed_label_changes_only_its_digest(tmp_path, records, data):
    before = corpus(tmp_path, records)
    chosen = data.draw(st.sampled_from(records))
    variable = data.draw(st.sampled_from(list(VARIABLES)))
    old = chosen["perception_labels"].get(variable)
    new = data.draw(
        (
            st.sampled_from(["Strong", "Strong/Proud"])
            if variable in ("invoked", "expressed")
            else st.floats(0, 1)
        ).filter(lambda value: value != old)
    )
    chosen["perception_labels"][variable] = new
    of_the_variable = {f"labels/{variable}", f"ratings/{variable}"}
    assert changed(before, corpus(tmp_path, records)) == of_the_variable
    del chosen["perception_labels"][variable]
    assert changed(before, corpus(tmp_path, records)) == (set() if old is None else of_the_variable)


def test_a_rater_s_change_that_leaves_the_label_is_in_the_digest_of_the_ratings(tmp_path):
    def digests(*values: float, names: str = "abc") -> dict[str, str]:
        several = [
            {"annotator_id": name, "perception_labels": {"valence": value}}
            for name, value in zip(names, values, strict=True)
        ]
        return corpus(tmp_path, [record(perception_labels=..., annotations=several)])

    before = digests(0.25, 0.5, 0.75)
    assert changed(before, digests(0.75, 0.5, 0.25)) == {"ratings/valence"}
    assert changed(before, digests(0.25, 0.5, 0.75, names="abd")) == {"ratings/valence"}
    assert changed(before, digests(0.75, 0.5, 0.25, names="cba")) == set()
    assert changed(before, digests(0.25, 0.5, 0.5)) == {"ratings/valence", "labels/valence"}
    # The mean is the same, the spread is not.
    assert changed(before, digests(0.0, 0.5, 1.0)) == {"ratings/valence", "labels/valence"}


EVERYTHING_OF_AN_ITEM = {"items", *(f"items/{column}" for column in READ_COLUMNS)}
# The agreement is told apart by language, category and risk.
RATED = {"ratings/valence", "ratings/invoked"}
LABELS = {*RATED, "labels/valence", "labels/invoked"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text": "another text"}, {"items", "items/text"}),
        ({"text": "w " * 70}, {"items", "items/text", "items/length_bucket"}),
        ({"owner_id": "o9"}, {"items", "items/owner_id"}),
        ({"timestamp": "2025-03-01T10:00:01Z"}, {"items", "items/timestamp"}),
        ({"timestamp": 1740823200}, set()),
        ({"language": "hinglish"}, {"items", "items/language", *RATED}),
        ({"category": "abuse"}, {"items", "items/category", *RATED}),
        ({"risk_level": "HIGH"}, {"items", "items/risk_level", *RATED}),
        ({"risk_level": "low"}, set()),
        ({"split": "test"}, {"items", "items/split"}),
        ({"device": "phone"}, {"items"}),
        ({"mood": 3}, {"items"}),
        ({"item_id": "new"}, {*EVERYTHING_OF_AN_ITEM, *LABELS}),
        ({"text": "text\x00 1"}, {"rejects"}),
        ({"text": ""}, {*EVERYTHING_OF_AN_ITEM, *LABELS, "rejects"}),
    ],
)
def test_what_each_change_changes(tmp_path, change, expected):
    records = [record(item_id=f"i{n}", text=f"text {n}") for n in range(3)]
    before = corpus(tmp_path, records)
    records[1] |= change
    assert changed(before, corpus(tmp_path, records)) == expected


@given(corpora(), st.randoms())
@fuzz
def test_the_order_of_lines_changes_nothing(tmp_path, records, rng):
    before = corpus(tmp_path, records)
    rng.shuffle(records)
    assert corpus(tmp_path, records) == before


CODES = ["Sad", "Sad/Lonely", "Sad/Lonely/Isolated", "Sad/Lonely/Excluded", "Happy/Playful"]
CODE = st.integers(0, len(CODES) - 1)


@st.composite
def coded_corpora(draw):
    records = draw(corpora())
    for record in records:
        several = draw(st.lists(CODE, max_size=3))
        record["perception_labels"].pop("invoked", None)
        if several:
            record["perception_labels"]["invoked"] = ",".join(map(str, several))
    return records


def of_codes(folder: Path, records: list[dict[str, Any]], codes: Sequence[str]) -> dict[str, str]:
    (folder / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    labels = {"invoked": {"values": dict(enumerate(codes)), "separator": ","}}
    return content_digests(CorpusSettings(annotations=["d.jsonl"], labels=labels), folder)


@given(coded_corpora())
@fuzz
def test_a_translated_corpus_is_the_corpus_with_the_paths_written_out(tmp_path, records):
    found = of_codes(tmp_path, records, CODES)
    undecided = 0
    for record in records:
        labels = record["perception_labels"]
        if "invoked" not in labels:
            continue
        paths = [CODES[int(code)].split("/") for code in labels.pop("invoked").split(",")]
        shared = [
            parts[0] for parts in takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False))
        ]
        undecided += not shared
        if shared:
            labels["invoked"] = "/".join(shared)
    # Those without a common ancestor are counted beside the rejects.
    assert changed(found, corpus(tmp_path, records)) == ({"rejects"} if undecided else set())


@given(coded_corpora(), CODE, st.sampled_from(["Strong/Proud", "Sad/Hurt", "Sad", "Happy/Playful"]))
@fuzz
def test_a_changed_translation_changes_only_the_digests_of_its_labels(tmp_path, records, code, other):
    def read_all(codes: Sequence[str]) -> tuple[dict[str, Any], Tally, dict[str, str]]:
        digests = of_codes(tmp_path, records, codes)
        labels = {"invoked": {"values": dict(enumerate(codes)), "separator": ","}}
        tally = Tally()
        wanted = CorpusSettings(annotations=["d.jsonl"], labels=labels)
        items = [entry for entry in read_annotations(wanted, tmp_path, tally) if isinstance(entry, Item)]
        return {item.item_id: item.ratings.get("invoked") for item in items}, tally, digests

    before, counted, old = read_all(CODES)
    after, counted_now, new = read_all([*CODES[:code], other, *CODES[code + 1 :]])
    expected = {"labels/invoked", "ratings/invoked"} if before != after else set()
    if counted.no_common_ancestor != counted_now.no_common_ancestor:
        expected.add("rejects")
    assert changed(old, new) == expected


def test_settings_without_effect_on_the_items_change_no_digest(tmp_path):
    (tmp_path / "a.csv").write_text("item_id,text,V,E\n1,t,0.5,Sad\n2,u,1,Sad/Hurt\n")
    plain = {"constants": {"owner_id": "o", "timestamp": "2025-01-01"}, "labels": {"valence": {"column": "V"},
             "invoked": {"column": "E"}}, "annotations": ["a.csv"]}  # fmt: skip
    before = content_digests(CorpusSettings(**plain), tmp_path)
    names = {"values": {name: name for name in ("Sad", "Sad/Hurt", "Happy")}, "separator": ";"}
    for setting in (
        {"constants": {}, "annotations": [{"file": "a.csv", "constants": plain["constants"]}]},
        {"labels": {**plain["labels"], "invoked": {"column": "E", **names}}},
        {"labels": {**plain["labels"], "valence": {"column": "V", "values": {"0.5": 0.5, "1": 1}}}},
    ):
        assert content_digests(CorpusSettings(**{**plain, **setting}), tmp_path) == before
    (tmp_path / "a.csv").write_text("1,t,0.5,Sad\n2,u,1,Sad/Hurt\n")
    headerless = {**plain, "header": ["item_id", "text", "V", "E"]}
    assert content_digests(CorpusSettings(**headerless), tmp_path) == before
    swapped = {**plain, "header": ["item_id", "E", "V", "text"], "taxonomy": None}
    found = content_digests(CorpusSettings(**swapped), tmp_path)
    assert changed(before, found) == {"items", "items/text", "labels/invoked", "ratings/invoked"}
    test = {**plain, "annotations": [{"file": "a.csv", "constants": {"split": "test"}}]}
    (tmp_path / "a.csv").write_text("item_id,text,V,E\n1,t,0.5,Sad\n2,u,1,Sad/Hurt\n")
    assert changed(before, content_digests(CorpusSettings(**test), tmp_path)) == {"items", "items/split"}


def test_two_errors_do_not_cancel_out(tmp_path):
    """Swapping the labels of two items leaves each column's values as they were, and is seen all the same."""
    records = [record(item_id=str(n), perception_labels={"valence": n / 4}) for n in range(2)]
    before = corpus(tmp_path, records)
    records[0]["perception_labels"], records[1]["perception_labels"] = (
        records[1]["perception_labels"], records[0]["perception_labels"],
    )  # fmt: skip
    assert changed(before, corpus(tmp_path, records)) == {"labels/valence", "ratings/valence"}
    one, two = [record(item_id="a")], [record(item_id="a"), record(item_id="a")]
    assert changed(corpus(tmp_path, one), corpus(tmp_path, two)) == {"rejects"}


def test_input_files_are_all_that_is_read(tmp_path):
    names = ["a.csv", "b.csv", "m.csv", "r.csv", "t.tsv"]
    for name in names:
        (tmp_path / name).write_text("x\n")
    wanted = CorpusSettings(
        annotations=["a.csv", "b.csv"],
        joins=[{"file": "m.csv"}],
        ratings=[{"file": "r.csv", "labels": {"valence": {}}}],
        taxonomy="t.tsv",
    )
    assert [path.name for path in input_files(wanted, tmp_path)] == names
    (tmp_path / "r.csv").unlink()
    with pytest.raises(MissingFileError, match=r"corpus\.ratings"):
        input_files(wanted, tmp_path)


# --------------------------------------------------------------------------- memory


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        with path.open("wb") as handle:
            for n in range(count):
                handle.write(line(item_id=f"item-{n}", text=f"{n} " + "word " * 20))
        tracemalloc.start()
        accepted = sum(
            isinstance(entry, Item)
            for entry in read_annotations(CorpusSettings(annotations=[path.name]), tmp_path)
        )
        assert accepted == count
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    small, large = peak(2_000), peak(20_000)
    # 18,000 more ids at 12 to 24 bytes, and the old table of half the size while the new one is filled.
    assert large - small < 18_000 * 36


# --------------------------------------------------------------------------- real corpora


def real(name: str) -> CorpusSettings:
    return CorpusSettings(
        **yaml.safe_load((REPOSITORY / f"config/corpora/{name}.yaml").read_text())["corpus"]
    )


@pytest.mark.parametrize(
    ("name", "count", "owners", "splits"),
    [
        ("emobank", 9062, 136, {"train": 8062, "test": 1000}),
        ("affect_over_time", 2764, 137, {None: 2764}),
    ],
)
def test_real_corpora_are_read_whole(name, count, owners, splits, monkeypatch):
    if not (DATA / name).is_dir():
        pytest.skip(f"the corpus {name} is not at {DATA} (set PERCEIVE_DATA)")
    monkeypatch.setenv("PERCEIVE_DATA", str(DATA.resolve()))
    tally = Tally()
    entries = list(read_annotations(real(name), REPOSITORY, tally))
    items = [entry for entry in entries if isinstance(entry, Item)]
    assert len(items) == len(entries) == count and tally.blank == 0
    assert len({item.owner_id for item in items}) == owners
    assert {split: sum(item.split == split for item in items) for split in splits} == splits
    for variable in ("valence", "arousal"):
        values = [item.labels[variable][0] for item in items]
        assert len(values) == count and min(values) >= 0 and max(values) <= 1
        assert max(values) - min(values) > 0.5


def test_a_missing_real_corpus_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVE_DATA", str(tmp_path))
    for name, where, licence in (
        ("emobank", "github.com/JULIELab/EmoBank", "CC-BY-SA 4.0"),
        ("affect_over_time", "semeval.github.io", "CC0"),
        ("goemotions", "github.com/google-research/google-research", "Apache-2.0"),
    ):
        with pytest.raises(MissingFileError) as error:
            content_digests(real(name), REPOSITORY)
        assert where in str(error.value) and licence in str(error.value)
