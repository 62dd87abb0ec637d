"""A synthetic corpus of reflections: a latent state writes the text, and the labels follow from that state.

Each owner has a mood around an own baseline (a first-order autoregression in time), an own openness and an
own way of writing. An item is an event of a category; its valence, arousal and willingness follow from
event, mood, intensity and hour. The text is composed of clauses that are rated near this state (feelings
with intensifiers, diminishers and negation, body sensations, thoughts, disclosure stances, punctuation,
emoji), so what a label says can be read in the text, though not from any single word: sarcasm praises what
it resents, swearing may be banter, and the mood is only partly put into words. The labels are that state,
as far as the text tells it, plus rating noise.

Counts are exact: sizes of the owners are drawn first, then categories and languages without replacement.
The records come owner by owner, each owner's in time order; memory holds a few numbers an owner and no
text. Only exactly rounded arithmetic is used (no exp, no log), so a seed gives the same corpus on every
machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import re
import statistics
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from perceive.corpus.composition import CATEGORIES, HINGLISH_ITEMS, OWNERS
from perceive.corpus.phrases import LANGUAGES, VOICES, Phrase, Phrasebook, Voice, load_phrasebook
from perceive.io import PathLike, atomic_path

log = logging.getLogger(__name__)

#: Every item of these categories has risk_level HIGH, and no other item has.
HIGH_RISK: Final = frozenset({"suicide_ideation", "self_harm", "abuse", "financial_coercion"})
SCALES: Final = ("valence", "arousal", "willingness")

_OPENNESS_SHIFT = {
    "suicide_ideation": -0.05,
    "self_harm": -0.09,
    "abuse": -0.07,
    "financial_coercion": -0.02,
    "profanity": 0.09,
    "sociopathic": -0.03,
}
_OATHS = {"profanity": 0.5, "sarcasm": 0.05, "sociopathic": 0.03}
_ZONES = {"en": (-480, -300, -300, 0, 0, 60, 330, 330), "hinglish": (330,)}  # minutes east of UTC
_DEVICES = ("android", "android", "android", "ios", "ios", "web")
_PRONOUNS = {
    "m": {"he": "he", "him": "him", "his": "his", "P.": "P.m"},
    "f": {"he": "she", "him": "her", "his": "her", "P.": "P.f"},
}
_FILTER_BITS = 1 << 25  # 4 MiB; one in 64 is taken after 500,000 texts
_REWRITES = 12
_NOT_A_WORD = re.compile(r"[\W_]+")
_STRETCHED = {
    "en": re.compile(r"\b(so|really|very)\b", re.IGNORECASE),
    "hinglish": re.compile(r"\b(bahut|bohot|itna|kitna|yaar)\b", re.IGNORECASE),  # "so" is "sleep" there
}
_STRETCH = {"so": "sooo", "really": "reallyyy", "bahut": "bahuuut", "bohot": "bohooot", "itna": "itnaaa",
            "very": "veryyy", "kitna": "kitnaaa", "yaar": "yaaar"}  # fmt: skip


def scale_counts(total: int, counts: Mapping[str, float] = CATEGORIES) -> dict[str, int]:
    """Whole numbers in the proportions of ``counts`` that sum exactly to ``total`` (largest remainder).

    Raises
    ------
    ValueError
        If ``total`` is negative, or nothing is to be shared out in proportion to.
    """
    whole = math.fsum(counts.values())
    if total < 0 or any(count < 0 for count in counts.values()):
        raise ValueError("counts must not be negative")
    if whole == 0:
        if total:
            raise ValueError("cannot scale counts that are all zero")
        return dict.fromkeys(counts, 0)
    exact = {name: total * count / whole for name, count in counts.items()}
    scaled = {name: int(share) for name, share in exact.items()}
    order = sorted(counts, key=lambda name: (scaled[name] - exact[name], name))
    for name in order[: total - sum(scaled.values())]:
        scaled[name] += 1
    return scaled


def scaled(total: int, owners: int | None = None) -> dict[str, Any]:
    """Arguments of `generate` for a smaller or larger corpus in the default's proportions.

    ``generate(seed=1, **scaled(520))`` gives 520 items of 80 owners.
    """
    standard = sum(CATEGORIES.values())
    return {
        "categories": scale_counts(total),
        "hinglish_items": round(total * HINGLISH_ITEMS / standard),
        "owners": min(total, max(1, round(total * OWNERS / standard))) if owners is None else owners,
    }


def generate(
    *,
    seed: int = 137,
    categories: Mapping[str, int | Mapping[str, int]] = CATEGORIES,
    hinglish_items: int | None = HINGLISH_ITEMS,
    owners: int = OWNERS,
    days: int = 90,
    start: str = "2025-01-01",
    label_noise: float = 0.04,
    phrasebook: Phrasebook | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the records of a synthetic corpus, one annotation line each, owner by owner and in time order.

    Parameters
    ----------
    seed
        Equal arguments give equal records on every machine.
    categories
        Exact number of items of each category, or by language: ``{"abuse": {"en": 60, "hinglish": 20}}``
        (for all categories, and then ``hinglish_items`` must be None).
    hinglish_items
        Exact number of Hinglish items, shared among the categories in proportion; the others are English.
    owners
        Exact number of owners; each writes at least one item.
    days
        Every timestamp lies within ``[start, start + days)``, in UTC.
    start
        First day of the timelines, an ISO date.
    label_noise
        Standard deviation of the rating noise on the three scales (0..1).
    phrasebook
        Phrases to write with; by default those of ``resources/synthesis``.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it and what is allowed. Raised at the call, not at
        the first record.
    """
    book = phrasebook or load_phrasebook()
    cells = _cells(categories, hinglish_items, book.categories)
    total = sum(cells.values())
    if not 1 <= owners <= total:
        raise ValueError(f"owners must lie in 1..{total} (the number of items), not {owners}")
    if days < 1:
        raise ValueError(f"days must be at least 1, not {days}")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must lie in 0..1, not {label_noise}")
    try:
        first = datetime.strptime(start, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"start must be an ISO date such as 2025-01-01, not {start!r}") from None
    return _records(seed, cells, owners, days, first, label_noise, book)


def write_jsonl(path: PathLike, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records as JSON lines, one at a time and atomically; return how many."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as handle:
        for record in records:
            handle.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    log.info("wrote %d synthetic items", count)
    return count


def summarize(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts, distinctness and label statistics of records, in one pass that keeps digests and no text."""
    counts: dict[str, Counter[str]] = {
        name: Counter() for name in ("category", "language", "risk_level", "length")
    }
    sizes: Counter[str] = Counter()
    digests: set[bytes] = set()
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: {scale: [] for scale in SCALES})
    for record in records:
        for name in ("category", "language", "risk_level"):
            counts[name][record[name]] += 1
        words = len(record["text"].split())
        counts["length"]["SHORT" if words < 15 else "MEDIUM" if words < 60 else "LONG"] += 1
        sizes[record["owner_id"]] += 1
        digests.add(hashlib.blake2b(record["text"].encode(), digest_size=8).digest())
        for scale in SCALES:
            values[record["category"]][scale].append(record["perception_labels"][scale])
    total = sum(sizes.values())
    if not total:
        return {"items": 0}

    def describe(numbers: list[float]) -> dict[str, float]:
        return {"mean": round(statistics.fmean(numbers), 4), "sd": round(statistics.pstdev(numbers), 4)}

    return {
        "items": total,
        "owners": len(sizes),
        "owners_with_5_items": sum(size >= 5 for size in sizes.values()),
        "largest_owner": max(sizes.values()),
        "distinct_texts": round(len(digests) / total, 6),
        **{name: dict(sorted(counter.items())) for name, counter in counts.items()},
        "labels": {scale: describe([v for by in values.values() for v in by[scale]]) for scale in SCALES},
        "labels_by_category": {
            category: {scale: describe(by[scale]) for scale in SCALES}
            for category, by in sorted(values.items())
        },
    }


# ---------------------------------------------------------------- who writes how much about what


def _cells(
    categories: Mapping[str, int | Mapping[str, int]], hinglish_items: int | None, known: tuple[str, ...]
) -> dict[tuple[str, str], int]:
    """Exact number of items of each (category, language)."""
    for name in categories:
        if name not in known:
            raise ValueError(f"categories: {name!r} has no phrases; known are {', '.join(known)}")
    by_language = {name: count for name, count in categories.items() if isinstance(count, Mapping)}
    if by_language:
        if len(by_language) < len(categories) or hinglish_items is not None:
            raise ValueError(
                "categories: give counts by language for every category, and hinglish_items None, or for none"
            )
        for name, count in by_language.items():
            if unknown := sorted(set(count) - set(LANGUAGES)):
                raise ValueError(
                    f"categories: {name}: unknown language {unknown[0]!r}; known are en, hinglish"
                )
        cells = {(name, lang): by_language[name].get(lang, 0) for name in by_language for lang in LANGUAGES}
    else:
        plain = {name: count for name, count in categories.items() if not isinstance(count, Mapping)}
        total = sum(plain.values())
        wanted = 0 if hinglish_items is None else hinglish_items
        if min(plain.values(), default=0) < 0 or not 0 <= wanted <= total:
            raise ValueError(f"categories must not be negative, and hinglish_items must lie in 0..{total}")
        hinglish = scale_counts(wanted, plain)
        cells = {}
        for name, items in plain.items():
            cells[name, "en"] = items - hinglish[name]
            cells[name, "hinglish"] = hinglish[name]
    if min(cells.values(), default=0) < 0:
        raise ValueError("categories: counts must not be negative")
    if not sum(cells.values()):
        raise ValueError("categories: at least one item is needed")
    return cells


def _owner_sizes(uniform: Callable[[], float], total: int, owners: int) -> list[int]:
    """Uneven sizes (many small, some large) of at least one item each that sum to ``total``."""
    weights = [1 / (0.12 + uniform()) - 0.88 for _ in range(owners)]
    whole = math.fsum(weights)
    extra = total - owners
    shares = [extra * weight / whole for weight in weights]
    sizes = [1 + int(share) for share in shares]
    order = sorted(range(owners), key=lambda owner: (int(shares[owner]) - shares[owner], owner))
    for owner in order[: total - sum(sizes)]:
        sizes[owner] += 1
    return sizes


def _records(
    seed: int,
    cells: dict[tuple[str, str], int],
    owners: int,
    days: int,
    start: datetime,
    label_noise: float,
    book: Phrasebook,
) -> Iterator[dict[str, Any]]:
    plan = random.Random(f"perceive:{seed}:plan").random
    total = sum(cells.values())
    sizes = _owner_sizes(plan, total, owners)
    keys = list(cells)
    left = [cells[key] for key in keys]
    seen = _Seen()
    width = len(str(owners))
    number = 0
    for index, size in enumerate(sizes):
        uniform = random.Random(f"perceive:{seed}:{index}").random
        hinglish_left = sum(count for key, count in zip(keys, left, strict=True) if key[1] == "hinglish")
        primary = "hinglish" if plan() * sum(left) < hinglish_left else "en"
        # Owners return to their own few themes, and a minority mixes the languages.
        mixing = 0.35 if plan() < 0.2 else 0.03
        taste = {category: 0.35 / (0.08 + plan()) for category, _ in keys}
        liking = [taste[category] * (1.0 if language == primary else mixing) for category, language in keys]
        topics = []
        for _ in range(size):
            weights = [count * weight for count, weight in zip(left, liking, strict=True)]
            mark = plan() * sum_in_order(weights)
            chosen = -1
            for cell, weight in enumerate(weights):
                if weight > 0:
                    chosen = cell
                    mark -= weight
                    if mark < 0:
                        break
            left[chosen] -= 1
            topics.append(keys[chosen])
        owner = _Owner(uniform, primary, book)
        for moment, (category, language) in zip(_moments(uniform, size, days, owner), topics, strict=True):
            number += 1
            text, truth = owner.write(category, language, moment, start, seen)
            labels = {
                scale: _rated(value, label_noise, uniform) for scale, value in zip(SCALES, truth, strict=True)
            }
            yield {
                "item_id": f"syn-{number:07d}",
                "owner_id": f"owner-{index:0{width}d}",
                "text": text,
                "timestamp": _timestamp(start, moment, owner.zone),
                "language": language,
                "category": category,
                "risk_level": _risk(category, truth),
                "device": owner.device(uniform),
                "perception_labels": labels,
            }


def sum_in_order(numbers: list[float]) -> float:
    """Add from left to right: `sum` compensates from Python 3.12 on, and a last bit could change a draw."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def _moments(uniform: Callable[[], float], size: int, days: int, owner: _Owner) -> list[int]:
    """Distinct seconds since the start (UTC), ascending, at hours at which this owner writes."""
    last = days * 86_400
    if size > last // 8:
        raise ValueError(f"an owner would write {size} items in {days} days; use more days or more owners")
    taken: set[int] = set()
    while len(taken) < size:
        second = int(uniform() * days) * 86_400 + int(owner.hour(uniform) * 3600) - owner.zone * 60
        second += int(uniform() * 60)
        # A zone's local day may begin before the window or end after it: the hour stays, the day moves.
        taken.add(second % last)
    return sorted(taken)


def _timestamp(start: datetime, second: int, zone: int) -> str:
    local = (start + timedelta(seconds=second)).astimezone(timezone(timedelta(minutes=zone)))
    return local.isoformat(timespec="seconds")


def _rated(value: float, noise: float, uniform: Callable[[], float]) -> float:
    return round(_clip(value + noise * _normal(uniform), 0.0, 1.0), 3)


def _risk(category: str, truth: tuple[float, float, float]) -> str:
    if category in HIGH_RISK:
        return "HIGH"
    valence, arousal, _ = truth
    return "MEDIUM" if valence < 0.27 or (valence < 0.4 and arousal > 0.72) else "LOW"


def _normal(uniform: Callable[[], float]) -> float:
    """A standard normal variate, near enough: twelve uniforms (no log or cosine, whose last bit varies)."""
    total = -6.0
    for _ in range(12):
        total += uniform()
    return total


def _clip(value: float, low: float = 0.02, high: float = 0.98) -> float:
    return low if value < low else high if value > high else value


class _Seen:
    """A fixed-size filter of the texts so far: never says new to an old text, rarely old to a new one."""

    def __init__(self) -> None:
        self._bits = bytearray(_FILTER_BITS // 8)

    def add(self, text: str) -> bool:
        """Remember a text (by its words, whatever their case and punctuation); True if it was new."""
        code = zlib.crc32(_NOT_A_WORD.sub(" ", text.lower()).strip().encode()) % _FILTER_BITS
        byte, bit = code >> 3, 1 << (code & 7)
        new = not self._bits[byte] & bit
        self._bits[byte] |= bit
        return new


# ---------------------------------------------------------------- a person, the state, and the words for it


@dataclass(frozen=True, slots=True)
class _State:
    """What one item is about, all on 0..1: what the writer feels, and what the event is."""

    category: str
    language: str
    event: Phrase
    valence: float
    arousal: float
    willingness: float


class _Draft:
    """Clauses of a text with the ratings of what they say."""

    def __init__(self, filled: dict[str, str]) -> None:
        self.filled = filled
        self.topics: list[str] = []
        self.words = 0
        self.valence = [0.0, 0.0]
        self.arousal = [0.0, 0.0]
        self.willingness = [0.0, 0.0]


class _Owner:
    """One writer: baselines, mood, openness, hours, spelling and style."""

    def __init__(self, uniform: Callable[[], float], primary: str, book: Phrasebook) -> None:
        self._uniform = uniform
        self._book = book
        zones = _ZONES[primary]
        self.zone = zones[int(uniform() * len(zones))]
        gender = "f" if uniform() < 0.55 else "m"
        self._voice_of = {"hinglish": gender, "en": VOICES["en"][int(uniform() * 3)]}
        self._baseline = 0.06 * _normal(uniform)
        self._mood = 0.10 * _normal(uniform)
        self._energy = 0.04 * _normal(uniform)
        self._openness = _clip(0.5 + 0.13 * _normal(uniform), 0.1, 0.9)
        self._last = 0
        self._late = uniform()
        self._devices = (_DEVICES[int(uniform() * 6)], _DEVICES[int(uniform() * 6)])
        # Style: how sentences are joined, case, emoji, spelling.
        self._tidy = uniform()
        self._lower = uniform() < 0.35
        self._emoji = uniform() * 0.6
        self._habit = uniform() * 0.75 if uniform() < 0.6 else 0.04
        self._own_spelling: dict[str, str] = {}

    def device(self, uniform: Callable[[], float]) -> str:
        return self._devices[0 if uniform() < 0.85 else 1]

    def hour(self, uniform: Callable[[], float]) -> float:
        """Local hour of the day, 0 <= hour < 24: mornings, midday, and most of all evenings and nights."""
        which = uniform()
        if which < 0.2:
            hour = 8.0 + 1.3 * _normal(uniform)
        elif which < 0.4:
            hour = 13.5 + 2.2 * _normal(uniform)
        else:
            hour = 20.0 + 3.5 * self._late + 1.6 * _normal(uniform)
        return min(hour % 24, 23.99)

    def write(
        self, category: str, language: str, second: int, start: datetime, seen: _Seen
    ) -> tuple[str, Any]:
        """Write one text; returns it with its true (valence, arousal, willingness)."""
        state = self._live(category, language, second, start)
        for _ in range(_REWRITES):
            text, truth = self._compose(state)
            if seen.add(text):
                break
        return text, truth

    def _live(self, category: str, language: str, second: int, start: datetime) -> _State:
        """Let the mood move on to this moment, and have something happen."""
        uniform = self._uniform
        gap = (second - self._last) / 86_400
        self._last = second
        kept = 3 / (3 + gap)
        self._mood = kept * self._mood + 0.10 * math.sqrt(1 - kept * kept) * _normal(uniform)
        mood = self._baseline + self._mood

        pool = self._voice(language).pool("event", category)
        event, other = pool.pick(uniform), pool.pick(uniform)
        if uniform() < 0.6 and abs(other.valence - 0.42 - mood) < abs(event.valence - 0.42 - mood):
            event = other  # who is low meets, or notices, the worse
        hour = ((second // 60 + self.zone) % 1440) / 60
        weekday = (start + timedelta(seconds=second, minutes=self.zone)).weekday()
        night = hour < 4 or hour >= 23
        intensity = uniform()
        valence = event.valence + 0.3 * (intensity - 0.5) * (event.valence - 0.5) + 0.6 * mood
        valence += 0.05 * _normal(uniform) - 0.03 * night + 0.015 * (weekday >= 5)
        arousal = (
            0.12 + 0.8 * event.arousal + 0.26 * (intensity - 0.5) + self._energy + 0.06 * _normal(uniform)
        )
        arousal -= 0.04 * night
        willingness = self._openness + _OPENNESS_SHIFT.get(category, 0.0) + 0.16 * _normal(uniform)
        willingness += 0.04 * night + 0.3 * mood
        return _State(category, language, event, _clip(valence), _clip(arousal), _clip(willingness))

    def _voice(self, language: str) -> Voice:
        return self._book.voices[language][self._voice_of[language]]

    def _compose(self, state: _State) -> tuple[str, tuple[float, float, float]]:
        uniform = self._uniform
        gender = "m" if uniform() < 0.66 else "f"
        draft = _Draft(dict(_PRONOUNS[gender]))
        voice = self._voice(state.language)
        event = self._say(draft, voice, state.event, 1.0, 0.8)
        chance = uniform()
        if chance < 0.56 - 0.2 * state.willingness:
            clauses = self._short(state, draft, voice, event)
        else:
            clauses = self._longer(
                state, draft, voice, event, 62 if chance > 0.97 - 0.08 * state.willingness else 0
            )
        text = self._join(clauses, state)
        # What has been put into words counts: a reader rates the text, not the mind behind it.
        truth = (
            _blend(state.valence, draft.valence, 0.6),
            _blend(state.arousal, draft.arousal, 0.5),
            _blend(state.willingness, draft.willingness, 0.6) if draft.willingness[1] else
            0.45 * state.willingness + 0.55 * min(0.36 + 0.004 * draft.words, 0.55),
        )  # fmt: skip
        return text, truth

    def _short(self, state: _State, draft: _Draft, voice: Voice, event: str) -> list[str]:
        uniform = self._uniform
        if draft.words > 11 and uniform() < 0.8:
            draft.valence[:], draft.arousal[:], draft.words = [0.0, 0.0], [0.0, 0.0], 0
            event = self._say(
                draft,
                voice,
                voice.pool("detail", state.category).near(uniform, state.valence, state.arousal),
                1,
                1,
            )
        clauses = [event]
        kinds = ["feeling", "stance", "thought", "body"]
        offset = int(uniform() * uniform() * 4)
        for step in range(4):
            if draft.words > 10 or len(clauses) > 2:
                break
            clause = self._clause(kinds[(offset + step) % 4], state, draft, voice, room=14 - draft.words)
            if clause:
                clauses.append(clause)
        return clauses

    def _longer(self, state: _State, draft: _Draft, voice: Voice, event: str, least: int) -> list[str]:
        uniform = self._uniform
        clauses = []
        if uniform() < 0.3:
            clauses.append(self._clause("context", state, draft, voice))
        clauses.append(event)
        if uniform() < 0.55:
            clauses.append(self._clause("detail", state, draft, voice))
        if uniform() < 0.88:
            clauses.append(self._clause("feeling", state, draft, voice))
        middle = ["body", "thought"] if uniform() < 0.5 else ["thought", "body"]
        clauses.extend(self._clause(kind, state, draft, voice) for kind in middle if uniform() < 0.5)
        cycle = ("detail", "thought", "context", "body", "feeling", "stance")
        step = int(uniform() * 6)
        # Length grows with openness, up to where the text stops being a short reflection.
        wanted = max(least, 16 + 22 * state.willingness * uniform())
        for _ in range(14):
            if draft.words >= wanted:
                break
            clauses.append(self._clause(cycle[step % 6], state, draft, voice))
            step += 1
        if draft.willingness[1] == 0 and uniform() < 0.86:
            clauses.append(self._clause("stance", state, draft, voice))
        return [clause for clause in clauses if clause]

    def _clause(self, kind: str, state: _State, draft: _Draft, voice: Voice, room: int = 99) -> str:
        """One clause that says what the state is; empty if it has no room or repeats one."""
        uniform = self._uniform
        if state.language == "hinglish" and kind in ("feeling", "thought", "stance") and uniform() < 0.10:
            voice = self._voice("en")  # code mixing between clauses
        if kind == "stance":
            phrase = voice.pool(kind).near_willingness(uniform, state.willingness)
        elif kind == "context":
            phrase = voice.pool(kind).pick(uniform)
        elif kind == "feeling" and state.category == "sarcasm" and uniform() < 0.5:
            # Sarcasm: the mirrored feeling is claimed, and the opposite is meant.
            mirrored = voice.pool(kind).near(
                uniform, _clip(max(1.05 - state.valence, 0.72)), max(state.arousal, 0.45)
            )
            phrase = Phrase(mirrored.parts, state.valence, state.arousal, 0.5, mirrored.topic)
        else:
            phrase = voice.pool(kind, state.category).near(uniform, state.valence, state.arousal)
        if phrase.topic in draft.topics:
            return ""
        weight = {"stance": 0.0, "context": 0.0, "detail": 0.8}.get(kind, 1.0)
        words = draft.words
        saved = (draft.valence[:], draft.arousal[:])
        clause = self._say(draft, voice, phrase, weight, weight)
        if draft.words - words > room:
            draft.words = words
            draft.valence, draft.arousal = saved
            draft.topics.pop()
            return ""
        if kind == "stance":
            draft.willingness[0] += phrase.willingness
            draft.willingness[1] += 1
        return clause

    def _say(
        self, draft: _Draft, voice: Voice, phrase: Phrase, for_valence: float, for_arousal: float
    ) -> str:
        clause = voice.render(phrase.parts, self._uniform, draft.filled)
        words = clause.replace(" ,", ",").split()
        draft.words += len(words)
        draft.valence[0] += for_valence * phrase.valence
        draft.valence[1] += for_valence
        draft.arousal[0] += for_arousal * phrase.arousal
        draft.arousal[1] += for_arousal
        clause = " ".join(words).rstrip(",")
        draft.topics.append(phrase.topic)
        return clause

    def _join(self, clauses: list[str], state: _State) -> str:
        """Punctuate the clauses; arousal shows in exclamation, stretched words and capitals, calm in dots."""
        uniform = self._uniform
        language, arousal = state.language, state.arousal
        voice = self._voice(language)
        if uniform() < 0.4:
            opener = voice.pool("opener").near_willingness(uniform, state.willingness)
            clauses = [voice.render(opener.parts, uniform, {}) + " " + clauses[0], *clauses[1:]]
        if uniform() < _OATHS.get(state.category, 0.0):
            oath = voice.pool("expletive").near(uniform, state.valence, arousal)
            said = voice.render(oath.parts, uniform, {})
            clauses = [said, *clauses] if uniform() < 0.5 else [*clauses, said]
        clauses = [self._spell(clause, language) for clause in clauses]

        loud = arousal > 0.68
        end = ("!" if uniform() < 0.6 else "!!") if loud and uniform() < 2.5 * (arousal - 0.5) else "."
        if arousal < 0.3 and uniform() < 0.45:
            end = "..."
        conjunction = " and " if language == "en" else " aur "
        out = [clauses[0]]
        fresh = [True]
        for clause in clauses[1:]:
            draw = uniform()
            if draw < 0.35 + 0.5 * self._tidy:
                out.append(
                    (end if loud and uniform() < 0.4 else "...") + " "
                    if end != "." and uniform() < 0.5
                    else ". "
                )
                fresh.append(True)
            else:
                out.append(", " if draw < 0.9 else conjunction if uniform() < 0.6 else " - ")
                fresh.append(False)
            out.append(clause)
        if not self._lower:
            for place, new in enumerate(fresh):
                if new:
                    out[2 * place] = out[2 * place][:1].upper() + out[2 * place][1:]
        text = "".join(out)
        if loud and uniform() < 0.5:
            text = _STRETCHED[language].sub(lambda match: _STRETCH[match[0].lower()], text, count=1)
        if self._lower:
            text = text.lower()
        if arousal > 0.76 and uniform() < 0.22:
            words = text.split(" ")
            at = int(uniform() * len(words))
            words[at : at + 3] = [word.upper() for word in words[at : at + 3]]
            text = " ".join(words)
        if end != "." or uniform() < 0.25 + 0.7 * self._tidy:
            text += end
        if state.category == "sarcasm" and uniform() < 0.42:
            mark = voice.pool("ironic").near(uniform, state.valence, arousal)
            text += " " + voice.render(mark.parts, uniform, {})
        elif uniform() < self._emoji:
            mark = voice.pool("emoji").near(uniform, state.valence, arousal)
            text += " " + voice.render(mark.parts, uniform, {})
        return text

    def _spell(self, clause: str, language: str) -> str:
        """Spelling variants by habit: mostly this owner's own one, sometimes another."""
        variants = self._book.variants[language]
        uniform = self._uniform
        words = clause.split(" ")
        habit = self._habit if language == "hinglish" else 0.5 * self._habit
        for place, word in enumerate(words):
            choices = variants.get(word)
            if choices and uniform() < habit:
                own = self._own_spelling.get(word)
                if own is None or uniform() < 0.15:
                    own = self._own_spelling[word] = choices[int(uniform() * len(choices))]
                words[place] = own
        return " ".join(words)


def _blend(value: float, said: list[float], weight: float) -> float:
    return value if not said[1] else (1 - weight) * value + weight * said[0] / said[1]
