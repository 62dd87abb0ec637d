"""The corpus artifacts: schema, order, values, and what stops the run."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from perceive.corpus import ingest
from perceive.corpus.ingest import (
    ITEM_SCHEMA,
    RejectedShareError,
    ingest_items,
    ingest_labels,
    ingest_rejects,
    ingest_summary,
    rating_frames,
)
from perceive.corpus.reader import CorpusError, read_annotations
from perceive.corpus.settings import CorpusSettings

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("PERCEIVE_DATA") or REPOSITORY / "../shared/data")
SECRET = "zebrafinch"


def records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "item_id": f"i{n}",
            "owner_id": f"o{rng.randrange(max(2, count // 9))}",
            "text": f"{SECRET} {n} " + "word " * rng.randrange(80),
            "timestamp": 1_740_000_000 + rng.randrange(50),
            "language": rng.choice(["en", "hinglish"]),
            "category": rng.choice(["abuse", "sarcasm", None]),
            "risk_level": rng.choice(["LOW", "HIGH", None]),
            "mood": n,
            "perception_labels": {
                "valence": n / count,
                "invoked": rng.choice(["Sad/Lonely", "Happy", "Angry/Furious/Enraged"]),
            },
        }
        for n in range(count)
    ]


def write(folder: Path, lines: list[Any], **options: Any) -> CorpusSettings:
    text = "".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in lines)
    (folder / "a.jsonl").write_text(text)
    return CorpusSettings(name="toy", annotations=["a.jsonl"], **options)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_items(tmp_path):
    rows = records(200)
    wanted = write(tmp_path, rows)
    assert ingest_items(wanted, tmp_path, tmp_path / "out/items.parquet") == 200
    items = pd.read_parquet(tmp_path / "out/items.parquet")
    assert list(items.columns) == ITEM_SCHEMA.names
    assert str(items["timestamp"].dtype) == "datetime64[us, UTC]"
    keys = list(zip(items["owner_id"], items["timestamp"], items["item_id"], strict=True))
    assert keys == sorted(keys) and items["item_id"].is_unique
    expected = pd.DataFrame(rows).set_index("item_id").loc[items["item_id"]]
    for column in ("owner_id", "text", "language"):
        assert items[column].tolist() == expected[column].tolist()
    assert items["timestamp"].astype("int64").tolist() == [t * 10**6 for t in expected["timestamp"]]
    assert items["category"].fillna("-").tolist() == expected["category"].fillna("-").tolist()
    assert [json.loads(extra) for extra in items["extra"]] == [{"mood": mood} for mood in expected["mood"]]
    words = items["text"].str.split().str.len()
    assert (
        items["length_bucket"]
        == pd.cut(words, [0, 15, 60, 999], right=False, labels=["SHORT", "MEDIUM", "LONG"])
    ).all()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["items.parquet"]


@pytest.mark.parametrize("count", [1, 99, 100, 101, 1000])
def test_the_external_sort_equals_a_sort_in_memory(tmp_path, monkeypatch, count):
    wanted = write(tmp_path, records(count))
    ingest_items(wanted, tmp_path, tmp_path / "memory.parquet")
    monkeypatch.setattr(ingest, "_RUN_ROWS", 100)
    monkeypatch.setattr(ingest, "_SPILL_ROWS", 7)
    monkeypatch.setattr(ingest, "_GROUP_ROWS", 64)
    ingest_items(wanted, tmp_path, tmp_path / "spilled.parquet")
    memory, spilled = pq.read_table(tmp_path / "memory.parquet"), pq.read_table(tmp_path / "spilled.parquet")
    assert memory.equals(spilled) and len(memory) == count
    monkeypatch.setattr(ingest, "_RUN_ROWS", 10**6)
    monkeypatch.setattr(ingest, "_RUN_CHARS", 500)
    ingest_items(wanted, tmp_path, tmp_path / "chars.parquet")
    assert memory.equals(pq.read_table(tmp_path / "chars.parquet"))


def test_long_texts_are_spilled_early(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "_RUN_CHARS", 10_000)
    wanted = write(tmp_path, [{**row, "text": "x" * 3_000} for row in records(10)])
    with tempfile.TemporaryFile() as spill:
        rows = ingest._SortedItems(spill)
        for item in read_annotations(wanted, tmp_path):
            rows.add(item)
        assert spill.tell() > 20_000
        assert sum(len(table) for table in rows.sorted_tables()) == 10


def test_artifacts_do_not_depend_on_the_order_of_lines(tmp_path):
    rows = records(300)
    hashes = []
    for _ in range(2):
        wanted = write(tmp_path, rows)
        ingest_items(wanted, tmp_path, tmp_path / "i.parquet")
        ingest_summary(wanted, tmp_path, tmp_path / "s.json")
        for variable in ("valence", "invoked"):
            ingest_labels(wanted, tmp_path, variable, tmp_path / f"{variable}.parquet")
        names = ("i.parquet", "s.json", "valence.parquet", "invoked.parquet")
        hashes.append([digest(tmp_path / name) for name in names])
        random.Random(1).shuffle(rows)
    assert hashes[0] == hashes[1]


def test_labels(tmp_path):
    rows = records(50)
    del rows[7]["perception_labels"]
    rows[3]["annotations"] = [
        {"annotator_id": name, "perception_labels": {"valence": value}}
        for name, value in (("a", 0.2), ("b", 0.6))
    ]
    del rows[3]["perception_labels"]
    wanted = write(tmp_path, rows)
    assert ingest_labels(wanted, tmp_path, "valence", tmp_path / "valence.parquet") == 49
    valence = pd.read_parquet(tmp_path / "valence.parquet")
    assert list(valence.columns) == ["item_id", "value", "n_raters", "spread", "derived"]
    assert not valence["derived"].any()
    assert valence["item_id"].is_monotonic_increasing and "i7" not in set(valence["item_id"])
    valence = valence.set_index("item_id")
    assert valence.loc["i10", "value"] == 10 / 50 and pd.isna(valence.loc["i10", "spread"])
    assert valence.loc["i3"].tolist()[:3] == pytest.approx([0.4, 2, 0.08**0.5])

    assert ingest_labels(wanted, tmp_path, "invoked", tmp_path / "invoked.parquet") == 48
    invoked = pd.read_parquet(tmp_path / "invoked.parquet").set_index("item_id")
    assert list(invoked.columns) == ["core", "nuance", "micro", "n_raters", "spread"]
    for row in rows:
        if "perception_labels" in row:
            path = invoked.loc[row["item_id"], ["core", "nuance", "micro"]].dropna()
            assert "/".join(path) == row["perception_labels"]["invoked"]

    assert ingest_labels(wanted, tmp_path, "comparator", tmp_path / "none.parquet") == 0
    assert list(pd.read_parquet(tmp_path / "none.parquet").columns) == [
        "item_id",
        "value",
        "n_raters",
        "spread",
        "derived",
    ]
    with pytest.raises(ValueError, match="unknown variable"):
        ingest_labels(wanted, tmp_path, "joy", tmp_path / "x.parquet")


def test_summary_and_rejects(tmp_path):
    rows: list[Any] = records(40)
    rows[5]["text"] = "a\x00b"
    rows[6]["perception_labels"]["valence"] = 1.5
    rows[7]["owner_id"] = None
    rows.insert(3, "")
    rows.insert(9, f'{{"text": "{SECRET}"')
    wanted = write(tmp_path, rows, limits={"max_rejected_share": 0.1})
    ingest_items(wanted, tmp_path, tmp_path / "i.parquet")
    ingest_rejects(wanted, tmp_path, tmp_path / "r.jsonl")
    report = ingest_summary(wanted, tmp_path, tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text()) == report
    counts = {name: report[name] for name in ("lines", "accepted", "rejected", "blank", "cleaned")}
    assert report["items"] == 38 and "ratings" not in report and "annotator_bias" not in report
    assert counts == {"lines": 42, "accepted": 38, "rejected": 3, "blank": 1, "cleaned": 1}
    assert sum(report["rejected_by_reason"].values()) == 3
    items = pd.read_parquet(tmp_path / "i.parquet")
    assert report["owners"] == items["owner_id"].nunique()
    for name, by in report["items_by"].items():
        assert by == items[name].fillna("none").value_counts().to_dict()
    ingest_labels(wanted, tmp_path, "valence", tmp_path / "v.parquet")
    values = pd.read_parquet(tmp_path / "v.parquet")["value"]
    assert report["labels"]["valence"]["mean"] == pytest.approx(values.mean())
    assert report["labels"]["valence"]["sd"] == pytest.approx(values.std(ddof=0))
    assert sum(report["labels"]["invoked"]["core"].values()) == report["labels"]["invoked"]["items"] == 38
    assert report["time_span"][0] == items["timestamp"].min().isoformat()
    assert any("3 of 42" in warning for warning in report["warnings"])

    rejects = [json.loads(entry) for entry in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [(r["line"], r["field"], r.get("item_id")) for r in rejects] == [
        (8, "perception_labels.valence", "i6"), (9, "owner_id", "i7"), (10, "line", None),
    ]  # fmt: skip
    assert all(set(r) <= {"file", "line", "field", "reason", "item_id"} for r in rejects)
    for name in ("r.jsonl", "s.json"):
        assert SECRET not in (tmp_path / name).read_text()


@pytest.mark.parametrize(("bad", "stops"), [(2, False), (3, True)])
def test_too_many_rejects_stop_the_run(tmp_path, bad, stops):
    rows = records(40)
    for row in rows[:bad]:
        row["risk_level"] = "severe"
    wanted = write(tmp_path, rows, limits={"n_first_reasons": 2})
    paths = tmp_path / "i.parquet", tmp_path / "r.jsonl"
    if not stops:
        assert ingest_items(wanted, tmp_path, paths[0]) == 40 - bad
        ingest_rejects(wanted, tmp_path, paths[1])
        assert len(paths[1].read_text().splitlines()) == bad
        return
    with pytest.raises(RejectedShareError) as error:
        ingest_items(wanted, tmp_path, paths[0])
    message = str(error.value)
    assert "7.50%" in message and "5.00%" in message and "max_rejected_share" in message
    assert re.findall(r"a\.jsonl, line (\d+): risk_level: must be one of", message) == ["1", "2"]
    assert SECRET not in message
    assert not paths[0].exists()
    with pytest.raises(RejectedShareError):
        ingest_rejects(wanted, tmp_path, paths[1])
    assert len(paths[1].read_text().splitlines()) == bad


def test_an_empty_corpus_stops_the_run(tmp_path):
    with pytest.raises(CorpusError, match="there is no item"):
        ingest_items(write(tmp_path, ["", ""]), tmp_path, tmp_path / "i.parquet")
    assert not (tmp_path / "i.parquet").exists()


def test_single_ratings_of_a_scale(tmp_path):
    rows = records(6)
    rows[0]["item_id"] = "z"
    rows[2]["perception_labels"] = {"arousal": 1}
    rows[3]["annotations"] = [
        {"annotator_id": name, "perception_labels": {"valence": value}}
        for name, value in (("b", 0.2), ("a", 0.6))
    ]
    del rows[3]["perception_labels"]
    wanted = write(tmp_path, rows)
    ratings, items, labels = rating_frames(wanted, tmp_path, "valence")
    assert ratings["item_id"].tolist() == ["i1", "i3", "i3", "i4", "i5", "z"]
    assert ratings["rater"].fillna("-").tolist() == ["-", "a", "b", "-", "-", "-"]
    assert ratings["value"].tolist() == [1 / 6, 0.6, 0.2, 4 / 6, 5 / 6, 0]
    assert items["item_id"].tolist() == labels["item_id"].tolist() == ["i1", "i3", "i4", "i5", "z"]
    expected = pd.DataFrame(rows).set_index("item_id").loc[items["item_id"]]
    for column in ("language", "category", "risk_level"):
        assert items[column].fillna("-").tolist() == expected[column].fillna("-").tolist()
    assert labels.set_index("item_id").loc["i3"].tolist()[:3] == pytest.approx([0.4, 2, 0.08**0.5])
    ingest_labels(wanted, tmp_path, "valence", tmp_path / "v.parquet")
    pd.testing.assert_frame_equal(labels, pd.read_parquet(tmp_path / "v.parquet"), check_dtype=False)


def test_single_ratings_of_a_hierarchy(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "_RUN_ROWS", 3)
    several = [
        {"annotator_id": name, "perception_labels": {"invoked": path}}
        for name, path in (("a", "Sad"), ("b", "Sad/Lonely/Isolated"))
    ]
    rows = records(20)
    rows[3] |= {"annotations": several, "perception_labels": None}
    ratings, items, labels = rating_frames(write(tmp_path, rows), tmp_path, "invoked")
    assert list(ratings.columns) == ["item_id", "rater", "core", "nuance", "micro"]
    assert len(ratings) == 21 and len(items) == len(labels) == 20
    ratings = ratings.set_index("item_id")
    assert ratings.loc["i3"].fillna("-").to_numpy().tolist() == [
        ["a", "Sad", "-", "-"],
        ["b", "Sad", "Lonely", "Isolated"],
    ]
    for row in rows[4:]:
        path = ratings.loc[row["item_id"], ["core", "nuance", "micro"]].dropna()
        assert "/".join(path) == row["perception_labels"]["invoked"]
    for frame in rating_frames(write(tmp_path, rows), tmp_path, "expressed"):
        assert frame.empty and "item_id" in frame.columns
    with pytest.raises(ValueError, match="unknown variable"):
        rating_frames(write(tmp_path, rows), tmp_path, "joy")


def test_a_failed_run_leaves_the_old_artifact_and_no_other_file(tmp_path, monkeypatch):
    wanted = write(tmp_path, records(20))
    folder = tmp_path / "out"
    ingest_items(wanted, tmp_path, folder / "i.parquet")
    before = digest(folder / "i.parquet")

    def fail(self: Any) -> Any:
        raise OSError("disk full")
        yield

    monkeypatch.setattr(ingest._SortedItems, "sorted_tables", fail)
    with pytest.raises(OSError, match="disk full"):
        ingest_items(wanted, tmp_path, folder / "i.parquet")
    assert [path.name for path in folder.iterdir()] == ["i.parquet"] and digest(
        folder / "i.parquet"
    ) == before


def test_warnings_name_what_was_assumed(tmp_path):
    rows = [{"owner_id": "o", "text": "t", "timestamp": "2025-01-01T10:00"}]
    report = ingest_summary(write(tmp_path, rows), tmp_path, tmp_path / "s.json")
    text = " ".join(report["warnings"])
    for part in ("without a zone", "without a language", "had no id", "no item carries a label", "one owner"):
        assert part in text


@pytest.mark.parametrize(
    ("name", "count", "owners"), [("emobank", 9062, 136), ("affect_over_time", 2764, 137)]
)
def test_real_corpora(tmp_path, monkeypatch, name, count, owners):
    if not (DATA / name).is_dir():
        pytest.skip(f"the corpus {name} is not at {DATA} (set PERCEIVE_DATA)")
    monkeypatch.setenv("PERCEIVE_DATA", str(DATA.resolve()))
    text = (REPOSITORY / f"config/corpora/{name}.yaml").read_text()
    wanted = CorpusSettings(**yaml.safe_load(text)["corpus"])
    ingest_items(wanted, REPOSITORY, tmp_path / "i.parquet")
    report = ingest_summary(wanted, REPOSITORY, tmp_path / "s.json")
    assert (report["accepted"], report["rejected"], report["owners"]) == (count, 0, owners)
    items = pd.read_parquet(tmp_path / "i.parquet").set_index("item_id")
    suffix = {"emobank": "emobank.csv", "affect_over_time": "train.csv"}[name]
    raw = pd.read_csv(DATA / name / suffix, dtype=str, keep_default_na=False)
    raw = raw.set_index({"emobank": "id", "affect_over_time": "text_id"}[name])
    # Against an independent parser: the texts and the labels.
    assert items["text"].sort_index().tolist() == raw["text"].sort_index().tolist()
    column, low, high = {"emobank": ("A", 1, 5), "affect_over_time": ("arousal", 0, 2)}[name]
    ingest_labels(wanted, REPOSITORY, "arousal", tmp_path / "a.parquet")
    arousal = pd.read_parquet(tmp_path / "a.parquet").set_index("item_id")["value"]
    expected = ((raw[column].astype(float) - low) / (high - low)).sort_index()
    assert arousal.tolist() == pytest.approx(expected.tolist())
    if name == "emobank":
        positions = items.index.to_series().str.extract(r"_(\d+)(?:_\d+)?$")[0].astype(int)
        for _, group in positions.groupby(items["owner_id"]):
            assert group.is_monotonic_increasing


def test_labels_without_a_common_ancestor_are_counted(tmp_path):
    rows = records(20)
    for number, row in enumerate(rows):
        row["perception_labels"] = {"invoked": "Sad,Happy" if number % 5 == 0 else "Sad/Lonely,Sad/Hurt"}
    wanted = write(tmp_path, rows, labels={"invoked": {"separator": ","}})
    report = ingest_summary(wanted, tmp_path, tmp_path / "s.json")
    assert report["items"] == report["accepted"] == 20
    assert report["labels"]["invoked"] == {
        "items": 16, "ratings": 16, "core": {"Sad": 16}, "no_common_ancestor": 4,
    }  # fmt: skip
    assert report["labels"]["valence"] == report["labels"]["expressed"] == {"items": 0}
    assert any("4 items" in warning and "invoked" in warning for warning in report["warnings"])
    assert ingest_items(wanted, tmp_path, tmp_path / "i.parquet") == 20
    assert ingest_labels(wanted, tmp_path, "invoked", tmp_path / "l.parquet") == 16
    ratings, items, labels = rating_frames(wanted, tmp_path, "invoked")
    assert len(ratings) == len(items) == len(labels) == 16 and labels["nuance"].isna().all()


def test_goemotions_is_read_by_its_configuration_alone(tmp_path, monkeypatch):
    folder = DATA / "goemotions"
    if not folder.is_dir():
        pytest.skip(f"the corpus goemotions is not at {DATA} (set PERCEIVE_DATA)")
    monkeypatch.setenv("PERCEIVE_DATA", str(DATA.resolve()))
    text = (REPOSITORY / "config/corpora/goemotions.yaml").read_text()
    wanted = CorpusSettings(**yaml.safe_load(text)["corpus"])
    report = ingest_summary(wanted, REPOSITORY, tmp_path / "s.json")
    ingest_items(wanted, REPOSITORY, tmp_path / "i.parquet")
    ingest_labels(wanted, REPOSITORY, "expressed", tmp_path / "e.parquet")
    items = pd.read_parquet(tmp_path / "i.parquet").set_index("item_id").sort_index()
    assert (report["accepted"], report["rejected"], report["owners"]) == (48_836, 0, 48_836)
    # Against an independent parser, and the levels as published.
    parts = {
        split: pd.read_csv(folder / f"{name}.tsv", sep="\t", header=None, dtype=str, keep_default_na=False)
        for name, split in (("train", "train"), ("dev", "test"))
    }
    raw = pd.concat([part.assign(split=split) for split, part in parts.items()]).set_index(2).sort_index()
    assert items.index.tolist() == raw.index.tolist() == items["owner_id"].tolist()
    assert items["text"].tolist() == raw[0].tolist() and items["split"].tolist() == raw["split"].tolist()
    fine = (folder / "labels.txt").read_text().split()
    levels = [json.loads((folder / f"{name}_mapping.json").read_text()) for name in ("sentiment", "ekman")]
    above = [{name: group for group, names in level.items() for name in names} for level in levels]
    expected = {}
    for item_id, numbers in raw[1].items():
        emotions = {fine[int(number)] for number in numbers.split(",")}
        groups = [{of.get(emotion, emotion) for emotion in emotions} for of in above] + [emotions]
        path = [next(iter(group)) if len(group) == 1 else None for group in groups]
        if path[0]:
            expected[item_id] = path
    labels = pd.read_parquet(tmp_path / "e.parquet").set_index("item_id")
    assert labels[["core", "nuance", "micro"]].replace({float("nan"): None}).T.to_dict("list") == expected
    assert len(expected) == 45_036 and report["labels"]["expressed"]["no_common_ancestor"] == 3_800


# --------------------------------------------------------------------------- fuzzing

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 10**400, float("nan"), float("-inf"), "", " ", "x", "NaN", "2025-99-99",
    "Sad//", "\u0000", "\u202e", "\ud800", [], {}, [[]], {"core": 1}, {"valence": "1"}, [{"annotator_id": 1}],
)  # fmt: skip
JUNK = (
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc3(",
    b"\\ud800",
    b"\x00",
    b'"',
    b"\\",
    b"[" * 2_000,
    b"9" * 5_000,
    b"\r",
    b"\t,",
)


def mutated(line: bytes, rng: random.Random) -> bytes:
    """One line with some of its bytes flipped, cut, doubled, turned, inserted, or in another encoding."""
    at = rng.randrange(len(line))
    kind = rng.randrange(7)
    if kind == 0:
        flipped = bytearray(line)
        for _ in range(rng.randrange(1, 5)):
            flipped[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
        line = bytes(flipped)
    elif kind == 1:
        line = line[:at]
    elif kind == 2:
        line = line[at:] + line[:at]
    elif kind == 3:
        line = line[:at] + line[at + rng.randrange(1, 20) :]
    elif kind == 4:
        line = line[:at] + rng.choice(JUNK) + line[at:]
    elif kind == 5:
        line = line.decode().encode(rng.choice(["utf-16", "utf-32", "utf-7", "cp500", "latin-1"]), "replace")
    else:
        line = line * 2
    return line.replace(b"\n", b" ")


def swapped(record: dict[str, Any], rng: random.Random) -> bytes:
    """One record with a value of another type, or nested too deeply."""
    key = rng.choice(
        [*record, "annotations", "perception_labels", "withdrawn", "split", "device", "mood", ""]
    )
    value = rng.choice(ODD)
    if key in ("annotations", "perception_labels") and rng.random() < 0.7:
        labels = {rng.choice(["valence", "invoked", "comparator", "joy"]): value}
        several = [
            {"annotator_id": rng.choice(["a", value]), "perception_labels": rng.choice([labels, value])}
        ]
        value = labels if key == "perception_labels" else several
    if rng.random() < 0.02:
        value = "@"
        deep = rng.randrange(10, 200_000)
        return json.dumps({**record, key: value}).encode().replace(b'"@"', b"[" * deep + b"]" * deep)
    return json.dumps({**record, key: value}).encode()


@pytest.mark.parametrize(("kind", "count"), [("jsonl", 60_000), ("csv", 40_000)])
def test_100_000_mutated_lines(tmp_path, kind, count):
    rng = random.Random(137)
    name = f"a.{kind}"
    columns = [
        "item_id",
        "owner_id",
        "text",
        "timestamp",
        "language",
        "risk_level",
        "valence",
        "invoked",
        "mood",
    ]
    seen = 0
    with (tmp_path / name).open("wb") as handle:
        if kind == "csv":
            handle.write(",".join(columns).encode() + b"\n")
        for n in range(count):
            record: dict[str, Any] = {
                "item_id": f"i{n}", "owner_id": f"o{n % 99}", "text": f"{SECRET} é मैं {n}", "mood": n,
                "timestamp": 1_740_000_000 + n, "language": "hinglish", "risk_level": "LOW",
            }  # fmt: skip
            if kind == "csv":
                record |= {"text": f"{SECRET}; é {n}", "valence": 0.5, "invoked": "Sad/Lonely"}
                line = ",".join(str(record[column]) for column in columns).encode()
            else:
                rating = {"annotator_id": "a", "perception_labels": {"valence": 0.5, "invoked": "Sad/Lonely"}}
                record["annotations"] = [rating]
                line = json.dumps(record, ensure_ascii=False).encode()
            if rng.random() < 0.9:
                line = swapped(record, rng) if kind == "jsonl" and rng.random() < 0.4 else mutated(line, rng)
            handle.write(line + b"\n")
            seen += 1
    labels = {"valence": {}, "invoked": {}} if kind == "csv" else {}
    wanted = CorpusSettings(annotations=[name], labels=labels, limits={"max_rejected_share": 1})
    report = ingest_summary(wanted, tmp_path, tmp_path / "s.json")
    # A stray quote makes several lines of a CSV file one record, or several rejects.
    assert report["lines"] == seen == count or kind == "csv"
    assert report["lines"] > 0.9 * count
    assert report["accepted"] + report["rejected"] + report["blank"] == report["lines"]
    assert report["accepted"] > 0.1 * count and report["rejected"] > 0.3 * count
    assert ingest_items(wanted, tmp_path, tmp_path / "i.parquet") == report["items"] == report["accepted"]
    ingest_rejects(wanted, tmp_path, tmp_path / "r.jsonl")
    text = (tmp_path / "r.jsonl").read_text()
    assert SECRET not in text
    rejects = [json.loads(entry) for entry in text.splitlines()]
    assert len(rejects) == report["rejected"]
    assert all(entry["reason"] and entry["field"] and entry["line"] >= 1 for entry in rejects)
    assert len(report["rejected_by_reason"]) > (40 if kind == "jsonl" else 20)
