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
                "invoked": rng.choice(["Sad/Lonely", "Happy", "Angry/Mad/X"]),
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
    ingest_items(
        wanted, tmp_path, tmp_path / "out/items.parquet", tmp_path / "out/r.jsonl", tmp_path / "out/s.json"
    )
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
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["items.parquet", "r.jsonl", "s.json"]


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
        ingest_items(wanted, tmp_path, tmp_path / "i.parquet", summary_path=tmp_path / "s.json")
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
    assert list(valence.columns) == ["item_id", "value", "n_raters", "spread"]
    assert valence["item_id"].is_monotonic_increasing and "i7" not in set(valence["item_id"])
    valence = valence.set_index("item_id")
    assert valence.loc["i10", "value"] == 10 / 50 and pd.isna(valence.loc["i10", "spread"])
    assert valence.loc["i3"].tolist() == pytest.approx([0.4, 2, 0.08**0.5])

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
    report = ingest_items(wanted, tmp_path, tmp_path / "i.parquet", tmp_path / "r.jsonl", tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text()) == report
    counts = {name: report[name] for name in ("lines", "accepted", "rejected", "blank", "cleaned")}
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

    # Each part can be written alone, and is the same.
    ingest_rejects(wanted, tmp_path, tmp_path / "r2.jsonl")
    ingest_summary(wanted, tmp_path, tmp_path / "s2.json")
    assert digest(tmp_path / "r.jsonl") == digest(tmp_path / "r2.jsonl")
    assert digest(tmp_path / "s.json") == digest(tmp_path / "s2.json")


@pytest.mark.parametrize(("bad", "stops"), [(2, False), (3, True)])
def test_too_many_rejects_stop_the_run(tmp_path, bad, stops):
    rows = records(40)
    for row in rows[:bad]:
        row["risk_level"] = "severe"
    wanted = write(tmp_path, rows, limits={"n_first_reasons": 2})
    paths = tmp_path / "i.parquet", tmp_path / "r.jsonl", tmp_path / "s.json"
    if not stops:
        ingest_items(wanted, tmp_path, *paths)
        assert paths[0].exists()
        return
    with pytest.raises(RejectedShareError) as error:
        ingest_items(wanted, tmp_path, *paths)
    message = str(error.value)
    assert "7.50%" in message and "5.00%" in message and "max_rejected_share" in message
    assert re.findall(r"a\.jsonl, line (\d+): risk_level: must be one of", message) == ["1", "2"]
    assert SECRET not in message
    assert len(paths[1].read_text().splitlines()) == bad and not paths[0].exists()
    with pytest.raises(RejectedShareError):
        ingest_rejects(wanted, tmp_path, paths[1])


def test_an_empty_corpus_stops_the_run(tmp_path):
    with pytest.raises(CorpusError, match="no item was accepted"):
        ingest_items(write(tmp_path, ["", ""]), tmp_path, tmp_path / "i.parquet")
    assert not (tmp_path / "i.parquet").exists()


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
    report = ingest_items(write(tmp_path, rows), tmp_path, tmp_path / "i.parquet")
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
    report = ingest_items(wanted, REPOSITORY, tmp_path / "i.parquet", tmp_path / "r.jsonl")
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
