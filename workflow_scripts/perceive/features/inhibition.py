"""Four cues of inhibition: what people do when they hold back or mask what they feel.

What an event invoked and what the text expresses differ where the writer restrains or disguises it; the cues
tell the model of the expressed emotion where to expect that. They are for English and romanised Hindi; like
the lexical features each one is a pure function of (text, language), and training and serving call the same
code.

The cues
--------
hedges
    The diminishers of the lexical features ("kind of", "thoda", "shayad"), and further words and phrases that
    hedge or make light of what is said ("maybe", "I guess", "no big deal", "lagta hai").
negations
    The negations of the lexical features.
emoji_against_words
    0..1: how far the valence of the emoji contradicts that of the words: the smaller of their absolute values
    where their signs differ, else 0 (also where there are no emoji, or no words of feeling). It grows with
    both of them: neither a mild word nor a mild emoji is a strong contradiction.
sarcasm_marks
    Count of phrases ("yeah right", "wah"), tags ("/s"), emoji (🙄) and scare quotes: one or two words of
    pleasant meaning, quoted without punctuation (which would be somebody's speech).

A row of the same emoji is one mark, as it is one affect word. Words and phrases are counted once each, the
longest match first; a phrase lies within a sentence, and commas in it do not matter ("yeah, right").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import emoji
import numpy as np

from perceive.features.lexical import (
    _LENGTHENED,
    _SENTENCE_END,
    _SPACED_CONTRACTION,
    FEATURES,
    LANGUAGES,
    LexicalExtractor,
    _forms,
    _read_rows,
)

CUES: tuple[str, ...] = ("hedges", "negations", "emoji_against_words", "sarcasm_marks")
KINDS: tuple[str, ...] = ("hedge", "sarcasm")

_VALENCE = FEATURES.index("lex_valence")
_DIMINISHERS, _NEGATIONS = FEATURES.index("diminishers"), FEATURES.index("negations")
_HEDGES, _NEGATED, _AGAINST, _SARCASM = range(len(CUES))
_COLUMNS = {"hedge": _HEDGES, "sarcasm": _SARCASM}

# Every emoji holds one of them. In a whole text a set finds them a hundred times faster than a pattern does.
_EMOJI_CHARACTERS = frozenset(
    char for sequence in emoji.EMOJI_DATA for char in sequence if not char.isascii()
)
_WORD_MAX = 24  # longer ones are no words
_CHUNK = re.compile(r"\S+")
# A word with its tag ("/s", "#not"), or a mark that ends a clause. A slash inside "and/or" is no tag.
_PIECES = re.compile(r"((?:(?<![^\s(\[])[/#])?[^\W_]+(?:['’`][^\W_]+)*)|[,.;:!?()…।–—\n]+")
_APOSTROPHES = str.maketrans("", "", "'’`")
_FORM = re.compile(r"(\.?)([/#]?[a-z0-9]+(?:_[a-z0-9]+)*)(\.?)")
# One or two words in quotation marks; after a letter, a single one would be an apostrophe.
_QUOTED = re.compile(
    r"(?<!\w)(?:"
    + "|".join(
        rf"{opening}([^\W_]{{2,24}}(?:[ -][^\W_]{{2,24}})?){closing}"
        for opening, closing in [('"', '"'), ("“", "”"), ("'", "'"), ("‘", "’"), ("«", "»")]
    )
    + r")(?!\w)"
)


class _Phrase(NamedTuple):
    """A form of the list: its words, its column, and whether a clause must begin before or end after it."""

    words: tuple[str, ...]
    column: int
    begins: bool
    ends: bool


class _Marks(NamedTuple):
    """The forms that count in one language; the phrases by their first word, the longest first."""

    phrases: dict[str, list[_Phrase]]
    words: frozenset[str]
    emoji: dict[str, int]


def _bare(sequence: str) -> str:
    """An emoji without the request to draw it in colours, which some keyboards omit."""
    return sequence.replace("\ufe0f", "")


def _read_marks(path: Path) -> dict[tuple[str, str], list[tuple[int, str]]]:
    """Read the list: (language, kind) to the forms, each with its line."""
    # English forms count in Hinglish texts too, so a form may be in the list once only.
    seen: dict[str, int] = {}
    marks: dict[tuple[str, str], list[tuple[int, str]]] = {
        (language, kind): [] for language in LANGUAGES for kind in KINDS
    }
    for number, (language, kind, cell) in _read_rows(path, ("language", "kind", "forms")):
        if (language, kind) not in marks:
            raise ValueError(
                f"{path}, line {number}: unknown language or kind; see the comment at the top of the file"
            )
        for form in _forms(path, number, cell, seen):
            if not emoji.is_emoji(form) and not _FORM.fullmatch(form):
                raise ValueError(
                    f"{path}, line {number}: form {form!r} would never be found; write lower-case words "
                    "without apostrophes, joined by underscores, or an emoji"
                )
            marks[language, kind].append((number, form))
    if empty := [f"{kind} of {language}" for (language, kind), forms in marks.items() if not forms]:
        raise ValueError(f"{path}: no form for {empty[0]}; restore the list from the repository")
    return marks


def _split_emoji(text: str) -> tuple[str, list[list[str]]]:
    """Take the emoji out of a text.

    Returns
    -------
    words, emoji
        The text with "\\ufffc", the sign for an object, in the place of each row of emoji; and these rows.
    """
    rows: list[list[str]] = []

    def without(chunk: re.Match[str]) -> str:
        found = chunk.group()
        if found.isascii() or _EMOJI_CHARACTERS.isdisjoint(found):
            return found
        parts: list[str] = []
        end = 0
        for match in emoji.emoji_list(found):
            if match["match_start"] > end or not parts:
                parts.append(found[end : match["match_start"]] + "\ufffc")
                rows.append([])
            rows[-1].append(match["emoji"])
            end = match["match_end"]
        return "".join(parts) + found[end:]

    return _CHUNK.sub(without, text), rows


class InhibitionExtractor:
    """Computes `CUES` from texts.

    Parameters
    ----------
    lexicon_dir
        The folder with inhibition.tsv and the lists of `LexicalExtractor`.
    licensed
        Licensed word lists, as for `LexicalExtractor`.
    lexical
        The extractor of these lists, where there is one already.

    Raises
    ------
    FileNotFoundError, ValueError
        With file, line and remedy, when a list is missing or malformed.
    """

    def __init__(
        self,
        lexicon_dir: Path,
        licensed: Mapping[str, Path] | None = None,
        lexical: LexicalExtractor | None = None,
    ) -> None:
        self._lexical = lexical or LexicalExtractor(lexicon_dir, licensed)
        path = Path(lexicon_dir) / "inhibition.tsv"
        marks = _read_marks(path)
        self._refuse_diminishers(path, marks)
        self._marks = {
            language: self._of_language(marks, ["en", language] if language != "en" else ["en"])
            for language in LANGUAGES
        }
        self._spelling = lru_cache(maxsize=50_000)(self._listed_spelling)

    def _refuse_diminishers(self, path: Path, marks: Mapping[tuple[str, str], list[tuple[int, str]]]) -> None:
        """A hedge that holds a diminisher would count twice."""
        for language in LANGUAGES:
            forms = [form for of in dict.fromkeys(("en", language)) for form in marks[of, "hedge"]]
            texts = [form.strip(".").replace("_", " ") for _, form in forms]
            counts = self._lexical.transform(texts, [language] * len(texts))[:, _DIMINISHERS]
            for (number, form), count in zip(forms, counts, strict=True):
                if count:
                    raise ValueError(
                        f"{path}, line {number}: form {form!r} is or holds a diminisher of modifiers.tsv, "
                        "which is a hedge already; remove one"
                    )

    @staticmethod
    def _of_language(marks: Mapping[tuple[str, str], list[tuple[int, str]]], languages: list[str]) -> _Marks:
        phrases: dict[str, list[_Phrase]] = {}
        emoji_columns: dict[str, int] = {}
        for language in languages:
            for kind, column in _COLUMNS.items():
                for _, form in marks[language, kind]:
                    if match := _FORM.fullmatch(form):
                        begins, words, ends = match.groups()
                        phrase = _Phrase(tuple(words.split("_")), column, bool(begins), bool(ends))
                        phrases.setdefault(phrase.words[0], []).append(phrase)
                    else:
                        emoji_columns[_bare(form)] = column
        for candidates in phrases.values():
            candidates.sort(key=lambda phrase: -len(phrase.words))
        words = {word for candidates in phrases.values() for phrase in candidates for word in phrase.words}
        return _Marks(phrases, frozenset(words), emoji_columns)

    def transform(
        self, texts: Sequence[str], languages: Sequence[str], lexical: np.ndarray | None = None
    ) -> np.ndarray:
        """Compute the cues.

        Parameters
        ----------
        texts
            n texts; any string, also an empty one.
        languages
            n of `LANGUAGES`.
        lexical
            Their lexical features, where they are known already.

        Returns
        -------
        float32 array [n, 4]
            Finite and not negative; columns as in `CUES`.

        Raises
        ------
        ValueError
            When the lengths differ, or a language is unknown.
        """
        if lexical is None:
            lexical = self._lexical.transform(texts, languages)
        cues = np.zeros((len(texts), len(CUES)), dtype=np.float32)
        cues[:, _HEDGES] = lexical[:, _DIMINISHERS]
        cues[:, _NEGATED] = lexical[:, _NEGATIONS]
        for cue, text, language in zip(cues, texts, languages, strict=True):
            rows: list[list[str]] = []
            if not (text.isascii() or _EMOJI_CHARACTERS.isdisjoint(text)):
                text, rows = _split_emoji(text)
            if rows:
                cue[_AGAINST] = self._contradiction(text.replace("\ufffc", " "), rows, language)
                self._count_emoji(rows, language, cue)
            self._count_phrases(text, language, cue)
            for quoted in _QUOTED.finditer(text):
                cue[_SARCASM] += self._valence(quoted[quoted.lastindex or 0], language) > 0
        return cues

    def _valence(self, text: str, language: str) -> float:
        return float(self._lexical.transform([text], [language])[0, _VALENCE])

    def _contradiction(self, words: str, rows: list[list[str]], language: str) -> float:
        of_emoji = self._valence(" ".join("".join(row) for row in rows), language)
        of_words = self._valence(words, language) if of_emoji else 0.0
        return min(abs(of_emoji), abs(of_words)) if of_emoji * of_words < 0 else 0.0

    def _count_emoji(self, rows: list[list[str]], language: str, cue: np.ndarray) -> None:
        columns = self._marks[language].emoji
        for row in rows:
            previous = None
            for sequence in map(_bare, row):
                # The first character is the emoji without skin tone and sex.
                column = columns.get(sequence, columns.get(sequence[:1]))
                if column is not None and sequence != previous:
                    cue[column] += 1
                previous = sequence

    def _listed_spelling(self, word: str, language: str) -> str:
        """A lower-case word as the list has it, without apostrophes, lengthening and a tag of no meaning."""
        listed = self._marks[language].words
        word = word.translate(_APOSTROPHES)
        if word[:1] in "/#" and word not in listed:
            word = word[1:]
        if word not in listed and _LENGTHENED.search(word):
            for letters in (r"\1\1", r"\1"):
                if (shorter := _LENGTHENED.sub(letters, word)) in listed:
                    return shorter
        return word

    def _count_phrases(self, text: str, language: str, cue: np.ndarray) -> None:
        text = text.lower()
        if " '" in text or " ’" in text:
            text = _SPACED_CONTRACTION.sub("'", text)
        words: list[str] = []
        clauses: list[int] = []
        sentences: list[int] = []
        clause = sentence = 0
        # An emoji ends a clause ("as if 🙄"), but no sentence: it may stand between the words of a phrase.
        for match in _PIECES.finditer(text.replace("\ufffc", ",")):
            if word := match[1]:
                words.append(self._spelling(word, language) if len(word) <= _WORD_MAX else "")
                clauses.append(clause)
                sentences.append(sentence)
            else:
                clause += 1
                sentence += _SENTENCE_END.search(match.group()) is not None
        phrases = self._marks[language].phrases
        i, n = 0, len(words)
        while i < n:
            length = 1
            for phrase in phrases.get(words[i], ()):
                end = i + len(phrase.words)
                if (
                    tuple(words[i:end]) == phrase.words
                    and sentences[end - 1] == sentences[i]
                    and not (phrase.begins and i and clauses[i - 1] == clauses[i])
                    and not (phrase.ends and end < n and clauses[end] == clauses[end - 1])
                ):
                    cue[phrase.column] += 1
                    length = len(phrase.words)
                    break
            i += length
