"""The 15 lexical features, for English and romanised Hindi (Hinglish), by one code path.

Every feature is a pure function of (text, language): training and serving call the same code, text by text.

The features
------------
lex_valence
    -1..1. Word scores (VADER's lexicon and our own lists) are adjusted by VADER's rules: boosters within the
    three words before, negation within three words (times -0.74), words in capitals, *but*, exclamation and
    question marks. The sum s becomes s / sqrt(s^2 + 15). Deliberate departures from VADER: no adjustment
    crosses the end of a clause, *but* weighs the words of its own sentence only, and a Hindi negation also
    acts on the word before it ("khush nahi hoon").
lex_arousal
    -1..1, 0 neutral. Graded word scores (calm -0.85 .. furious 0.95; a word that only VADER knows gets a
    small arousal from its absolute valence), strengthened or weakened by boosters, plus emphasis
    (exclamation marks, capitals, lengthened words), through the same squashing. A negated word has none.
joy, sadness, anger, fear, trust, surprise
    Counts of the emotion's words and emoji (sums of weights with a licensed list), negated words left out.
intensifiers, diminishers, negations
    Counts of such words.
profanity_score
    0..1: ``1 - prod(1 - grade)`` over the profane words: it grows with each word and stays within its scale.
word_count
    ``len(text.split())``, the number by which length buckets are defined.
emoji_count
    Emoji; a sequence (flag, skin tone, family) counts once.
punct_count
    ASCII punctuation and every other character of a Unicode punctuation category.

References
----------
Hutto, C.J. and Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social
Media Text. ICWSM-14.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import re
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import emoji
import numpy as np

logger = logging.getLogger(__name__)

EMOTIONS: tuple[str, ...] = ("joy", "sadness", "anger", "fear", "trust", "surprise")
FEATURES: tuple[str, ...] = (
    "lex_valence",
    "lex_arousal",
    *EMOTIONS,
    "intensifiers",
    "diminishers",
    "negations",
    "profanity_score",
    "word_count",
    "emoji_count",
    "punct_count",
)
LANGUAGES: tuple[str, ...] = ("en", "hinglish")
#: Features that a licensed word list may extend or replace, each with the range its scores are mapped to.
LICENSABLE: dict[str, tuple[float, float]] = {
    "lex_valence": (-4.0, 4.0),
    "lex_arousal": (-1.0, 1.0),
    **{emotion: (0.0, 1.0) for emotion in EMOTIONS},
    "profanity_score": (0.0, 1.0),
}

# VADER's constants (section 3 of the paper, and its code).
_NEGATED = -0.74
_CAPITALS = 0.733
_BOOSTER_DECAY = (1.0, 0.95, 0.9)
_EXCLAMATION, _QUESTION, _QUESTIONS = 0.292, 0.18, 0.96
_NORMALISER = 15.0
_BEFORE_BUT, _AFTER_BUT = 0.5, 1.5
_WINDOW = 3

# Ours.
_AROUSAL_NORMALISER = 4.0
_AROUSAL_PER_VALENCE = 0.08  # for words that only VADER knows
_AROUSAL_BOOST = 0.5  # a booster of one valence point changes arousal by this share
_AROUSAL_EXCLAMATION, _AROUSAL_CAPITALS, _AROUSAL_LENGTHENED = 0.25, 0.3, 0.15
_POST_NEGATION_BACK, _POST_NEGATION_AHEAD = 2, 2

_NONE, _NEGATION, _POST_NEGATION, _CONTRAST = range(4)
_ROLES = {"negation": _NEGATION, "post_negation": _POST_NEGATION, "contrast": _CONTRAST}


class _Token(NamedTuple):
    """A word, phrase, emoticon or emoji with all that is known about it."""

    form: str
    valence: float = 0.0
    arousal: float = 0.0
    emotions: tuple[tuple[int, float], ...] = ()
    boost: float = 0.0
    role: int = _NONE
    profanity: float = 0.0
    is_upper: bool = False
    is_lower: bool = False
    is_lengthened: bool = False


class _Chunk(NamedTuple):
    """What a whitespace-separated chunk contributes; a string among the tokens is the end of a clause."""

    tokens: tuple[_Token | str, ...]
    n_emoji: int


@dataclass
class _Entry:
    """What the lists say about a form: scores by feature name (see `LICENSABLE`), boost and role."""

    scores: dict[str, float] = field(default_factory=dict)
    boost: float = 0.0
    role: int = _NONE

    def copy(self) -> _Entry:
        return _Entry(dict(self.scores), self.boost, self.role)

    def token(self, form: str) -> _Token:
        profanity = self.scores.get("profanity_score", 0.0)
        # A profane word that no affect list scores is unpleasant and heated in proportion to its grade.
        valence = self.scores.get("lex_valence", -2.5 * profanity if profanity else 0.0)
        arousal = self.scores.get("lex_arousal", max(_AROUSAL_PER_VALENCE * abs(valence), 0.7 * profanity))
        emotions = tuple(
            (i, self.scores[name]) for i, name in enumerate(EMOTIONS) if self.scores.get(name, 0.0) > 0
        )
        return _Token(form, valence, arousal, emotions, self.boost, self.role, profanity)


_Lexicon = dict[str, _Entry]
_Place = tuple[int, int]  # sentence, and clause in it


# --- reading the lists ---------------------------------------------------------------------------------


def _read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of a tab-separated list, without blank lines, comments (#) and header."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: lexicon file is missing; restore it from the repository") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid UTF-8 at byte {error.start}; save the file as UTF-8") from None
    header_seen = False
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if not header_seen:
            if cells != list(columns):
                raise ValueError(f"{path}, line {number}: expected the header {' <tab> '.join(columns)}")
            header_seen = True
            continue
        if len(cells) != len(columns):
            raise ValueError(
                f"{path}, line {number}: expected {len(columns)} tab-separated columns, found {len(cells)}"
            )
        yield number, cells


def _number(path: Path, number: int, name: str, value: str, low: float, high: float) -> float:
    try:
        result = float(value)
    except ValueError:
        result = math.nan
    if not low <= result <= high:
        raise ValueError(f"{path}, line {number}: {name} must be a number from {low:g} to {high:g}")
    return result


def _forms(path: Path, number: int, cell: str, seen: dict[str, int]) -> list[str]:
    forms = cell.split()
    if not forms:
        raise ValueError(f"{path}, line {number}: no forms")
    for form in forms:
        if form in seen:
            raise ValueError(
                f"{path}, line {number}: form {form!r} is already on line {seen[form]}; remove one"
            )
        seen[form] = number
    return forms


VADER_FILES = ("vader_lexicon.txt", "emoji_utf8_lexicon.txt")


def vader_folder() -> Path:
    """Where the installed package keeps VADER's lists.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    """
    # The module itself is not imported: it pulls in `requests` and is needed for two text files only.
    spec = importlib.util.find_spec("vaderSentiment")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the package vaderSentiment, which carries VADER's lexicon, is not installed"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _vader_file(folder: Path, name: str) -> list[list[str]]:
    """Rows of a list of VADER's: the folder's own copy, which a bundle has, or the installed one."""
    path = folder / name if (folder / name).exists() else vader_folder() / name
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if "\t" in line]


def read_licensed(path: Path, feature: str) -> tuple[bool, dict[str, float]]:
    """Read a word list that the user holds a licence for.

    The format is ``word<TAB>score``, one word a line, UTF-8, without a header. Lines that begin with ``#``
    are comments, except two directives. ``#scale LOW HIGH``, before the words, gives the list's own scale,
    which is mapped linearly to the feature's (see `LICENSABLE`; ``#scale 1 9`` for norms on nine points).
    ``#mode replace`` drops our own scores of this feature; with ``#mode extend``, the default, the list
    overrides them word by word. A phrase is written with spaces. For an emotion the score is the weight of
    the word in the count: 0 or 1, or an intensity.

    Parameters
    ----------
    path
        The list.
    feature
        One of `LICENSABLE`.

    Returns
    -------
    replace, scores
        Whether the list replaces ours, and the score of each word in lower case, on the feature's scale.

    Raises
    ------
    ValueError
        With file and line, when the feature takes no list, or a line is malformed.
    """
    if feature not in LICENSABLE:
        raise ValueError(f"licensed list for {feature!r}: allowed are {', '.join(LICENSABLE)}")
    low, high = target_low, target_high = LICENSABLE[feature]
    replace = False
    scores: dict[str, float] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: licensed list for {feature} is missing; correct its path") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid UTF-8 at byte {error.start}; save the file as UTF-8") from None
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if words[0] == "#scale":
            try:
                low, high = (float(word) for word in words[1:])
            except ValueError:
                low = high = math.nan
            if not (math.isfinite(low) and math.isfinite(high) and low < high) or scores:
                raise ValueError(
                    f"{path}, line {number}: expected '#scale LOW HIGH', LOW < HIGH, before the words"
                )
        elif words[0] == "#mode":
            if words[1:] not in (["replace"], ["extend"]):
                raise ValueError(f"{path}, line {number}: expected '#mode replace' or '#mode extend'")
            replace = words[1] == "replace"
        elif not line.startswith("#"):
            cells = line.split("\t")
            form = "_".join(cells[0].lower().split())
            if len(cells) != 2 or not form:
                raise ValueError(f"{path}, line {number}: expected word<TAB>score")
            score = _number(Path(path), number, "score", cells[1], low, high)
            scores[form] = target_low + (score - low) / (high - low) * (target_high - target_low)
    if not scores:
        raise ValueError(
            f"{path}: licensed list for {feature} holds no words; expected lines of word<TAB>score"
        )
    return replace, scores


def _read_affect(path: Path, default: Mapping[str, float]) -> _Lexicon:
    """Read an affect list; where its valence is "-", a form takes its score in ``default``.

    A form that is not in there takes the mean of the row's forms that are.
    """
    lexicon: _Lexicon = {}
    seen: dict[str, int] = {}
    for number, (forms, valence, arousal, emotions) in _read_rows(
        path, ("forms", "valence", "arousal", "emotions")
    ):
        names = [] if emotions == "-" else emotions.split()
        if unknown := [name for name in names if name not in EMOTIONS]:
            raise ValueError(
                f"{path}, line {number}: emotion {unknown[0]!r}; allowed are {', '.join(EMOTIONS)}"
            )
        scores = dict.fromkeys(names, 1.0)
        scores["lex_arousal"] = _number(path, number, "arousal", arousal, *LICENSABLE["lex_arousal"])
        own = (
            None if valence == "-" else _number(path, number, "valence", valence, *LICENSABLE["lex_valence"])
        )
        row = _forms(path, number, forms, seen)
        known = [default[form] for form in row if form in default]
        mean = sum(known) / len(known) if known else 0.0
        for form in row:
            lexicon[form] = _Entry({**scores, "lex_valence": default.get(form, mean) if own is None else own})
    return lexicon


def _read_neutral(path: Path) -> _Lexicon:
    seen: dict[str, int] = {}
    rows = _read_rows(path, ("forms",))
    return {
        form: _Entry({"lex_valence": 0.0})
        for number, (cell,) in rows
        for form in _forms(path, number, cell, seen)
    }


def _add_modifiers(path: Path, language: str, lexicon: _Lexicon) -> None:
    seen: dict[str, int] = {}
    for number, (row_language, kind, weight, cell) in _read_rows(
        path, ("language", "kind", "weight", "forms")
    ):
        if row_language not in LANGUAGES or kind not in ("intensifier", "diminisher", *_ROLES):
            raise ValueError(
                f"{path}, line {number}: unknown language or kind; see the comment at the top of the file"
            )
        value = _number(path, number, "weight", weight, -4, 4)
        if row_language != language:
            continue
        for form in _forms(path, number, cell, seen):
            entry = lexicon.setdefault(form, _Entry())
            if kind in _ROLES:
                entry.role = _ROLES[kind]
            else:
                entry.boost = value


def _add_profanity(path: Path, language: str, lexicon: _Lexicon) -> None:
    seen: dict[str, int] = {}
    for number, (row_language, grade, cell) in _read_rows(path, ("language", "grade", "forms")):
        if row_language not in LANGUAGES:
            raise ValueError(f"{path}, line {number}: language must be one of {', '.join(LANGUAGES)}")
        value = _number(path, number, "grade", grade, *LICENSABLE["profanity_score"])
        if row_language == language:
            for form in _forms(path, number, cell, seen):
                lexicon.setdefault(form, _Entry()).scores["profanity_score"] = value


def _add_licensed(path: Path, feature: str, lexicon: _Lexicon) -> None:
    replace, scores = read_licensed(path, feature)
    if replace:
        for entry in lexicon.values():
            entry.scores.pop(feature, None)
            if feature == "lex_valence":
                entry.scores[feature] = 0.0
    for form, score in scores.items():
        lexicon.setdefault(form, _Entry()).scores[feature] = score
    logger.info(
        "licensed list for %s: %d words, mode %s", feature, len(scores), "replace" if replace else "extend"
    )


# --- spelling ------------------------------------------------------------------------------------------

_LENGTHENED = re.compile(r"(.)\1{2,}", re.DOTALL)
_DOUBLED = re.compile(r"(.)\1+", re.DOTALL)
_SKELETON_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"ee"), "i"),
    (re.compile(r"oo"), "u"),
    (re.compile(r"(?:ch+)+"), "ch"),
    (re.compile(r"w"), "v"),
    (re.compile(r"z"), "j"),
    (re.compile(r"ph"), "f"),
    (re.compile(r"q"), "k"),
    (_DOUBLED, r"\1"),
)
_SKELETON_MIN, _SKELETON_MAX = 4, 24  # short words collide, longer ones are no words


def hinglish_skeleton(word: str) -> str:
    """The spelling of a romanised Hindi word without the distinctions that writers do not agree on.

    Doubled letters are single, and ee/i, oo/u, w/v, z/j, ph/f, q/k and chh/ch are one.
    """
    for pattern, replacement in _SKELETON_RULES:
        word = pattern.sub(replacement, word)
    return word


_SPACED_CONTRACTION = re.compile(r"(?<=[A-Za-z])\s['’`]\s?(?=(?:t|s|m|d|re|ve|ll)\b)", re.IGNORECASE)
_PIECES = re.compile(r"([^\W_]+(?:['’`][^\W_]+)*)|([,.;:!?()…।–—]+)")
_WORD = re.compile(r"[^\W_]+(?:['’`-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…।]")
_MASKS = frozenset("*@#$")
_CENSORED = re.compile(r"[a-z]+[*@#$]+[a-z*@#$]*")
# Behind the first two planes Unicode has ideographs and tags alone; to look through all takes half a second.
_PLANES = 0x20000
_PUNCTUATION = re.compile(
    "["
    + re.escape(
        string.punctuation
        + "".join(
            chr(code) for code in range(128, _PLANES) if unicodedata.category(chr(code)).startswith("P")
        )
    )
    + "]"
)
# Every emoji holds a character outside ASCII, so most texts need no search at all.
_EMOJI_START = re.compile(
    "["
    + re.escape(
        "".join(sorted({char for sequence in emoji.EMOJI_DATA for char in sequence if char > "\x7f"}))
    )
    + "]"
)


# --- the extractor -------------------------------------------------------------------------------------


class LexicalExtractor:
    """Computes `FEATURES` from texts.

    Parameters
    ----------
    lexicon_dir
        The folder with english.tsv, hinglish.tsv, hinglish_neutral.tsv, emoji.tsv, modifiers.tsv and
        profanity.tsv.
    licensed
        Feature name to the path of a word list that the user holds a licence for; see `read_licensed`. The
        lists serve both languages; in Hinglish texts our own Hinglish words keep precedence.

    Raises
    ------
    FileNotFoundError, ValueError
        With file, line and remedy, when a list is missing or malformed.
    """

    FEATURES = FEATURES

    # Words repeat, so what a chunk means is remembered; memory is bounded by the chunks' length and number.
    _CACHED_LENGTH, _CACHED_CHUNKS = 32, 50_000

    def __init__(self, lexicon_dir: Path, licensed: Mapping[str, Path] | None = None) -> None:
        folder = Path(lexicon_dir)
        vader = {cells[0].replace(" ", "_"): float(cells[1]) for cells in _vader_file(folder, VADER_FILES[0])}
        english: _Lexicon = {form: _Entry({"lex_valence": score}) for form, score in vader.items()}
        english.update(_read_affect(folder / "english.tsv", vader))
        acronyms = {form for form, entry in english.items() if "lex_arousal" not in entry.scores}
        _add_modifiers(folder / "modifiers.tsv", "en", english)
        _add_profanity(folder / "profanity.tsv", "en", english)
        for feature, path in sorted((licensed or {}).items()):
            _add_licensed(Path(path), feature, english)
        # Hinglish is code-mixed: English words count too, save those that mean something else in Hindi.
        # VADER's many short acronyms ("kia", "aas") are Hindi words more often than not.
        hinglish: _Lexicon = {
            form: entry.copy()
            for form, entry in english.items()
            if not (form in acronyms and form.isalpha() and len(form) <= 3)
        }
        hinglish.update(_read_neutral(folder / "hinglish_neutral.tsv"))
        own = _read_affect(folder / "hinglish.tsv", {})
        hinglish.update(own)
        _add_modifiers(folder / "modifiers.tsv", "hinglish", hinglish)
        _add_profanity(folder / "profanity.tsv", "hinglish", hinglish)

        self._words: dict[str, dict[str, _Token]] = {}
        self._phrases: dict[str, dict[str, list[tuple[tuple[str, ...], _Token]]]] = {}
        self._profane: dict[str, list[tuple[str, _Token]]] = {}
        for language, lexicon in (("en", english), ("hinglish", hinglish)):
            words = {form: entry.token(form) for form, entry in lexicon.items()}
            phrases: dict[str, list[tuple[tuple[str, ...], _Token]]] = {}
            for form, token in words.items():
                parts = form.split("_")
                if len(parts) > 1 and all(part[:1].isalnum() for part in parts):
                    phrases.setdefault(parts[0], []).append((tuple(parts[1:]), token))
            for candidates in phrases.values():
                candidates.sort(key=lambda candidate: -len(candidate[0]))
            self._words[language], self._phrases[language] = words, phrases
            self._profane[language] = sorted(
                ((form, token) for form, token in words.items() if token.profanity > 0),
                key=lambda pair: (-pair[1].profanity, pair[0]),
            )
        self._skeletons: dict[str, _Token] = {}
        for form in own:
            if "_" not in form and len(form) >= _SKELETON_MIN:
                self._skeletons.setdefault(hinglish_skeleton(form), self._words["hinglish"][form])
        self._emoji = self._emoji_tokens(folder, _read_affect(folder / "emoji.tsv", {}))
        self._emoticons = {
            form: self._words["en"][form] for form in vader if not _WORD.fullmatch(form.replace("_", ""))
        }
        self._cache: dict[str, dict[str, _Chunk]] = {language: {} for language in LANGUAGES}

    def _emoji_tokens(self, folder: Path, own: _Lexicon) -> dict[str, _Token]:
        tokens: dict[str, _Token] = {}
        for sequence, description in _vader_file(folder, VADER_FILES[1]):
            # The description's strongest word. VADER adds up all of them, so that "smiling face with smiling
            # eyes" would be twice as pleasant as "smiling face".
            words = [
                self._words["en"].get(word, _Token(word))
                for word in re.findall(r"[a-z]+", description.lower())
            ]
            strongest = max(words, key=lambda token: abs(token.valence), default=_Token(sequence))
            tokens[sequence] = _Token(sequence, strongest.valence, strongest.arousal, strongest.emotions)
        tokens.update((sequence, entry.token(sequence)) for sequence, entry in own.items())
        return tokens

    def transform(self, texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
        """Compute the features.

        Parameters
        ----------
        texts
            n texts; any string, also an empty one.
        languages
            n of `LANGUAGES`.

        Returns
        -------
        float32 array [n, 15]
            Finite; columns as in `FEATURES`.

        Raises
        ------
        ValueError
            When the lengths differ, or a language is unknown.
        """
        if len(texts) != len(languages):
            raise ValueError(f"{len(texts)} texts, but {len(languages)} languages")
        features = np.empty((len(texts), len(FEATURES)), dtype=np.float32)
        for row, (text, language) in enumerate(zip(texts, languages, strict=True)):
            if language not in LANGUAGES:
                raise ValueError(f"row {row}: language must be one of {', '.join(LANGUAGES)}")
            features[row] = self._features(text, language)
        return features

    # -- from text to tokens

    def _find(self, form: str, language: str) -> tuple[_Token | None, bool]:
        """Look up a lower-case word in its likely spellings; also whether it is lengthened ("sooo")."""
        words = self._words[language]
        if token := words.get(form):
            return token, False
        if "'" in form:
            if form.endswith("n't"):
                return words.get(form.replace("'", ""), words["not"]), False
            # Not by dropping the apostrophe: "he'll" and "we're" are not "hell" and "were".
            return self._find(form[: form.index("'")], language)
        lengthened = len(form) > 2 and _LENGTHENED.search(form) is not None
        if lengthened:
            for letters in (r"\1\1", r"\1"):
                if token := words.get(_LENGTHENED.sub(letters, form)):
                    return token, True
        if language == "hinglish" and _SKELETON_MIN <= len(form) <= _SKELETON_MAX:
            return self._skeletons.get(hinglish_skeleton(form)), lengthened
        return None, lengthened

    def _censored(self, form: str, language: str) -> _Token | None:
        """The most severe profane word that fits a masked one ("f**k")."""
        if len(form) < 3:
            return None
        for word, token in self._profane[language]:
            if len(word) == len(form) and all(a == b or b in _MASKS for a, b in zip(word, form, strict=True)):
                return token
        return None

    def _word(self, text: str, language: str) -> _Token:
        form = text.lower().replace("’", "'").replace("`", "'")
        token, lengthened = self._find(form, language)
        token = token or _Token(form)
        is_upper = len(text) > 1 and text.isupper()
        return token._replace(form=form, is_upper=is_upper, is_lower=not is_upper, is_lengthened=lengthened)

    def _plain_tokens(self, text: str, language: str) -> Iterator[_Token | str]:
        """Tokens of a chunk, or part of one, without emoji."""
        if text.isalpha():
            yield self._word(text, language)
            return
        if emoticon := self._emoticons.get(text) or self._emoticons.get(text.lower()):
            yield emoticon
            return
        match = _CENSORED.search(text.lower()) if len(text) <= _SKELETON_MAX else None
        if match and (token := self._censored(match.group(), language)):
            yield token
            return
        for match in _PIECES.finditer(text):
            if match.group(1):
                yield self._word(match.group(1), language)
            else:
                tail = text[match.start() :]
                if len(tail) <= 4 and tail in self._emoticons:  # "great:)"
                    yield self._emoticons[tail]
                    return
                yield match.group(2)

    def _chunk(self, chunk: str, language: str) -> _Chunk:
        if chunk.isascii() or not _EMOJI_START.search(chunk):
            return _Chunk(tuple(self._plain_tokens(chunk, language)), 0)
        tokens: list[_Token | str] = []
        found = emoji.emoji_list(chunk)
        end, previous = 0, None
        for match in found:
            start, sequence = match["match_start"], match["emoji"]
            if start > end:
                tokens.extend(self._plain_tokens(chunk[end:start], language))
                previous = None
            if sequence != previous:  # a row of the same emoji is one affect word
                plain = sequence.rstrip("\ufe0f")
                token = self._emoji.get(sequence) or self._emoji.get(plain) or self._emoji.get(sequence[0])
                tokens.append(token or _Token(sequence))
            end, previous = match["match_end"], sequence
        if end < len(chunk):
            tokens.extend(self._plain_tokens(chunk[end:], language))
        return _Chunk(tuple(tokens), len(found))

    def _tokens(self, text: str, language: str) -> tuple[list[_Token], list[_Place], int]:
        """Tokens with phrases joined, the place of each one, and the number of emoji."""
        cache = self._cache[language]
        tokens: list[_Token] = []
        places: list[_Place] = []
        place = (0, 0)
        n_emoji = 0
        for chunk in text.split():
            known = cache.get(chunk)
            if known is None:
                known = self._chunk(chunk, language)
                if len(chunk) <= self._CACHED_LENGTH:
                    if len(cache) >= self._CACHED_CHUNKS:
                        cache.clear()
                    cache[chunk] = known
            n_emoji += known.n_emoji
            for token in known.tokens:
                if isinstance(token, str):
                    sentence, clause = place
                    place = (sentence + 1, 0) if _SENTENCE_END.search(token) else (sentence, clause + 1)
                else:
                    tokens.append(token)
                    places.append(place)
        heads = self._phrases[language]
        if any(token.form in heads for token in tokens):
            tokens, places = self._join(tokens, places, heads)
        return tokens, places, n_emoji

    @staticmethod
    def _join(
        tokens: list[_Token], places: list[_Place], heads: Mapping[str, list[tuple[tuple[str, ...], _Token]]]
    ) -> tuple[list[_Token], list[_Place]]:
        joined: list[_Token] = []
        joined_places: list[_Place] = []
        i = 0
        while i < len(tokens):
            token, length = tokens[i], 1
            for rest, phrase in heads.get(token.form, ()):
                end = i + 1 + len(rest)
                if tuple(t.form for t in tokens[i + 1 : end]) == rest and places[end - 1] == places[i]:
                    token = phrase._replace(is_upper=token.is_upper, is_lower=token.is_lower)
                    length = 1 + len(rest)
                    break
            joined.append(token)
            joined_places.append(places[i])
            i += length
        return joined, joined_places

    # -- from tokens to features

    @staticmethod
    def _negated(tokens: list[_Token], places: list[_Place]) -> set[int]:
        """Positions whose affect is reversed."""
        reversed_: set[int] = set()
        n = len(tokens)
        for i, token in enumerate(tokens):
            if token.role not in (_NEGATION, _POST_NEGATION):
                continue
            window = _WINDOW
            if token.role == _POST_NEGATION:
                window = _POST_NEGATION_AHEAD
                back = range(i - 1, max(-1, i - 1 - _POST_NEGATION_BACK), -1)
                target = next((j for j in back if tokens[j].valence and places[j] == places[i]), None)
                if target is not None:
                    reversed_.add(target)
                    continue
            reversed_.update(j for j in range(i + 1, min(n, i + 1 + window)) if places[j] == places[i])
        return reversed_

    def _features(self, text: str, language: str) -> list[float]:
        joined = _SPACED_CONTRACTION.sub("'", text) if " '" in text or " ’" in text else text
        tokens, places, n_emoji = self._tokens(joined, language)
        negated = self._negated(tokens, places)
        # Capitals say something only where not everything is in capitals.
        capitals_count = any(token.is_upper for token in tokens) and any(token.is_lower for token in tokens)
        contrasts: dict[int, int] = {}  # sentence -> position of its first "but"
        for i, token in enumerate(tokens):
            if token.role == _CONTRAST:
                contrasts.setdefault(places[i][0], i)

        valence = arousal = 0.0
        emotions = [0.0] * len(EMOTIONS)
        n_intensifiers = n_diminishers = n_negations = 0
        clean = 1.0
        last = len(tokens) - 1
        for i, token in enumerate(tokens):
            score, energy = token.valence, token.arousal
            if token.is_lengthened:
                arousal += _AROUSAL_LENGTHENED
            if token.profanity:
                clean *= 1.0 - token.profanity
            if token.role in (_NEGATION, _POST_NEGATION):
                n_negations += 1
            if token.boost:
                # "pretty good": a word that is also a booster is one when it stands before an affect word.
                boosts = i < last and tokens[i + 1].valence and places[i + 1] == places[i]
                if boosts or not score:
                    n_intensifiers += token.boost > 0
                    n_diminishers += token.boost < 0
                    continue
            if not score and not energy and not token.emotions:
                continue
            for distance in range(1, min(i, _WINDOW) + 1):
                before = tokens[i - distance]
                if places[i - distance] != places[i]:
                    break
                if before.boost:
                    boost = before.boost * _BOOSTER_DECAY[distance - 1]
                    if before.is_upper and capitals_count:
                        boost += math.copysign(_CAPITALS, boost)
                    score += math.copysign(boost, score * boost) if score else 0.0
                    energy *= 1.0 + _AROUSAL_BOOST * boost
            if token.is_upper and capitals_count:
                score += math.copysign(_CAPITALS, score) if score else 0.0
                arousal += _AROUSAL_CAPITALS
            if i in negated:
                score *= _NEGATED
                energy = 0.0
            else:
                for index, weight in token.emotions:
                    emotions[index] += weight
            if contrasts and (contrast := contrasts.get(places[i][0])) is not None:
                score *= _BEFORE_BUT if i < contrast else _AFTER_BUT
            valence += score
            arousal += energy

        exclamations, questions = min(text.count("!"), 4), text.count("?")
        emphasis = exclamations * _EXCLAMATION
        if questions > 1:
            emphasis += questions * _QUESTION if questions <= 3 else _QUESTIONS
        if valence:
            valence += math.copysign(emphasis, valence)
        arousal += exclamations * _AROUSAL_EXCLAMATION
        return [
            valence / math.sqrt(valence * valence + _NORMALISER),
            arousal / math.sqrt(arousal * arousal + _AROUSAL_NORMALISER),
            *emotions,
            n_intensifiers,
            n_diminishers,
            n_negations,
            1.0 - clean,
            len(text.split()),
            n_emoji,
            len(_PUNCTUATION.findall(text)),
        ]
