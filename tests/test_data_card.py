"""The data card: valid Croissant, which reads the files that it describes."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import mlcroissant as mlc
import pandas as pd
import pytest
from project import Project

from perceive import io
from perceive.data_card import data_card
from perceive.variables import VARIABLES


@pytest.mark.workflow
def test_the_card_is_valid_and_reads_the_corpus(project: Project) -> None:
    path = project.results / "corpus/croissant.json"
    found = mlc.Dataset(str(path))
    assert not found.metadata.issues.errors and not found.metadata.issues.warnings
    assert {records.id for records in found.metadata.record_sets} == {"items", *VARIABLES}
    items = pd.read_parquet(project.results / "corpus/items.parquet")
    read = list(itertools.islice(found.records("items"), len(items) + 1))
    assert len(read) == len(items)
    assert {row["items/item_id"].decode() for row in read} == set(items["item_id"])
    labels = pd.read_parquet(project.results / "corpus/labels/valence.parquet").set_index("item_id")["value"]
    for row in itertools.islice(found.records("valence"), 50):
        assert row["valence/value"] == labels[row["valence/item_id"].decode()]
    # It describes the texts, and holds none.
    assert not any(text in path.read_text() for text in items["text"])


@pytest.mark.workflow
def test_a_file_that_is_not_the_described_one_is_told_by_its_digest(project: Project, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(project.results / "corpus", corpus)
    summary = json.loads((corpus / "summary.json").read_text())
    # Of a variable that this corpus does not label.
    summary["labels"]["arousal"] = {"items": 0}
    source = {"name": "my corpus", "licence": "CC0 1.0", "url": "https://x.org/data", "citation": "Us"}
    labels = {"invoked": corpus / "labels/invoked.parquet"}
    card = data_card(corpus / "items.parquet", labels, summary, source)
    assert card["name"] == "my-corpus" and card["license"] == "CC0 1.0" and card["citeAs"] == "Us"
    digests = {file["contentUrl"]: file["sha256"] for file in card["distribution"]}
    assert digests["labels/invoked.parquet"] == io.file_sha256(labels["invoked"])
    table = pd.read_parquet(labels["invoked"])
    table.iloc[1:].to_parquet(labels["invoked"])
    again = data_card(corpus / "items.parquet", labels, summary, source)
    assert {file["contentUrl"] for file in again["distribution"] if file not in card["distribution"]} == {
        "labels/invoked.parquet"
    }
