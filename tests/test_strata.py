"""Labels for the strata, straight from the annotations."""

from __future__ import annotations

import json
from pathlib import Path

from perceive.corpus.reader import read_annotations
from perceive.corpus.settings import CorpusSettings
from perceive.corpus.strata import strata_labels


def read(folder: Path, labels: list[dict]) -> object:
    common = {"owner_id": "o", "text": "so", "timestamp": 1_700_000_000}
    lines = [{**common, "item_id": f"i{n}", "perception_labels": entry} for n, entry in enumerate(labels)]
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not json\n")
    return strata_labels(read_annotations(CorpusSettings(annotations=[str(path)]), folder))


def test_core_and_valence_are_taken_where_they_are(tmp_path: Path) -> None:
    frame = read(tmp_path, [{"valence": 0.25}, {"invoked": "Sad/Lonely"}, {"arousal": 0.5}])
    assert frame.set_index("item_id")["valence"].dropna().to_dict() == {"i0": 0.25}
    assert frame.set_index("item_id")["core"].dropna().to_dict() == {"i1": "Sad"}
    assert len(frame) == 3


def test_a_column_without_any_label_is_left_out(tmp_path: Path) -> None:
    assert list(read(tmp_path, [{"valence": 0.25}]).columns) == ["item_id", "valence"]
    assert read(tmp_path, [{"arousal": 0.25}, {}]) is None
