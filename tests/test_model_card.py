"""Model cards: valid for the Hub, true to the artifacts, and plain about limits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from project import REPOSITORY, Project

from perceive.config import Settings
from perceive.model_card import model_card
from perceive.report import Artifacts
from perceive.variables import VARIABLES

TEMPLATE = REPOSITORY / "resources/report/model_card.md.jinja"


@pytest.mark.workflow
@pytest.mark.parametrize("name", VARIABLES)
def test_the_hub_reads_a_card_and_its_numbers_are_the_artifacts(project: Project, name: str) -> None:
    card = ModelCard.load(project.results / f"cards/{name}.md")
    metrics = json.loads((project.results / f"evaluation/{name}/metrics.json").read_text())
    head = card.data
    assert head.model_name == f"perceive-{name}" and head.library_name == "openvino"
    # The encoder of this project is one of its own, which the Hub does not know.
    assert head.language == ["en", "hi"] and head.base_model is None
    assert len(head.eval_results) >= 5
    for result in head.eval_results:
        real = metrics["metrics"]["calibrated"][result.metric_type]["value"]
        assert result.metric_value == pytest.approx(real, abs=1e-6) and result.dataset_split == "test"
    for section in ("Intended use", "Who must not be judged by it", "Limits", "Quality", "Quality by group"):
        assert f"\n## {section}\n" in card.text
    gates = json.loads((project.results / "acceptance.json").read_text())["gates"]
    for gate in (gate for gate in gates if gate["variable"] == name):
        assert f"| {gate['gate']} |" in card.text and f"| {gate['verdict']} |" in card.text
    risk = metrics["slices"]["risk_level"]
    for value, found in risk.items():
        assert f"| risk: {value} | {found['n']} | {found['owners']} |" in card.text
    # High risk first.
    assert card.text.index("| risk: HIGH |") < card.text.index("| risk: LOW |")
    assert "object at 0x" not in card.text and "None" not in card.text and "nan" not in card.text.split()
    for table in card.text.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1


@pytest.mark.workflow
def test_the_licence_the_source_and_an_encoder_of_ones_own_are_told(project: Project) -> None:
    source = {
        "name": "my corpus/1",
        "licence": "CC-BY-SA 4.0",
        "url": "https://x.org",
        "citation": "Us (2026)",
    }
    text = model_card(Artifacts(project.results), TEMPLATE, "valence", source, "models/mine")
    card = ModelCard(text)
    assert card.data.license == "other" and card.data.license_name == "CC-BY-SA 4.0"
    assert card.data.base_model is None
    packaged = model_card(
        Artifacts(project.results), TEMPLATE, "valence", source, Settings().encoders["en"].model
    )
    assert ModelCard(packaged).data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert card.data.eval_results[0].dataset_type == "my-corpus-1"
    assert "Us (2026)" in card.text and "https://x.org" in card.text


@pytest.mark.workflow
def test_what_was_not_kept_apart_is_told(project: Project, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name in ("evaluation/valence", "corpus", "splits", "fairness"):
        shutil.copytree(project.results / name, results / name)
    shutil.copy(project.results / "acceptance.json", results)
    source = {"name": "small", "licence": None, "url": None, "citation": None}

    def card() -> str:
        return model_card(Artifacts(results), TEMPLATE, "valence", source, "models/mine")

    assert "no copy of a text crosses splits" in card()
    audit = json.loads((results / "splits/audit.json").read_text())
    for check in audit["checks"]:
        if check["name"] in ("owner_in_two_splits", "owner_shares"):
            check["verdict"] = "waived"
    (results / "splits/audit.json").write_text(json.dumps(audit))
    assert "the leak audit waived owner_in_two_splits, since" in card() and "crosses splits" not in card()
