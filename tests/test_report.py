"""The report: what stands on it, where it comes from, and what must never be on it."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from project import REPOSITORY, Project

from perceive.evaluation import METRICS, PLOTS
from perceive.report import (
    BASE_NAMES,
    BASELINE_NAMES,
    PLOT_NAMES,
    Artifacts,
    Cite,
    formatted,
    in_order,
    main_gate,
    provenance,
    quality_plot,
    render,
)
from perceive.variables import VARIABLES

TEMPLATE = REPOSITORY / "resources/report/report.html.jinja"
VOID = {"meta", "img", "br", "hr", "link", "input"}
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*[A-Za-z])")


class Page(HTMLParser):
    """Elements of a page: what is cited, what else a reader sees, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cited: list[tuple[str, str, str]] = []
        self.plain: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self._cite: list[str] | None = None
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "data":
            self._cite = [str(found["data-source"]), str(found["value"]), ""]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "data":
            assert self._cite
            self.cited.append((self._cite[0], self._cite[1], self._cite[2]))
            self._cite = None

    def handle_data(self, data: str) -> None:
        if self._cite:
            self._cite[2] += data
        elif not {"style", "title"} & set(self._open):
            self.plain.append(data)


def looked_up(results: Path, source: str) -> Any:
    """What an artifact says there, by a reader of our own."""
    file, _, path = source.partition("#")
    text = (results / file).read_text(encoding="utf-8")
    if file.endswith(".json"):
        found = json.loads(text)
    else:
        found = list(csv.DictReader(text.splitlines(), delimiter="\t" if file.endswith(".tsv") else ","))
    keys = [key.replace("~1", "/").replace("~0", "~") for key in path.split("/")[1:]]
    for key in keys:
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def wrong_numbers(page: Page, results: Path) -> list[tuple[str, str, str]]:
    """Citations whose artifact says something else than what the page shows."""
    wrong = []
    for source, value, shown in page.cited:
        real = looked_up(results, source)
        if isinstance(real, dict):  # of a group's name: what has it
            if value not in real or shown != value:
                wrong.append((source, value, shown))
            continue
        try:
            number = float(real)
            told = shown.replace(",", "").removesuffix(" %")
            scale = 100 if shown.endswith("%") else 1
            digits = len(told.split("e")[0].partition(".")[2])
            unit = 10.0 ** (float(told.partition("e")[2] or 0) - digits)
            right = float(value) == number and abs(float(told) - scale * number) <= 0.501 * unit
        except (TypeError, ValueError):
            right = value == str(real) and (
                shown == value or shown.endswith(("passes", "fails", "undecided"))
            )
        # A name may look like a number: a version, a group.
        if not right and not (value == str(real) == shown):
            wrong.append((source, value, shown))
    return wrong


@pytest.fixture(scope="module")
def page(project: Project) -> str:
    return (project.results / "report/index.html").read_text(encoding="utf-8")


@pytest.mark.workflow
def test_every_number_on_the_page_is_that_of_its_artifact(project: Project, page: str) -> None:
    parsed = Page(page)
    assert len(parsed.cited) > 1500
    assert wrong_numbers(parsed, project.results) == []
    # And there is no other number: what is cited by nothing would be an invention.
    assert [found for text in parsed.plain for found in NUMBER.findall(text)] == []
    for name in VARIABLES:
        sources = {source.partition("#")[0] for source, *_ in parsed.cited}
        for file in ("evaluation/{}/metrics.json", "fairness/{}.json", "oof/{}/audit.json",
                     "tuning/{}/best.json", "corpus/agreement/{}.json"):  # fmt: skip
            assert file.format(name) in sources


@pytest.mark.workflow
def test_a_changed_number_and_an_invented_one_are_found(project: Project, page: str) -> None:
    source = "acceptance.json#/counts/pass"
    real = looked_up(project.results, source)
    forged = re.sub(
        f'<data value="{real}" data-source="{source}">{real}<',
        f'<data value="{real}" data-source="{source}">{real + 1}<',
        page,
    )
    assert forged != page
    assert [found[0] for found in wrong_numbers(Page(forged), project.results)] == [source]
    invented = Page(page.replace("</main>", "<p>It is 0.93 good.</p></main>"))
    assert [found for text in invented.plain for found in NUMBER.findall(text)] == ["0.93"]


@pytest.mark.workflow
def test_the_page_loads_nothing_and_is_built_for_everybody(page: str) -> None:
    parsed = Page(page)
    names = [tag for tag, _ in parsed.tags]
    assert not {"script", "link", "iframe", "object", "embed", "form", "base", "svg"} & set(names)
    assert not re.search(r"url\(|@import|https?://|javascript:", re.sub(r"base64,[\w+/=]+", "", page))
    policy = [
        str(of["content"]) for tag, of in parsed.tags if of.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policy) == 1 and policy[0].startswith("default-src 'none'; img-src data:")
    identities = [str(of["id"]) for _, of in parsed.tags if "id" in of]
    assert len(identities) == len(set(identities))
    for tag, of in parsed.tags:
        assert not any(name.startswith("on") for name in of)
        if tag == "img":
            assert str(of["src"]).startswith("data:image/png;base64,") and len(str(of["alt"])) > 10
        if tag == "a":
            assert str(of["href"]).startswith("#") and str(of["href"])[1:] in identities
        if tag == "th":
            assert of["scope"] in ("col", "row")
    assert names.count("table") == names.count("caption") and names.count("h1") == names.count("main") == 1
    levels = [int(name[1]) for name in names if re.fullmatch(r"h\d", name)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert ("html", {"lang": "en"}) in parsed.tags
    assert names.count("img") >= sum(len(PLOTS[of.kind]) + 4 for of in VARIABLES.values())


@pytest.mark.workflow
def test_what_the_data_name_is_text_and_never_markup(project: Project, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(
        project.results, results, ignore=shutil.ignore_patterns("cache", "state", "bundle", "export")
    )
    (results / "bundle").mkdir()
    shutil.copy(project.results / "bundle/manifest.json", results / "bundle/manifest.json")
    planted = "<script>alert(1)</script>"
    summary = json.loads((results / "corpus/summary.json").read_text())
    summary["items_by"]["category"][planted] = 7
    summary["warnings"] = [f'odd: {planted} & "quoted"']
    (results / "corpus/summary.json").write_text(json.dumps(summary))
    text = render(Artifacts(results), TEMPLATE, corpus=planted, variables=list(VARIABLES))
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    parsed = Page(text)
    assert wrong_numbers(parsed, results) == []
    assert (
        "corpus/summary.json#/items_by/category",
        planted,
        planted,
    ) in parsed.cited


@pytest.mark.workflow
def test_the_provenance_is_that_of_the_benchmarks(project: Project) -> None:
    found = provenance(project.results)
    of_rule = {one["rule"]: one for one in found["rules"]}
    assert set(of_rule) >= {"items", "splits", "tuning", "oof", "blend", "assembly", "latency", "acceptance"}
    assert of_rule["oof"]["jobs"] == len(list((project.results / "benchmarks/oof").rglob("*.tsv")))
    assert found["seconds"] == pytest.approx(sum(one["seconds"] for one in found["rules"]), abs=0.1)
    assert all(one["first"] <= one["last"] for one in found["rules"])
    seconds = [one["seconds"] for one in found["rules"]]
    assert seconds == sorted(seconds, reverse=True)


def test_names_for_all_that_is_shown() -> None:
    assert set(PLOT_NAMES) == {plot for plots in PLOTS.values() for plot in plots}
    assert METRICS.keys() == PLOTS.keys() == {of.kind for of in VARIABLES.values()}
    assert not set(BASE_NAMES) & set(BASELINE_NAMES)
    assert in_order(["b", "LOW", "HIGH", "a", "MEDIUM"]) == ["HIGH", "MEDIUM", "LOW", "a", "b"]
    assert in_order(["LONG", "MEDIUM", "SHORT"]) == ["SHORT", "MEDIUM", "LONG"]


@given(st.floats(-1e6, 1e6), st.sampled_from(["1", "2", "3", "5", "+3", "%", "+%", "count"]))
def test_a_number_is_shown_to_its_last_digit(value: float, style: str) -> None:
    text = formatted(value, style)
    told = float(text.replace(",", "").removesuffix(" %"))
    scale, digits = (100, 0) if "%" in style else (1, 0 if style == "count" else int(style[-1]))
    if "e" in text:
        assert told == pytest.approx(value, rel=0.051) and told != 0
    else:
        assert abs(told - scale * value) <= 0.5 * 10.0**-digits * 1.0001 + 1e-9
    if style[0] == "+":
        assert text[0] in "+-"


def test_what_is_not_there_is_a_dash(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '{"x": null, "y": {"value": 0.5, "low": null, "high": 1}, "z/~": "5 < 6"}'
    )
    (tmp_path / "b.csv").write_text("n,m\n1.25,\n")
    cite = Cite(Artifacts(tmp_path))
    for missing in (
        cite.number("a.json", "x"), cite.number("a.json", "none", "at", "all"), cite.number("no.json", "x"),
        cite.number("b.csv", 0, "m"), cite.text("a.json", "x"), cite.number("b.csv", 7, "n"),
    ):  # fmt: skip
        assert "–" in missing and "data-source" not in missing
    assert cite.estimate("a.json", "y") == '<data value="0.5" data-source="a.json#/y/value">0.500</data>'
    assert (
        cite.number("b.csv", 0, "n", style="2") == '<data value="1.25" data-source="b.csv#/0/n">1.25</data>'
    )
    assert cite.text("a.json", "z/~") == (
        '<data value="5 &lt; 6" data-source="a.json#/z~1~0">5 &lt; 6</data>'
    )
    assert cite.image("no.png", "nothing") == ""


def test_the_quality_plot_places_models_between_baseline_and_ceiling(tmp_path: Path) -> None:
    def gate(variable: str, metric: str, **more: Any) -> dict[str, Any]:
        known = {
            "variable": variable,
            "metric": metric,
            "slice": None,
            "value": 0.1,
            "low": 0.09,
            "high": 0.11,
        }
        return known | {"threshold": 0.12, "baseline_value": 0.2, "ceiling": 0.05} | more

    gates = [
        gate("valence", "leaks", value=0.0),
        gate("valence", "rmse", slice="SHORT"),
        gate("valence", "rmse"),
        gate("arousal", "rmse", ceiling=None),
    ]
    assert main_gate(gates, "valence") == 2 and main_gate(gates, "arousal") == 3
    assert main_gate(gates, "invoked") is None
    quality_plot(tmp_path / "some.png", gates, ["valence", "arousal", "invoked"])
    quality_plot(tmp_path / "none.png", [], ["valence"])

    def coloured(name: str) -> int:
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
        return int((np.ptp(pixels, axis=2) > 60).sum())

    # A model and a gate in colours of their own; a sentence in grey where there is neither.
    assert coloured("some.png") > 500 and coloured("none.png") == 0
    assert (tmp_path / "none.png").stat().st_size > 1000


@pytest.mark.workflow
def test_snakemakes_own_report_has_the_same_by_category(project: Project, tmp_path: Path) -> None:
    done = project.run("--report", str(tmp_path / "report.html"))
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for category in ("Verdict", "Quality", "Fairness", "Insight", "Data", "Deployment"):
        assert f'"{category}"' in text
    # Captions are filled in.
    assert "On the test split (comparator)." in text
    records = [record["text"][:60] for record in project.records() if "text" in record]
    assert not any(of in text for of in records)
