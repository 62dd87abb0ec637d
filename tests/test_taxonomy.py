"""The taxonomy: paths, labels that stop early, other taxonomies, and broken files refused with their line."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_synthesize import METHODS

from perceive.taxonomy import Taxonomy, TaxonomyError, from_mappings, load_taxonomy, taxonomy_text
from perceive.variables import CORES

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("PERCEIVE_DATA", REPOSITORY.parent / "shared" / "data"))


def test_the_shipped_taxonomy_is_the_contract() -> None:
    taxonomy = load_taxonomy(REPOSITORY / "resources/taxonomy.tsv")
    assert taxonomy.levels == ("core", "nuance", "micro")
    assert [label[0] for label in taxonomy.labels(0)] == list(CORES)
    assert [len(taxonomy.labels(level)) for level in range(3)] == [6, 36, 216]
    assert {len(taxonomy.children(label)) for level in range(2) for label in taxonomy.labels(level)} == {6}
    assert taxonomy.is_valid(("Sad", "Depressed", "Hopeless")) and taxonomy.is_valid(("Sad", "Lonely"))
    tiers = Counter(taxonomy.tiers.values())
    assert set(tiers) == {"A", "B", "C"} and min(tiers.values()) >= 50
    assert taxonomy.tier(("Sad", "Lonely", "Isolated")) in tiers and taxonomy.tier(("Sad", "Lonely")) is None


LEVELS = ("one", "two", "three")


@st.composite
def trees(draw: st.DrawFn) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Levels and paths of a random tree with names of its own for every node."""
    depth = draw(st.integers(1, 3))
    counter = iter(range(10_000))
    paths: list[tuple[str, ...]] = [()]
    for _ in range(depth):
        paths = [(*path, f"n{next(counter)}") for path in paths for _ in range(draw(st.integers(1, 3)))]
    return LEVELS[:depth], draw(st.permutations(paths))


@settings(max_examples=80)
@given(trees())
def test_any_tree_survives_a_file(tmp_path_factory: pytest.TempPathFactory, tree: tuple) -> None:
    levels, paths = tree
    file = tmp_path_factory.mktemp("taxonomy") / "tree.tsv"
    file.write_text(taxonomy_text(levels, paths))
    taxonomy = load_taxonomy(file)
    assert (taxonomy.levels, taxonomy.paths) == (levels, tuple(paths))
    prefixes = {path[:depth] for path in paths for depth in range(1, len(levels) + 1)}
    assert {label for level in range(len(levels)) for label in taxonomy.labels(level)} == prefixes
    for prefix in prefixes:
        assert taxonomy.is_valid(prefix) and taxonomy.parse(" / ".join(prefix)) == prefix
        assert taxonomy.ancestors(prefix) == tuple(prefix[: n + 1] for n in range(len(prefix)))
        assert {(*prefix, child) for child in taxonomy.children(prefix)} == {
            other for other in prefixes if other[:-1] == prefix
        }
    # The last part of one path below another parent is no label.
    for path, other in itertools.pairwise(paths):
        mixed = (*path[:-1], other[-1])
        assert taxonomy.is_valid(mixed) == (mixed in prefixes)
    assert not taxonomy.is_valid(()) and not taxonomy.is_valid((*paths[0], "deeper"))


GOOD = ["core\tnuance\ttier", "Sad\tLonely\tA", "Sad\tHurt\tB", "Angry\tBitter\tC"]


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "", "empty"),
        (1, "tier", "one to 3 different levels"),
        (1, "a\tb\tc\td", "one to 3 different levels"),
        (1, "core\tcore\ttier", "different levels"),
        (1, "tier\tcore\tnuance", "last column"),
        (2, "Sad\tLonely", "2 columns instead of 3"),
        (3, "Sad\t\tB", "no nuance"),
        (3, "\tHurt\tB", "no core"),
        (3, "Sad\tLonely\tB", "the path of line 2 again"),
        (4, "Angry\tLonely\tC", "stands below 'Sad' in line 2"),
        (4, "Hurt\tBitter\tC", "a cycle"),
        (4, "Angry\tSad\tC", "a cycle"),
        (4, "Angry\tBit/ter\tC", "slash"),
        (4, "Angry\tBitter\tD", "tier must be one of A, B, C"),
        (4, "sad\tBitter\tC", "'sad' is 'Sad' in line 2"),
        (4, "Angry\tBit\u2028ter\tC", "control character"),
        (3, "   ", "1 columns instead of 3"),
        (1, "Sad\tJoyless\ttier", "its names stand in the lines below too"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, line: int, text: str, message: str) -> None:
    lines = [*GOOD]
    lines[line - 1] = text
    file = tmp_path / "broken.tsv"
    file.write_text("\n".join(lines if text else []) + "\n", encoding="utf-8")
    with pytest.raises(TaxonomyError, match=re.escape(message)) as error:
        load_taxonomy(file)
    assert f"line {line}:" in str(error.value) or not text


def _faults(names: list[str], level: int, others: list[list[str]]) -> dict[str, list[str]]:
    """What may be wrong with one line: other cells for it."""

    def changed(name: str) -> list[str]:
        return [*names[:level], name, *names[level + 1 :]]

    faults = {
        "slash": changed(f"{names[level]}/x"),
        "control": changed(f"{names[level]}\x07"),
        "too many": [*names, "more"],
        "again": others[0],
        "a level name": changed(LEVELS[level]),
    }
    if len(names) > 1:  # without its only name a line is blank, and blank lines may end a file
        faults["empty"] = changed("")
        faults["too few"] = names[:-1]
        parents = [other for other in others if other[:-1] != names[:-1]]
        if parents:
            faults["two parents"] = [*names[:-1], parents[0][-1]]
        if names[-2] != others[0][0]:
            faults["cycle"] = [*names[:-1], others[0][0]]
    return faults


@settings(max_examples=150)
@given(trees(), st.data())
def test_one_broken_line_in_any_tree_is_named(
    tmp_path_factory: pytest.TempPathFactory, tree: tuple, data: st.DataObject
) -> None:
    levels, paths = tree
    assume(len(paths) > 1)
    place = data.draw(st.integers(1, len(paths) - 1))
    rows = [list(path) for path in paths]
    faults = _faults(rows[place], data.draw(st.integers(0, len(levels) - 1)), rows[:place])
    fault = data.draw(st.sampled_from(sorted(faults)))
    rows[place] = faults[fault]
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    file = tmp_path_factory.mktemp("taxonomy") / "broken.tsv"
    file.write_bytes(end.join("\t".join(row) for row in (levels, *rows)).encode() + end.encode())
    with pytest.raises(TaxonomyError) as error:
        load_taxonomy(file)
    # A name of a level among the names looks like a header that is missing.
    assert f"line {1 if fault == 'a level name' else place + 2}:" in str(error.value)


@settings(max_examples=60)
@given(trees(), st.data())
def test_what_is_valid_is_what_some_path_begins_with(tree: tuple, data: st.DataObject) -> None:
    levels, paths = tree
    taxonomy = Taxonomy(levels, tuple(paths))
    names = sorted({name for path in paths for name in path})
    guesses = st.lists(st.sampled_from([*names, ""]), max_size=4)
    for guess in data.draw(st.lists(guesses | st.sampled_from(paths), max_size=30)):
        expected = len(guess) > 0 and any(path[: len(guess)] == tuple(guess) for path in paths)
        assert taxonomy.is_valid(guess) == expected
        if expected:
            assert taxonomy.parse("/".join(guess)) == tuple(guess)
        else:
            with pytest.raises(ValueError, match=r"unknown|at most"):
                taxonomy.parse("/".join(guess))


def test_a_name_may_stand_directly_below_itself_and_nowhere_else(tmp_path: Path) -> None:
    file = tmp_path / "chain.tsv"
    file.write_text("a\tb\tc\njoy\tjoy\tjoy\njoy\tjoy\tpride\ncalm\trest\trest\n")
    taxonomy = load_taxonomy(file)
    assert taxonomy.children(("joy", "joy")) == ("joy", "pride")
    assert taxonomy.parse("calm/rest") == ("calm", "rest")
    file.write_text("a\tb\tc\njoy\tjoy\tjoy\njoy\tpride\tjoy\n")
    with pytest.raises(TaxonomyError, match=r"line 3: 'joy'.*cycle"):
        load_taxonomy(file)


def test_two_names_that_contain_each_other_are_a_cycle(tmp_path: Path) -> None:
    file = tmp_path / "cycle.tsv"
    file.write_text("core\tnuance\nSad\tAngry\nAngry\tSad\n")
    with pytest.raises(TaxonomyError, match=r"line 3.*cycle"):
        load_taxonomy(file)


def test_bytes_that_are_no_text_name_their_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.tsv"
    file.write_bytes("core\nSad\nBlasé\n".encode("latin-1"))
    with pytest.raises(TaxonomyError, match="line 3: not UTF-8"):
        load_taxonomy(file)
    with pytest.raises(TaxonomyError, match="does not exist"):
        load_taxonomy(tmp_path / "nowhere.tsv")
    with pytest.raises(TaxonomyError, match="no path"):
        (tmp_path / "header.tsv").write_text("core\n")
        load_taxonomy(tmp_path / "header.tsv")


def test_a_file_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    file = tmp_path / "saved.tsv"
    file.write_bytes("\ufeffA\ttier\r\nSad\tA\r\n Blasé \tB\r\n\r\n".encode())
    taxonomy = load_taxonomy(file)
    assert (taxonomy.levels, taxonomy.paths) == (("A",), (("Sad",), ("Blasé",)))
    assert (taxonomy.tier(["Sad"]), taxonomy.tier(["Blasé"])) == ("A", "B")


def test_an_unknown_name_is_never_repeated() -> None:
    taxonomy = load_taxonomy(REPOSITORY / "resources/taxonomy.tsv")
    with pytest.raises(ValueError, match="unknown nuance below Sad: Lonely") as error:
        taxonomy.parse("Sad/my secret")
    assert "secret" not in str(error.value)
    with pytest.raises(ValueError, match="at most 3 levels"):
        taxonomy.parse("Sad/Lonely/Isolated/secret")


@pytest.mark.skipif(not (DATA / "goemotions").exists(), reason="GoEmotions is not at PERCEIVE_DATA")
def test_goemotions_is_a_taxonomy(tmp_path: Path) -> None:
    folder = DATA / "goemotions"
    fine = (folder / "labels.txt").read_text().split()
    coarser = [json.loads((folder / f"{name}_mapping.json").read_text()) for name in ("sentiment", "ekman")]
    paths = from_mappings(fine, *coarser, undivided=["neutral"])
    (tmp_path / "go.tsv").write_text(taxonomy_text(("sentiment", "ekman", "emotion"), paths))
    taxonomy = load_taxonomy(tmp_path / "go.tsv")
    assert [len(taxonomy.labels(level)) for level in range(3)] == [4, 7, 28]
    assert taxonomy.is_valid(("positive", "joy", "joy")) and taxonomy.is_valid(("neutral",) * 3)
    assert taxonomy.tier(paths[0]) is None
    with pytest.raises(TaxonomyError, match="'neutral' is in no group of level 1"):
        from_mappings(fine, *coarser)
    assert len(paths) == len(fine) and {path[-1] for path in paths} == set(fine)
    shipped = REPOSITORY / "resources/taxonomy_goemotions.tsv"
    assert shipped.read_text() == taxonomy_text(("sentiment", "ekman", "emotion"), paths)


def test_the_shipped_taxonomy_of_goemotions_has_its_published_levels() -> None:
    taxonomy = load_taxonomy(REPOSITORY / "resources/taxonomy_goemotions.tsv")
    assert taxonomy.levels == ("sentiment", "ekman", "emotion") and not taxonomy.tiers
    assert [len(taxonomy.labels(level)) for level in range(3)] == [4, 7, 28]
    assert taxonomy.children(()) == ("positive", "negative", "ambiguous", "neutral")


def test_groups_must_name_each_finest_name_once() -> None:
    fine = ["joy", "fear", "calm"]
    # A group of its own is only for a name that no group lists.
    assert from_mappings(["joy", "calm"], {"good": ["joy"]}, undivided=fine[::2]) == [
        ("good", "joy"),
        ("calm", "calm"),
    ]
    assert from_mappings(fine, {"good": ["calm", "joy"], "bad": ["fear"]}) == [
        ("good", "joy"),
        ("good", "calm"),
        ("bad", "fear"),
    ]
    with pytest.raises(TaxonomyError, match=r"'joy' is in the groups good, bad of level 1"):
        from_mappings(fine, {"good": ["calm", "joy"], "bad": ["fear", "joy"]})
    with pytest.raises(TaxonomyError, match=r"no names of the finest level: Fear, rage"):
        from_mappings(fine, {"good": ["calm", "joy"], "bad": ["fear", "Fear"]}, undivided=["rage"])


def test_each_emotion_has_words_and_none_names_a_method() -> None:
    taxonomy = load_taxonomy(REPOSITORY / "resources/taxonomy.tsv")
    with open(REPOSITORY / "resources/synthesis/emotions.tsv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    languages = ("en", "hinglish")
    states = Counter(
        (row["core"], row["nuance"], row["micro"], row["language"]) for row in rows if row["kind"] == "state"
    )
    cues = Counter((row["core"], row["nuance"], row["language"]) for row in rows if row["kind"] == "cue")
    assert set(states) == {(*path, language) for path in taxonomy.paths for language in languages}
    assert set(cues) == {(*label, language) for label in taxonomy.labels(1) for language in languages}
    assert min(states.values()) >= 2
    least = {"en": 4, "hinglish": 3}
    assert all(count >= least[cue[-1]] for cue, count in cues.items())
    texts = Counter((row["language"], row["text"]) for row in rows)
    assert [text for text, count in texts.items() if count > 1] == []
    for number, row in enumerate(rows, start=2):
        assert METHODS.search(row["text"]) is None, f"emotions.tsv, line {number}"
        assert 0 < float(row["valence"]) < 1 and 0 < float(row["arousal"]) < 1
