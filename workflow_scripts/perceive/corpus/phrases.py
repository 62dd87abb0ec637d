"""The phrases that synthetic reflections are written with: rated clauses with alternatives and slots.

``phrases.tsv`` holds one phrase a line: its kind, the name of what it belongs to (the category of an event or
detail, the core of a body clause, the slot; ``*``: any), its language, and its ratings on 0..1: valence and
arousal, or one level (the openness of a stance or opener, how far a departure is from the usual).
``[a|b]`` in a text chooses one of several wordings of about equal rating, ``{slot}`` is filled from the
slot's list. A frame takes a feeling word with its modifier as ``{x}``; a modifier's valence is a factor on
the distance from neutral, its arousal is added.

``emotions.tsv`` holds the words of the emotions: each micro's ``state`` (a feeling word that fits into the
frames) with its valence and arousal, and each nuance's ``cue`` (a clause that shows it without naming it).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from perceive.variables import CORES

DEFAULT_FOLDER: Final = Path(__file__).resolve().parents[3] / "resources" / "synthesis"
LANGUAGES: Final = ("en", "hinglish")
#: How a writer types: English in full, with apostrophes, or without; Hinglish verbs agree with the writer.
VOICES: Final = {"en": ("full", "contracted", "bare"), "hinglish": ("m", "f")}

Uniform = Callable[[], float]
_COLUMNS = ("kind", "name", "language", "valence", "arousal", "level", "text")
_EMOTION_COLUMNS = ("core", "nuance", "micro", "kind", "language", "valence", "arousal", "text")
_LEVELLED = frozenset({"stance", "opener", "departure"})
_FRAMES = frozenset({"frame", "frameneg", "mask", "irony", "reveal"})
_KINDS = _LEVELLED | _FRAMES | {
    "slot", "event", "detail", "modifier", "body", "mood", "context", "expletive", "emoji", "ironic",
}  # fmt: skip
_FEW = frozenset({"emoji", "ironic", "expletive", "modifier"})
_ROW_CELLS, _COLUMN_CELLS = 25, 12

_CONTRACTIONS = {
    "I am": "I'm", "I have been": "I've been", "I will": "I'll", "I would": "I'd", "do not": "don't",
    "does not": "doesn't", "did not": "didn't", "cannot": "can't", "can not": "can't", "will not": "won't",
    "would not": "wouldn't", "is not": "isn't", "was not": "wasn't", "has not": "hasn't", "had not": "hadn't",
    "it is": "it's", "let us": "let's", "that is": "that's", "what is": "what's", "there is": "there's",
    "they will": "they'll", "it was not": "it wasn't",
}  # fmt: skip
_CONTRACTION = re.compile(r"\b(" + "|".join(sorted(_CONTRACTIONS, key=len, reverse=True)) + r")\b(?= \w)")
_AGREEMENT = {
    "m": {"raha": "raha", "gaya": "gaya", "ta": "ta", "tha": "tha"},
    "f": {"raha": "rahi", "gaya": "gayi", "ta": "ti", "tha": "thi"},
}
_FEMININE = {
    "hua": "hui", "thaka": "thaki", "toota": "tooti", "dara": "dari", "haara": "haari", "nichoda": "nichodi",
    "akela": "akeli", "halka": "halki", "chidchida": "chidchidi", "chuka": "chuki", "wala": "wali",
    "roya": "royi", "hasa": "hasi", "leta": "leti",
}  # fmt: skip
_FIRST_PERSON = re.compile(r"\b(\w+)unga\b")


class PhraseError(ValueError):
    """A phrase file cannot be used; the message names the file, the line and the remedy."""


# A compiled text is a tuple of parts: a str, ("slot", name) or ("alt", (text, ...)).
Compiled = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Phrase:
    """One rated phrase; the ratings are on 0..1, and .5 where the kind has none."""

    parts: Compiled
    valence: float
    arousal: float
    level: float
    topic: str  # phrases of one topic do not meet in a text


@dataclass(frozen=True, slots=True)
class Emotion:
    """One cell of the taxonomy with its place on the scales."""

    core: str
    nuance: str
    micro: str
    valence: float
    arousal: float
    nuance_path: str  # core/nuance
    path: str  # core/nuance/micro


class Pool:
    """Rated things that can be looked up: the nearest to a rating, by a grid that fills on demand.

    Parameters
    ----------
    members
        Things with a valence and an arousal, or (``by_level``) a level, on 0..1.
    least
        How many of the nearest are drawn from, if no more lie within .055.
    """

    def __init__(self, members: Sequence[Any], *, by_level: bool = False, least: int = 4) -> None:
        self.members = tuple(members)
        self._by_level = by_level
        self._least = least
        self._first = np.array([m.level if by_level else m.valence for m in members])
        self._second = np.array([0.0 if by_level else m.arousal for m in members])
        self._cells: dict[int, tuple[Any, ...]] = {}

    def __len__(self) -> int:
        return len(self.members)

    def pick(self, uniform: Uniform) -> Any:
        """Any member."""
        return self.members[int(uniform() * len(self.members))]

    def near(self, uniform: Uniform, first: float, second: float = 0.0) -> Any:
        """One of the members closest to a valence and an arousal, or to a level."""
        row, column = int(first * (_ROW_CELLS - 1) + 0.5), int(second * (_COLUMN_CELLS - 1) + 0.5)
        key = row * _COLUMN_CELLS + column
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._nearest(row / (_ROW_CELLS - 1), column / (_COLUMN_CELLS - 1))
        return cell[int(uniform() * len(cell))]

    def _nearest(self, first: float, second: float) -> tuple[Any, ...]:
        # Arousal counts half: readers agree less on it, and a tight match on both would leave no choice.
        distance = np.abs(self._first - first)
        if not self._by_level:
            distance = distance + 0.5 * np.abs(self._second - second)
        order = np.argsort(distance, kind="stable")
        count = max(self._least, int((distance <= 0.055).sum()))
        return tuple(self.members[i] for i in order[:count])


@dataclass
class Voice:
    """All phrases of one language in one writer's way of typing."""

    slots: dict[str, tuple[Compiled, ...]] = field(default_factory=dict)
    pools: dict[tuple[str, str], Pool] = field(default_factory=dict)
    cues: dict[str, tuple[Compiled, ...]] = field(default_factory=dict)  # by core/nuance
    states: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by core/nuance/micro

    def pool(self, kind: str, name: str = "*") -> Pool:
        """The phrases of a kind for a category or core."""
        return self.pools[kind, name]

    def render(self, parts: Compiled, uniform: Uniform, filled: dict[str, str]) -> str:
        """Write a compiled text; ``filled`` remembers who and what was named: a text stays coherent."""
        out = ""
        for part in parts:
            if isinstance(part, str):
                out += part
            elif part[0] == "alt":  # type: ignore[index]
                choices = part[1]  # type: ignore[index]
                out += self.render(choices[int(uniform() * len(choices))], uniform, filled)
            else:
                out += self._fill(part[1], uniform, filled)  # type: ignore[index]
        return out

    def _fill(self, name: str, uniform: Uniform, filled: dict[str, str]) -> str:
        known = filled.get(name)
        if known is not None:
            return known
        choices = self.slots[filled["P."] if name == "P" else name]
        value = self.render(choices[int(uniform() * len(choices))], uniform, filled)
        # A text names the time and "again" once: repeating them in each clause reads like a form.
        filled[name] = "" if name in _ONCE else value
        return value


_ONCE = frozenset({"when", "again"})
#: Slots that the writer of a text fills: pronouns, and the feeling word of a frame.
_GIVEN = frozenset({"he", "him", "his", "x"})


@dataclass(frozen=True)
class Phrasebook:
    """The emotions, the voices of each language and the spelling variants."""

    emotions: tuple[Emotion, ...]
    voices: dict[str, dict[str, Voice]]
    variants: dict[str, dict[str, tuple[str, ...]]]
    categories: tuple[str, ...]


def compile_text(text: str) -> Compiled:
    """Parse ``[a|b]`` alternatives (they nest) and ``{slot}`` marks.

    Raises
    ------
    ValueError
        If brackets do not match.
    """
    parts, end = _parse(text, 0, closing=False)
    if end != len(text):
        raise ValueError("unexpected ']' or '|' outside brackets")
    return parts


def _parse(text: str, position: int, closing: bool) -> tuple[Compiled, int]:
    parts: list[object] = []
    plain: list[str] = []

    def flush() -> None:
        if plain:
            parts.append("".join(plain))
            plain.clear()

    while position < len(text):
        character = text[position]
        if character == "[":
            flush()
            choices: list[Compiled] = []
            while True:
                choice, position = _parse(text, position + 1, closing=True)
                choices.append(choice)
                if position >= len(text):
                    raise ValueError("'[' is not closed")
                if text[position] == "]":
                    break
            parts.append(("alt", tuple(choices)))
        elif character == "{":
            flush()
            end = text.find("}", position)
            if end < 0:
                raise ValueError("'{' is not closed")
            parts.append(("slot", text[position + 1 : end]))
            position = end
        elif character in "]|":
            if not closing:
                raise ValueError("unexpected ']' or '|' outside brackets")
            break
        else:
            plain.append(character)
        position += 1
    flush()
    return tuple(parts), position


def slot_names(parts: Compiled) -> set[str]:
    """The slots that a compiled text uses."""
    names: set[str] = set()
    for part in parts:
        if isinstance(part, tuple):
            if part[0] == "slot":
                names.add(part[1])
            else:
                for choice in part[1]:
                    names |= slot_names(choice)
    return names


@lru_cache(maxsize=4)
def load_phrasebook(folder: Path = DEFAULT_FOLDER) -> Phrasebook:
    """Read ``phrases.tsv``, ``emotions.tsv`` and ``spelling.tsv``.

    Raises
    ------
    PhraseError
        If a file is missing or a line is malformed.
    """
    rows = _read_rows(folder / "phrases.tsv")
    emotions, words = _read_emotions(folder / "emotions.tsv")
    known = {name for _, (kind, name, *_) in rows if kind == "event"}
    voices = {
        language: {
            voice: _build_voice(folder, rows, emotions, words, language, voice, known)
            for voice in VOICES[language]
        }
        for language in LANGUAGES
    }
    return Phrasebook(emotions, voices, _read_variants(folder / "spelling.tsv"), tuple(sorted(known)))


_Row = tuple[str, str, str, float, float, float, str]
_Word = tuple[str, str, str, str]  # kind, path, language, text


def _open(path: Path, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Lines of a table with their numbers, without header, blank lines and comments (#)."""
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            table = list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    except FileNotFoundError:
        raise PhraseError(f"{path} does not exist; restore it or name the folder that holds it") from None
    lines = [(n, cells) for n, cells in enumerate(table, 1) if cells and not cells[0].startswith("#")]
    if not lines or lines[0][1] != list(columns):
        raise PhraseError(f"{path}: the first line must name the columns {', '.join(columns)}")
    for number, cells in lines[1:]:
        if len(cells) != len(columns):
            raise PhraseError(f"{path}, line {number}: {len(cells)} columns instead of {len(columns)}")
    return lines[1:]


def _ratings(path: Path, number: int, cells: Iterable[str], *, bounded: bool = True) -> list[float]:
    try:
        ratings = [float(cell) if cell else 0.5 for cell in cells]
    except ValueError:
        raise PhraseError(f"{path}, line {number}: ratings must be numbers or empty") from None
    if bounded and not all(0 <= rating <= 1 for rating in ratings):
        raise PhraseError(f"{path}, line {number}: ratings must lie in 0..1")
    return ratings


def _read_rows(path: Path) -> list[tuple[int, _Row]]:
    rows: list[tuple[int, _Row]] = []
    for number, (kind, name, language, *cells, text) in _open(path, _COLUMNS):
        if kind not in _KINDS:
            raise PhraseError(f"{path}, line {number}: kind must be one of {', '.join(sorted(_KINDS))}")
        if language not in (*LANGUAGES, "*"):
            raise PhraseError(f"{path}, line {number}: language must be en, hinglish or *")
        valence, arousal, level = _ratings(path, number, cells, bounded=kind != "modifier")
        rows.append((number, (kind, name, language, valence, arousal, level, text)))
    return rows


def _read_emotions(path: Path) -> tuple[tuple[Emotion, ...], list[tuple[int, _Word]]]:
    """The emotions in the order of the file, and their words."""
    emotions: dict[str, Emotion] = {}
    words: list[tuple[int, _Word]] = []
    for number, (core, nuance, micro, kind, language, *cells, text) in _open(path, _EMOTION_COLUMNS):
        if kind not in ("state", "cue"):
            raise PhraseError(f"{path}, line {number}: kind must be state or cue")
        if core not in CORES:
            raise PhraseError(f"{path}, line {number}: core must be one of {', '.join(CORES)}")
        if not nuance or (kind == "state") != bool(micro):
            raise PhraseError(f"{path}, line {number}: a state belongs to a micro, a cue to a nuance")
        if language not in LANGUAGES:
            raise PhraseError(f"{path}, line {number}: language must be en or hinglish")
        valence, arousal = _ratings(path, number, cells)
        name = f"{core}/{nuance}"
        if micro:
            nuance_path, name = name, f"{name}/{micro}"
            emotions.setdefault(name, Emotion(core, nuance, micro, valence, arousal, nuance_path, name))
        words.append((number, (kind, name, language, text)))
    return tuple(emotions.values()), words


def _read_variants(path: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    variants: dict[str, dict[str, tuple[str, ...]]] = {language: {} for language in LANGUAGES}
    for number, (language, word, text) in _open(path, ("language", "word", "variants")):
        if language not in variants:
            raise PhraseError(f"{path}, line {number}: language must be en or hinglish")
        variants[language][word] = tuple(text.split("|"))
    return variants


def _inflect(text: str, kind: str, language: str, voice: str) -> str:
    """Fit a phrase to the writer's way of typing, before it is compiled."""
    if language == "en":
        if voice == "full":
            return text
        text = _CONTRACTION.sub(lambda match: _CONTRACTIONS[match[1]], text)
        return text.replace("'", "") if voice == "bare" else text
    for slot, form in _AGREEMENT[voice].items():
        text = text.replace("{" + slot + "}", form)
    if voice == "f":
        text = _FIRST_PERSON.sub(r"\1ungi", text)
        if kind in ("state", "body", "stance"):
            text = re.sub(r"\w+", lambda match: _FEMININE.get(match[0], match[0]), text)
    return text


def _build_voice(
    folder: Path,
    rows: list[tuple[int, _Row]],
    emotions: tuple[Emotion, ...],
    words: list[tuple[int, _Word]],
    language: str,
    voice: str,
    categories: set[str],
) -> Voice:
    built = Voice()
    used: dict[str, str] = {}

    def compiled(path: Path, number: int, text: str) -> Compiled:
        # "again" may be left out, so the space before it belongs to it.
        text = re.sub(r"(?<=[\w\]}])\{again\}", " {again}", text)
        try:
            parts = compile_text(text)
        except ValueError as error:
            raise PhraseError(f"{path}, line {number}: {error}") from None
        used.update(dict.fromkeys(slot_names(parts), f"{path}, line {number}"))
        return parts

    path = folder / "phrases.tsv"
    grouped: dict[tuple[str, str], list[Phrase]] = {}
    for number, (kind, name, of, valence, arousal, level, text) in rows:
        if of not in (language, "*"):
            continue
        text = _inflect(text, kind, language, voice)
        if kind == "slot":
            built.slots[name] = tuple(compiled(path, number, choice) for choice in text.split("|"))
            continue
        phrase = Phrase(compiled(path, number, text), valence, arousal, level, text)
        grouped.setdefault((kind, name), []).append(phrase)
    for (kind, name), phrases in grouped.items():
        built.pools[kind, name] = Pool(
            phrases, by_level=kind in _LEVELLED, least=2 if kind in _FEW else 1 if kind == "mood" else 3
        )

    path = folder / "emotions.tsv"
    cues: dict[str, list[Compiled]] = {}
    states: dict[str, list[str]] = {}
    for number, (kind, emotion, of, text) in words:
        if of == language:
            text = _inflect(text, kind, language, voice)
            if kind == "cue":
                cues.setdefault(emotion, []).append(compiled(path, number, text))
            else:
                states.setdefault(emotion, []).append(text)
    for feeling in emotions:
        if feeling.nuance_path not in cues:
            raise PhraseError(f"{path}: no cue for {feeling.nuance_path} ({language}); add a line")
        if feeling.path not in states:
            raise PhraseError(f"{path}: no state for {feeling.path} ({language}); add a line")
    built.cues = {name: tuple(texts) for name, texts in cues.items()}
    built.states = {name: tuple(texts) for name, texts in states.items()}

    for slot, place in used.items():
        if slot not in built.slots and slot not in _GIVEN and slot != "P":
            raise PhraseError(f"{place}: the slot {{{slot}}} has no line of kind slot ({language})")
    needed = {"body": CORES, "event": categories, "detail": categories}
    for kind in sorted(_KINDS - {"slot"}):
        for name in needed.get(kind, ("*",)):
            if (kind, name) not in built.pools:
                raise PhraseError(
                    f"{folder / 'phrases.tsv'}: no phrase of kind {kind} for {name} ({language}); add a line"
                )
    return built
