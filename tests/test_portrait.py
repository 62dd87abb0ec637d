"""The pictures of a corpus: what they count, whom they show, and that no name and no text is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive.corpus import portrait
from perceive.corpus.reader import Derived, Item, Reject

DAY = 86_400_000_000


def an_item(number: int, owner: str = "ann", **changes: object) -> Item:
    values: dict[str, object] = {
        "item_id": f"i{number}",
        "owner_id": owner,
        "text": "a secret",
        "timestamp": 1_700_000_000_000_000 + number * DAY,
        "language": "en",
        "length_bucket": "SHORT",
        "category": "abuse",
        "risk_level": "HIGH",
        "device": None,
        "split": None,
        "extra": None,
        "labels": {},
        "cleaned": False,
    }
    names = set(Item.__dataclass_fields__)
    return Item(**{name: ({} if name == "ratings" else None) for name in names} | values | changes)  # type: ignore[arg-type]


def labels(valence: float, invoked: str, expressed: str) -> dict:
    return {
        "valence": (valence, 3, 0.1),
        "invoked": ((invoked, None, None), 3, 0.0),
        "expressed": ((expressed, None, None), 3, 0.0),
    }


@pytest.fixture
def gathered() -> portrait.Portrait:
    items = [an_item(n, "ann", labels=labels(0.01 * n, "Sad", "Happy")) for n in range(30)]
    items += [
        an_item(100 + n, "bob", labels=labels(0.5, "Sad", "Sad"), language="hinglish") for n in range(9)
    ]
    items += [an_item(200 + n, "cy", labels=labels(0.5, "Angry", "Angry")) for n in range(9)]
    items += [an_item(300, "dee", category=None, risk_level=None)]
    return portrait.gather([*items, Reject("f", 1, "text", "missing or empty")])


def test_every_item_is_counted_once(gathered: portrait.Portrait) -> None:
    assert gathered.items == 49 and len(gathered.sizes) == 4
    assert gathered.counts["language"] == {"en": 40, "hinglish": 9}
    assert gathered.counts["risk_level"] == {"HIGH": 48, "none": 1}
    assert gathered.pairs == {("Sad", "Happy"): 30, ("Sad", "Sad"): 9, ("Angry", "Angry"): 9}
    assert gathered.cores["invoked"] == {"Sad": 39, "Angry": 9}
    assert np.allclose(gathered.scales["valence"][:3], [0.0, 0.01, 0.02]) and not gathered.scales["arousal"]


def test_the_longest_timelines_are_shown_and_ties_do_not_depend_on_the_order(
    gathered: portrait.Portrait,
) -> None:
    assert gathered.longest() == ["ann", "bob", "cy"]


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=60))
def test_the_choice_of_owners_is_by_count_then_name(owners: list[str]) -> None:
    made = portrait.gather(
        an_item(n, owner, labels=labels(0.5, "Sad", "Sad")) for n, owner in enumerate(owners)
    )
    expected = sorted(set(owners), key=lambda owner: (-owners.count(owner), owner))[:3]
    assert made.longest() == expected


def test_levels_beyond_the_fourteenth_are_one_row_and_none_is_lost() -> None:
    counter = {f"category {n:02d}": n + 1 for n in range(40)}
    levels = portrait._levels(counter)
    assert len(levels) == 14 and sum(number for _, number in levels) == sum(counter.values())
    assert levels[0] == ("category 39", 40) and levels[-1][0] == "27 others"
    assert [name for name, _ in portrait._levels({"HIGH": 9, "LOW": 1, "MEDIUM": 5})] == [
        "LOW",
        "MEDIUM",
        "HIGH",
    ]


def test_the_average_is_exponential_and_causal() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.0])
    smooth = portrait._smoothed(values)
    assert np.allclose(smooth, [0.0, 0.3, 0.51, 0.357])
    assert np.allclose(portrait._smoothed(values[:2]), smooth[:2])


def draw_all(folder: Path, gathered: portrait.Portrait, suffix: str) -> dict[str, Path]:
    paths = {name: folder / f"{name}{suffix}" for name in ("counts", "labels", "moods", "pairs")}
    portrait.counts_plot(paths["counts"], gathered)
    portrait.labels_plot(paths["labels"], gathered)
    truth = {"ann": [(1_700_000_000, 0.4), (1_702_000_000, 0.6)]}
    portrait.moods_plot(paths["moods"], gathered, "salt", truth)
    portrait.pairs_plot(paths["pairs"], gathered)
    return paths


def test_pictures_name_no_owner_and_hold_no_text(tmp_path: Path, gathered: portrait.Portrait) -> None:
    drawn = {name: path.read_text() for name, path in draw_all(tmp_path, gathered, ".svg").items()}
    for name, content in drawn.items():
        assert "secret" not in content, name
        assert not any(f">{owner}<" in content or f"owner {owner}" in content for owner in gathered.sizes), (
            name
        )
    assert drawn["moods"].count("owner ") == 3 and "true mood (sd)" in drawn["moods"]
    assert "38%" in drawn["pairs"].replace(" ", "") and "hinglish" in drawn["counts"]


def test_derived_labels_are_shown_as_such(tmp_path: Path) -> None:
    items = [an_item(n, labels={"congruence": (0.5, 1, float("nan"))}) for n in range(3)]
    entries = [Derived(f"i{n}", name, 0.1 * n) for name in ("congruence", "comparator") for n in range(4)]
    gathered = portrait.gather([*items, *entries])
    assert list(gathered.scales["congruence"]) == [0.5] * 3 and not gathered.scales["comparator"]
    assert np.allclose(gathered.derived["comparator"], [0, 0.1, 0.2, 0.3])
    drawn = draw_all(tmp_path, gathered, ".svg")["labels"].read_text()
    assert "congruence (4 derived)" in drawn and "comparator (derived)" in drawn
    assert "n = 7" in drawn and drawn.count("no label") == 5


def test_an_empty_corpus_can_be_drawn(tmp_path: Path) -> None:
    paths = draw_all(tmp_path, portrait.gather([]), ".png")
    assert all(path.stat().st_size > 3000 for path in paths.values())


def coefficient(value: float | None, requirement: float = 0.7) -> dict:
    return {
        "value": value,
        "requirement": requirement,
        "met": None if value is None else value >= requirement,
    }


AGREEMENT = {
    "valence": {
        "kind": "regression",
        "coefficients": {"icc_1": coefficient(0.81), "icc_k": coefficient(0.93), "icc_a1": coefficient(0.8)},
        "ceiling": {"metrics": {"pearson": {"value": 0.951}}},
    },
    "arousal": {
        "kind": "regression",
        "coefficients": {"icc_1": coefficient(None)},
        "ceiling": {"metrics": {}, "reason": "no item has two ratings"},
    },
    "invoked": {
        "kind": "hierarchy",
        "coefficients": {
            "core": {"cohen_kappa": coefficient(0.75), "fleiss_kappa": coefficient(0.74)},
            "nuance": {"cohen_kappa": coefficient(0.61), "krippendorff_alpha": coefficient(-0.1)},
        },
        "ceiling": {"metrics": {"macro_f1_core": {"value": 0.944}}},
    },
}


def test_agreement_is_drawn_for_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "agreement.svg"
    portrait.agreement_plot(path, AGREEMENT)
    drawn = path.read_text()
    for expected in ("valence", "invoked, core", "invoked, nuance", "r 0.951", "macro-F1 0.944", "required"):
        assert expected in drawn, expected
    assert "arousal" not in drawn and "ICC(1)" in drawn
    empty = tmp_path / "empty.svg"
    portrait.agreement_plot(empty, {"arousal": AGREEMENT["arousal"]})
    assert "no item has two ratings" in empty.read_text()
