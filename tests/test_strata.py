"""Labels for the strata, straight from the annotations."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from perceive.corpus.reader import corpus_taxonomy, read_annotations
from perceive.corpus.settings import CorpusSettings
from perceive.corpus.strata import strata_labels


def read(folder: Path, labels: list[dict], taxonomy: str | None = "moods.tsv") -> pd.DataFrame | None:
    (folder / "moods.tsv").write_text("mood\tfeeling\ttier\nbad\tawful\tC\ngood\tfine\tA\n")
    common = {"owner_id": "o", "text": "so", "timestamp": 1_700_000_000}
    lines = [{**common, "item_id": f"i{n}", "perception_labels": entry} for n, entry in enumerate(labels)]
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not json\n")
    settings = CorpusSettings(annotations=[str(path)], taxonomy=taxonomy)
    return strata_labels(read_annotations(settings, folder), corpus_taxonomy(settings, folder))


def test_core_tier_and_valence_are_taken_where_they_are(tmp_path: Path) -> None:
    labels = [{"valence": 0.25}, {"invoked": "bad/awful"}, {"arousal": 0.5}, {"invoked": "good"}]
    frame = read(tmp_path, labels)
    assert frame is not None and len(frame) == 4
    frame = frame.set_index("item_id")
    assert frame["valence"].dropna().to_dict() == {"i0": 0.25}
    assert frame["core"].dropna().to_dict() == {"i1": "bad", "i3": "good"}
    assert frame["tier"].dropna().to_dict() == {"i1": "C"}  # a path that stops early has none


def test_a_column_without_any_label_is_left_out(tmp_path: Path) -> None:
    frames = [
        read(tmp_path, [{"valence": 0.25}]),
        read(tmp_path, [{"invoked": "bad"}]),
        read(tmp_path, [{"invoked": "bad/awful"}], taxonomy=None),
    ]
    assert [list(frame.columns) for frame in frames if frame is not None] == [
        ["item_id", "valence"],
        ["item_id", "core"],
        ["item_id", "core"],
    ]
    assert read(tmp_path, [{"arousal": 0.25}, {}]) is None


def test_several_ratings_give_the_plurality_s_core(tmp_path: Path) -> None:
    several = [
        {"annotator_id": name, "perception_labels": {"invoked": path}}
        for name, path in (("a", "bad/awful"), ("b", "good"), ("c", "bad"))
    ]
    line = {"item_id": "i", "owner_id": "o", "text": "so", "timestamp": 1_700_000_000, "annotations": several}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    settings = CorpusSettings(annotations=["a.jsonl"], taxonomy=None)
    frame = strata_labels(read_annotations(settings, tmp_path), None)
    assert frame is not None and frame["core"].tolist() == ["bad"]
