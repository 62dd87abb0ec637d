"""The phrases that synthetic reflections are written with: rated clauses with alternatives and slots.

``phrases.tsv`` holds one phrase a line: its kind (event, detail, feeling word, body sensation, thought,
stance, opener, context, expletive, emoji, slot), the category or slot it belongs to (``*``: any), its
language, and its rating on the scales 0..1. ``[a|b]`` in a text chooses one of several wordings of about
equal rating, ``{slot}`` is filled from the slot's list. Feeling words are combined with modifiers
(intensifiers, diminishers, negation), whose valence is a factor on the distance from neutral and whose
arousal is added.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

DEFAULT_FOLDER: Final = Path(__file__).resolve().parents[3] / "resources" / "synthesis"
LANGUAGES: Final = ("en", "hinglish")
#: How a writer types: English in full, with apostrophes, or without; Hinglish verbs agree with the writer.
VOICES: Final = {"en": ("full", "contracted", "bare"), "hinglish": ("m", "f")}

Uniform = Callable[[], float]
_COLUMNS = ("kind", "name", "language", "valence", "arousal", "willingness", "text")
_KINDS = frozenset(
    {"slot", "event", "detail", "adj", "modifier", "frame", "frameneg", "body", "thought", "stance", "opener",
     "context", "expletive", "emoji", "ironic"}
)  # fmt: skip
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
    willingness: float
    topic: str  # phrases of one topic do not meet in a text


class Pool:
    """Phrases that can be looked up by rating: the nearest to a state, by a grid that fills on demand."""

    def __init__(self, phrases: list[Phrase], *, by_willingness: bool = False, least: int = 4) -> None:
        self.phrases = tuple(phrases)
        self._by_willingness = by_willingness
        self._least = least
        self._ratings = np.array([(p.valence, p.arousal, p.willingness) for p in phrases]).reshape(-1, 3).T
        self._cells: dict[int, tuple[Phrase, ...]] = {}

    def __len__(self) -> int:
        return len(self.phrases)

    def pick(self, uniform: Uniform) -> Phrase:
        """Any phrase."""
        return self.phrases[int(uniform() * len(self.phrases))]

    def near(self, uniform: Uniform, valence: float, arousal: float) -> Phrase:
        """One of the phrases whose valence and arousal are closest to the given ones."""
        return self._draw(
            uniform, int(valence * (_ROW_CELLS - 1) + 0.5), int(arousal * (_COLUMN_CELLS - 1) + 0.5)
        )

    def near_willingness(self, uniform: Uniform, willingness: float) -> Phrase:
        """One of the phrases whose willingness is closest to the given one."""
        return self._draw(uniform, int(willingness * (_ROW_CELLS - 1) + 0.5), 0)

    def _draw(self, uniform: Uniform, row: int, column: int) -> Phrase:
        key = row * _COLUMN_CELLS + column
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._nearest(row / (_ROW_CELLS - 1), column / (_COLUMN_CELLS - 1))
        return cell[int(uniform() * len(cell))]

    def _nearest(self, first: float, second: float) -> tuple[Phrase, ...]:
        valence, arousal, willingness = self._ratings
        if self._by_willingness:
            distance = np.abs(willingness - first)
        else:
            # Arousal counts half: readers agree less on it, and a tight match on both would leave no choice.
            distance = np.abs(valence - first) + 0.5 * np.abs(arousal - second)
        order = np.argsort(distance, kind="stable")
        count = max(self._least, int((distance <= 0.055).sum()))
        return tuple(self.phrases[i] for i in order[:count])


@dataclass
class Voice:
    """All phrases of one language in one writer's way of typing."""

    slots: dict[str, tuple[Compiled, ...]] = field(default_factory=dict)
    pools: dict[tuple[str, str], Pool] = field(default_factory=dict)

    def pool(self, kind: str, category: str = "*") -> Pool:
        """The phrases of a kind for a category (the category's own and the general ones)."""
        return self.pools.get((kind, category)) or self.pools[kind, "*"]

    def render(self, parts: Compiled, uniform: Uniform, filled: dict[str, str]) -> str:
        """Write a compiled text; ``filled`` remembers who and what was named: a text stays coherent."""
        out: list[str] = []
        for part in parts:
            if isinstance(part, str):
                out.append(part)
            elif part[0] == "alt":  # type: ignore[index]
                choices = part[1]  # type: ignore[index]
                out.append(self.render(choices[int(uniform() * len(choices))], uniform, filled))
            else:
                out.append(self._fill(part[1], uniform, filled))  # type: ignore[index]
        return "".join(out)

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


@dataclass(frozen=True)
class Phrasebook:
    """The voices of each language and the spelling variants."""

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
    """Read ``phrases.tsv`` and ``spelling.tsv``.

    Raises
    ------
    PhraseError
        If a file is missing or a line is malformed.
    """
    rows = _read_rows(folder / "phrases.tsv")
    known = {name for _, (kind, name, *_) in rows if kind == "event"}
    voices = {
        language: {
            voice: _build_voice(folder / "phrases.tsv", rows, language, voice, known)
            for voice in VOICES[language]
        }
        for language in LANGUAGES
    }
    return Phrasebook(voices, _read_variants(folder / "spelling.tsv"), tuple(sorted(known)))


_Row = tuple[str, str, str, float, float, float, str]


def _open(path: Path) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            return list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    except FileNotFoundError:
        raise PhraseError(f"{path} does not exist; restore it or name the folder that holds it") from None


def _read_rows(path: Path) -> list[tuple[int, _Row]]:
    table = _open(path)
    if not table or tuple(table[0]) != _COLUMNS:
        raise PhraseError(f"{path}: the first line must name the columns {', '.join(_COLUMNS)}")
    rows: list[tuple[int, _Row]] = []
    for number, cells in enumerate(table[1:], start=2):
        if len(cells) != len(_COLUMNS):
            raise PhraseError(f"{path}, line {number}: {len(cells)} columns instead of {len(_COLUMNS)}")
        kind, name, language, *ratings, text = cells
        if kind not in _KINDS:
            raise PhraseError(f"{path}, line {number}: kind must be one of {', '.join(sorted(_KINDS))}")
        if language not in (*LANGUAGES, "*"):
            raise PhraseError(f"{path}, line {number}: language must be en, hinglish or *")
        try:
            valence, arousal, willingness = (float(cell) if cell else 0.5 for cell in ratings)
        except ValueError:
            raise PhraseError(f"{path}, line {number}: ratings must be numbers or empty") from None
        if kind != "modifier" and not all(0 <= rating <= 1 for rating in (valence, arousal, willingness)):
            raise PhraseError(f"{path}, line {number}: ratings must lie in 0..1")
        rows.append((number, (kind, name, language, valence, arousal, willingness, text)))
    return rows


def _read_variants(path: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    variants: dict[str, dict[str, tuple[str, ...]]] = {language: {} for language in LANGUAGES}
    for number, cells in enumerate(_open(path)[1:], start=2):
        if len(cells) != 3 or cells[0] not in variants:
            raise PhraseError(
                f"{path}, line {number}: expected language, word and variants separated by tabs"
            )
        variants[cells[0]][cells[1]] = tuple(cells[2].split("|"))
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
        if kind in ("adj", "body", "stance"):
            text = re.sub(r"\w+", lambda match: _FEMININE.get(match[0], match[0]), text)
    return text


def _build_voice(
    path: Path, rows: list[tuple[int, _Row]], language: str, voice: str, known: set[str]
) -> Voice:
    built = Voice()
    grouped: dict[tuple[str, str], list[Phrase]] = {}
    words: dict[str, list[tuple[str, float, float]]] = {
        "adj": [],
        "modifier": [],
        "frame": [],
        "frameneg": [],
    }
    used: dict[str, int] = {}
    for number, (kind, name, of, valence, arousal, willingness, text) in rows:
        if of not in (language, "*"):
            continue
        text = _inflect(text, kind, language, voice)
        if kind in words:
            words[kind].append((text, valence, arousal))
            continue
        # "again" may be left out, so the space before it belongs to it.
        text = re.sub(r"(?<=[\w\]}])\{again\}", " {again}", text)
        try:
            if kind == "slot":
                built.slots[name] = tuple(compile_text(choice) for choice in text.split("|"))
                for choice in built.slots[name]:
                    used.update(dict.fromkeys(slot_names(choice), number))
                continue
            parts = compile_text(text)
        except ValueError as error:
            raise PhraseError(f"{path}, line {number}: {error}") from None
        used.update(dict.fromkeys(slot_names(parts), number))
        grouped.setdefault((kind, name), []).append(Phrase(parts, valence, arousal, willingness, text))
    if "P.m" in built.slots:
        built.slots["P"] = built.slots["P.m"]
    filled_by_writer = {"he", "him", "his"}
    for slot, number in used.items():
        if slot not in built.slots and slot not in filled_by_writer:
            raise PhraseError(
                f"{path}, line {number}: the slot {{{slot}}} has no line of kind slot ({language})"
            )
    for (kind, name), phrases in grouped.items():
        built.pools[kind, name] = Pool(
            phrases,
            by_willingness=kind in ("stance", "opener"),
            least=2 if kind in ("emoji", "ironic", "expletive") else 4,
        )
    built.pools["feeling", "*"] = Pool(_feelings(words))
    for kind in ("body", "thought", "stance", "opener", "context", "expletive", "emoji", "ironic"):
        if (kind, "*") not in built.pools:
            raise PhraseError(f"{path}: no phrase of kind {kind} for any category ({language})")
    for category in known:
        for kind in ("event", "detail"):
            if (kind, category) not in built.pools:
                raise PhraseError(f"{path}: no phrase of kind {kind} for {category} ({language})")
    return built


def _feelings(words: dict[str, list[tuple[str, float, float]]]) -> list[Phrase]:
    """Every sensible combination of a feeling word with a modifier, rated; ``{x}`` of the frame takes it."""
    frames = tuple(text.split("{x}") for text, _, _ in words["frame"])
    negated = tuple(text.split("{x}") for text, _, _ in words["frameneg"])
    feelings = []
    for adjective, valence, arousal in words["adj"]:
        distance = valence - 0.5
        for modifier, factor, shift in words["modifier"]:
            size = abs(distance)
            if (
                (factor < 0 and size < 0.12)  # "not okay" would be rated by idiom, not by rule
                or (factor < 0 and (distance < 0) and shift < -0.05 and size > 0.4)
                or (0 < factor < 0.7 and size > 0.34)  # nobody is "a bit devastated"
                or (factor > 1.05 and not 0.11 < size <= 0.38)  # "very okay", "very shattered"
                or (factor > 1.3 and size < 0.2)
            ):
                continue
            if factor < 0 and distance < 0:
                factor *= 0.55  # "not sad" is closer to neutral than "not happy"
            rating = min(max(0.5 + distance * factor, 0.02), 0.98)
            energy = min(max(arousal + shift, 0.03), 0.97)
            plain = modifier.removeprefix("NEG").strip()
            filler = f"{plain} {adjective}".strip()
            chosen = negated if modifier.startswith("NEG") else frames
            alternatives = tuple(
                (compiled if (compiled := compile_text(f"{before}{filler}{after}")) else ())
                for before, after in chosen
            )
            feelings.append(Phrase((("alt", alternatives),), rating, energy, 0.5, adjective))
    return feelings
