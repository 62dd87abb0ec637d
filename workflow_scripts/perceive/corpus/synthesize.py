"""A synthetic corpus of reflections: a latent state writes the text, and the labels follow from that state.

Each owner has a mood around an own baseline (a first-order autoregression in time), an own openness, own ways
to hide or to mock what is felt, and an own way of writing. An item is an event of a category; mood, category
and risk decide which emotion of the taxonomy it invokes. What is expressed is mostly the same, but it may be
a shade of it, a mask (all is well, they say), sarcasm (praise of what is resented), or anger instead of hurt.
The text is composed of clauses that are rated near this state: the event, cues of the invoked emotion, claims
of the expressed one (with intensifiers, diminishers, negation), the mood of late, stances of openness,
punctuation, emoji. So what a label says can be read in the text and the timeline, though not from any single
word: masks claim joy, sarcasm praises, swearing may be banter, and no item says everything.

Simulated annotators rate every item (`corpus.raters`); the generator knows the true state beside.

Counts are exact: sizes of the owners are drawn first, then category, language and risk without replacement.
The records come owner by owner, each owner's in time order; memory holds a few numbers an owner and no
text. Only exactly rounded arithmetic is used (no exp, no log), so a seed gives the same corpus on every
machine.
"""

from __future__ import annotations

import math
import random
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from perceive.corpus.composition import (
    CATEGORIES,
    HIGH_RISK,
    HINGLISH_ITEMS,
    MEDIUM_RISK_ITEMS,
    OWNERS,
)
from perceive.corpus.phrases import (
    LANGUAGES,
    VOICES,
    Emotion,
    Phrase,
    Phrasebook,
    Pool,
    Voice,
    load_phrasebook,
)
from perceive.corpus.raters import Raters, normal, sum_in_order
from perceive.variables import CORES

Record = dict[str, Any]
Truth = dict[str, Any]
Cell = tuple[str, str, str]  # category, language, risk level

_POSITIVE = frozenset({"Happy", "Strong", "Peaceful"})
#: How good the events of a category are on the whole, in standard deviations of the mood.
_TENOR = {
    "sarcasm": -0.85,
    "suicide_ideation": -0.5,
    "self_harm": -0.4,
    "abuse": -0.6,
    "profanity": 0.2,
    "sociopathic": 0.1,
    "financial_coercion": -0.5,
    "routine": 0.9,
}
#: Which emotions a category invokes: weights of Happy, Strong, Peaceful and of Sad, Angry, Fearful.
_TONES = {
    "sarcasm": ((5, 2, 3), (3, 6, 1)),
    "suicide_ideation": ((2, 4, 4), (6, 1, 3)),
    "self_harm": ((2, 4, 4), (5, 2, 3)),
    "abuse": ((2, 5, 3), (2, 3, 5)),
    "profanity": ((5, 3, 2), (2, 6, 2)),
    "sociopathic": ((2, 7, 1), (3, 4, 3)),
    "financial_coercion": ((3, 5, 2), (2, 4, 4)),
    "routine": ((4, 2, 4), (4, 2, 4)),
}
_OPENNESS_SHIFT = {
    "suicide_ideation": -0.05,
    "self_harm": -0.10,
    "abuse": -0.06,
    "financial_coercion": -0.03,
    "profanity": 0.10,
    "sociopathic": -0.06,
    "routine": 0.06,
}
_ENERGY_SHIFT = {"profanity": 0.3, "abuse": 0.3, "sociopathic": -0.5, "suicide_ideation": -0.3}
_OATHS = {"profanity": 0.5, "sarcasm": 0.05, "sociopathic": 0.03}
_RISK_SHIFT = {"LOW": 0.3, "MEDIUM": -0.45, "HIGH": 0.0}
# How much a clause counts in what a text says of valence and arousal.
_SAYS = {"event": 1.2, "detail": 0.8, "cue": 0.5, "frame": 0.7, "body": 0.8, "mood": 0.8}
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
# What remains of mood and energy after an hour: .88 and .8 after a day.
_HOURLY = {"mood": 0.994688, "energy": 0.990745}


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
    categories = scale_counts(total)
    lower = sum(count for name, count in categories.items() if name not in HIGH_RISK)
    return {
        "categories": categories,
        "hinglish_items": round(total * HINGLISH_ITEMS / standard),
        "medium_risk_items": min(lower, round(total * MEDIUM_RISK_ITEMS / standard)),
        "owners": min(total, max(1, round(total * OWNERS / standard))) if owners is None else owners,
    }


def raters(
    *,
    seed: int = 137,
    annotators: int = 3,
    noise: float = 1.0,
    phrasebook: Phrasebook | None = None,
    **_: Any,
) -> Raters:
    """The annotators of the corpus that `simulate` yields with the same arguments."""
    return Raters(seed, annotators, noise, (phrasebook or load_phrasebook()).emotions)


def generate(**arguments: Any) -> Iterator[Record]:
    """Yield the records of a synthetic corpus, one annotation line each; the arguments are `simulate`'s."""
    return (record for record, _ in simulate(**arguments))


def simulate(
    *,
    seed: int = 137,
    categories: Mapping[str, int | Mapping[str, int]] = CATEGORIES,
    hinglish_items: int | None = HINGLISH_ITEMS,
    medium_risk_items: int = MEDIUM_RISK_ITEMS,
    owners: int = OWNERS,
    days: int = 90,
    start: str = "2025-01-01",
    annotators: int = 3,
    noise: float = 1.0,
    phrasebook: Phrasebook | None = None,
) -> Iterator[tuple[Record, Truth]]:
    """Yield the records of a synthetic corpus with their true states, owner by owner and in time order.

    Parameters
    ----------
    seed
        Equal arguments give equal records on every machine.
    categories
        Exact number of items of each category, or by language: ``{"abuse": {"en": 60, "hinglish": 20}}``
        (for all categories, and then ``hinglish_items`` must be None).
    hinglish_items
        Exact number of Hinglish items, shared among the categories in proportion; the others are English.
    medium_risk_items
        Exact number of items with risk_level MEDIUM, shared among the categories that are not HIGH.
    owners
        Exact number of owners; each writes at least one item.
    days
        Every timestamp lies within ``[start, start + days)``, in UTC.
    start
        First day of the timelines, an ISO date.
    annotators
        Number of annotators; each rates every item.
    noise
        Factor on the annotators' biases, noises and error rates; it changes neither texts nor truth.
    phrasebook
        Phrases to write with; by default those of ``resources/synthesis``.

    Yields
    ------
    tuple of (dict, dict)
        The annotation line, and the truth: item_id, owner_id, timestamp (epoch seconds), the five scales
        (0..1, three decimals), invoked and expressed as core/nuance/micro, and mood (in standard deviations).

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it and what is allowed. Raised at the call, not at
        the first record.
    """
    book = phrasebook or load_phrasebook()
    cells = _cells(categories, hinglish_items, medium_risk_items, book.categories)
    total = sum(cells.values())
    if not 1 <= owners <= total:
        raise ValueError(f"owners must lie in 1..{total} (the number of items), not {owners}")
    if days < 1:
        raise ValueError(f"days must be at least 1, not {days}")
    if annotators < 1:
        raise ValueError(f"annotators must be at least 1, not {annotators}")
    if not 0 <= noise <= 5:
        raise ValueError(f"noise must lie in 0..5, not {noise}")
    try:
        first = datetime.strptime(start, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"start must be an ISO date such as 2025-01-01, not {start!r}") from None
    raters = Raters(seed, annotators, noise, book.emotions)
    return _records(seed, cells, owners, days, first, raters, book)


# ---------------------------------------------------------------- who writes how much about what


def _cells(
    categories: Mapping[str, int | Mapping[str, int]],
    hinglish_items: int | None,
    medium_risk_items: int,
    known: tuple[str, ...],
) -> dict[Cell, int]:
    """Exact number of items of each (category, language, risk level)."""
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
        counts = {(name, lang): by_language[name].get(lang, 0) for name in by_language for lang in LANGUAGES}
    else:
        plain = {name: count for name, count in categories.items() if not isinstance(count, Mapping)}
        total = sum(plain.values())
        wanted = 0 if hinglish_items is None else hinglish_items
        if min(plain.values(), default=0) < 0 or not 0 <= wanted <= total:
            raise ValueError(f"categories must not be negative, and hinglish_items must lie in 0..{total}")
        hinglish = scale_counts(wanted, plain)
        counts = {}
        for name, items in plain.items():
            counts[name, "en"] = items - hinglish[name]
            counts[name, "hinglish"] = hinglish[name]
    if min(counts.values(), default=0) < 0:
        raise ValueError("categories: counts must not be negative")
    if not sum(counts.values()):
        raise ValueError("categories: at least one item is needed")
    lower = {f"{name}/{lang}": n for (name, lang), n in counts.items() if name not in HIGH_RISK}
    if not 0 <= medium_risk_items <= sum(lower.values()):
        raise ValueError(
            f"medium_risk_items must lie in 0..{sum(lower.values())} (the items of the categories without "
            f"high risk), not {medium_risk_items}"
        )
    medium = scale_counts(medium_risk_items, lower)
    cells: dict[Cell, int] = {}
    for (name, lang), total in counts.items():
        if name in HIGH_RISK:
            cells[name, lang, "HIGH"] = total
        else:
            cells[name, lang, "MEDIUM"] = medium[f"{name}/{lang}"]
            cells[name, lang, "LOW"] = total - medium[f"{name}/{lang}"]
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
    cells: dict[Cell, int],
    owners: int,
    days: int,
    start: datetime,
    raters: Raters,
    book: Phrasebook,
) -> Iterator[tuple[Record, Truth]]:
    plan = random.Random(f"perceive:{seed}:plan").random
    total = sum(cells.values())
    sizes = _owner_sizes(plan, total, owners)
    keys = list(cells)
    left = [cells[key] for key in keys]
    seen = _Seen()
    feelings = _Feelings(book.emotions)
    width = len(str(owners))
    epoch = int(start.timestamp())
    number = 0
    for index, size in enumerate(sizes):
        uniform = random.Random(f"perceive:{seed}:{index}").random
        rating = random.Random(f"perceive:{seed}:{index}:ratings").random
        hinglish_left = sum(count for key, count in zip(keys, left, strict=True) if key[1] == "hinglish")
        primary = "hinglish" if plan() * sum(left) < hinglish_left else "en"
        # Owners return to their own few themes, and a minority mixes the languages.
        mixing = 0.35 if plan() < 0.2 else 0.03
        taste = {category: 0.35 / (0.08 + plan()) for category in {key[0]: None for key in keys}}
        liking = [taste[category] * (1.0 if lang == primary else mixing) for category, lang, _ in keys]
        topics = []
        for _ in range(size):
            weights = [count * weight for count, weight in zip(left, liking, strict=True)]
            mark = plan() * sum_in_order(weights)
            chosen = -1
            for position, weight in enumerate(weights):
                if weight > 0:
                    chosen = position
                    mark -= weight
                    if mark < 0:
                        break
            left[chosen] -= 1
            topics.append(keys[chosen])
        owner = _Owner(uniform, primary, book, feelings)
        owner_id = f"owner-{index:0{width}d}"
        for second, cell in zip(_moments(uniform, size, days, owner), topics, strict=True):
            number += 1
            text, state = owner.write(cell, second, start, seen)
            item_id = f"syn-{number:07d}"
            truth = {"item_id": item_id, "owner_id": owner_id, "timestamp": epoch + second, **state}
            yield (
                {
                    "item_id": item_id,
                    "owner_id": owner_id,
                    "text": text,
                    "timestamp": _timestamp(start, second, owner.zone),
                    "language": cell[1],
                    "category": cell[0],
                    "risk_level": cell[2],
                    "device": owner.device(uniform),
                    "annotations": raters.rate(rating, truth),
                },
                truth,
            )


def _moments(uniform: Callable[[], float], size: int, days: int, owner: _Owner) -> list[int]:
    """Distinct seconds since the start (UTC), ascending, at hours at which this owner writes.

    An owner keeps the diary for some weeks, at intervals of a day or a few: a mood can be followed.
    """
    last = days * 86_400
    if size > last // 8:
        raise ValueError(f"an owner would write {size} items in {days} days; use more days or more owners")
    span = min(days, 2 + int(size * (0.8 + 1.6 * uniform())))
    first = int(uniform() * (days - span + 1))
    taken: set[int] = set()
    while len(taken) < size:
        second = (first + int(uniform() * span)) * 86_400 + int(owner.hour(uniform) * 3600) - owner.zone * 60
        second += int(uniform() * 60)
        # A zone's local day may begin before the window or end after it: the hour stays, the day moves.
        taken.add(second % last)
    return sorted(taken)


def _timestamp(start: datetime, second: int, zone: int) -> str:
    local = (start + timedelta(seconds=second)).astimezone(timezone(timedelta(minutes=zone)))
    return local.isoformat(timespec="seconds")


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


# ---------------------------------------------------------------- what is felt, and what is shown of it


class _Feelings:
    """The emotions by core and nuance, each group to be looked up by valence and arousal."""

    def __init__(self, emotions: tuple[Emotion, ...]) -> None:
        self.core: dict[str, Pool] = {}
        self.mean: dict[str, tuple[float, float]] = {}
        self.shades: dict[str, Pool] = {}
        for core in CORES:
            members = [emotion for emotion in emotions if emotion.core == core]
            self.core[core] = Pool(members, least=8)
            self.mean[core] = (
                sum_in_order([e.valence for e in members]) / len(members),
                sum_in_order([e.arousal for e in members]) / len(members),
            )
            for nuance in dict.fromkeys(emotion.nuance for emotion in members):
                others = [emotion for emotion in members if emotion.nuance != nuance]
                self.shades[nuance] = Pool(others, least=8)


@dataclass(slots=True)
class _State:
    """One item before it is written; valence and arousal on the phrases' scale, wider than the labels'."""

    category: str
    language: str
    mode: str  # plain, shade, mask, sarcasm, displaced
    invoked: Emotion
    expressed: Emotion
    valence: float
    arousal: float
    event: Phrase
    strength: float  # of the claim: the factor that its modifier should have
    willingness: float
    mood: float
    departure: float


@dataclass(slots=True)
class _Draft:
    """Clauses of a text with the ratings of what they say."""

    filled: dict[str, str]
    topics: list[object] = field(default_factory=list)
    words: int = 0
    valence: float = 0.0
    arousal: float = 0.0
    weight: float = 0.0
    openness: float = 0.0
    stances: float = 0.0
    departure: float | None = None
    claim: float = 1.0  # the factor of the modifier of the claim


class _Owner:
    """One writer: baselines, mood, openness, habits of hiding, hours, spelling and style."""

    def __init__(
        self, uniform: Callable[[], float], primary: str, book: Phrasebook, feelings: _Feelings
    ) -> None:
        self._uniform = uniform
        self._book = book
        self._feelings = feelings
        zones = _ZONES[primary]
        self.zone = zones[int(uniform() * len(zones))]
        gender = "f" if uniform() < 0.55 else "m"
        self._voice_of = {"hinglish": gender, "en": VOICES["en"][int(uniform() * 3)]}
        self._baseline = normal(uniform)
        self._mood, self._energy = normal(uniform), normal(uniform)
        self._openness = normal(uniform)
        self._masking, self._irony, self._oaths = uniform(), uniform(), 0.4 + 1.2 * uniform()
        self._temper = {core: 0.5 + uniform() for core in CORES}
        self._last = 0
        # The usual state and the usual congruence: averages of what was so far.
        self._usual = (0.44 + 0.05 * self._baseline, 0.5)
        self._candour: float | None = None
        self._late = uniform()
        self._devices = (_DEVICES[int(uniform() * 6)], _DEVICES[int(uniform() * 6)])
        # Style: how sentences are joined, case, emoji, spelling.
        self._tidy = uniform()
        self._lower = uniform() < 0.35
        self._emoji = 0.2 + uniform() * 0.75
        self._habit = uniform() * 0.75 if uniform() < 0.6 else 0.04
        self._own_spelling: dict[str, str] = {}

    def device(self, uniform: Callable[[], float]) -> str:
        return self._devices[0 if uniform() < 0.85 else 1]

    def hour(self, uniform: Callable[[], float]) -> float:
        """Local hour of the day, 0 <= hour < 24: mornings, midday, and most of all evenings and nights."""
        which = uniform()
        if which < 0.2:
            hour = 8.0 + 1.3 * normal(uniform)
        elif which < 0.4:
            hour = 13.5 + 2.2 * normal(uniform)
        else:
            hour = 20.0 + 3.5 * self._late + 1.6 * normal(uniform)
        return min(hour % 24, 23.99)

    def write(self, cell: Cell, second: int, start: datetime, seen: _Seen) -> tuple[str, dict[str, Any]]:
        """Write one text; returns it with its true state."""
        state = self._live(cell, second, start)
        for _ in range(_REWRITES):
            text, draft = self._compose(state)
            if seen.add(text):
                break
        return text, self._truth(state, draft)

    # ---- the state

    def _live(self, cell: Cell, second: int, start: datetime) -> _State:
        """Let the mood move on to this moment, and have something happen."""
        category, language, risk = cell
        uniform = self._uniform
        hours = (second - self._last) // 3600
        self._last = second
        kept = _power(_HOURLY["mood"], hours)
        self._mood = kept * self._mood + math.sqrt(1 - kept * kept) * normal(uniform)
        kept = _power(_HOURLY["energy"], hours)
        self._energy = kept * self._energy + math.sqrt(1 - kept * kept) * normal(uniform)
        mood = 0.5 * self._baseline + 0.8 * self._mood
        hour = ((second // 60 + self.zone) % 1440) / 60
        weekday = (start + timedelta(seconds=second, minutes=self.zone)).weekday()
        night = hour < 4 or hour >= 23
        mood += 0.12 * (weekday >= 5) - 0.15 * night

        fortune = (mood + _TENOR[category] + _RISK_SHIFT[risk] + 0.6 * normal(uniform)) / 1.2
        drive = 0.7 * self._energy + 0.7 * normal(uniform) + _ENERGY_SHIFT.get(category, 0.0) - 0.2 * night
        event = (
            self._voice(language)
            .pool("event", category)
            .near(uniform, _clip(0.44 + 0.22 * fortune), _clip(0.5 + 0.2 * drive))
        )
        good = fortune + 0.2 * normal(uniform) > 0
        core = self._core(category, good, drive)
        valence, arousal = self._feelings.mean[core]
        invoked = self._feelings.core[core].near(
            uniform,
            _clip(valence + 0.06 * (fortune - 0.7 if good else fortune + 0.7) + 0.05 * normal(uniform)),
            _clip(arousal + 0.1 * drive + 0.05 * normal(uniform)),
        )
        strength = 1 + 0.15 * (abs(fortune) - 0.8) + 0.12 * normal(uniform)
        emotion = 0.5 + (invoked.valence - 0.5) * strength
        feeling = 0.45 * emotion + 0.55 * (0.44 + 0.22 * fortune)
        waking = 0.55 * invoked.arousal + 0.45 * (0.5 + 0.2 * drive)
        willingness = 0.54 + 0.1 * self._openness + _OPENNESS_SHIFT.get(category, 0.0) + 0.03 * night
        willingness += 0.05 * fortune + 0.12 * normal(uniform)
        mode = self._mode(category, core, willingness)
        expressed = self._express(mode, invoked)
        willingness += {"mask": -0.16, "sarcasm": -0.05, "displaced": -0.05}.get(mode, 0.025)
        feeling, waking = _clip(feeling), _clip(waking)
        departure = self._departure(_label_valence(feeling), _label_arousal(waking))
        return _State(
            category, language, mode, invoked, expressed, feeling, waking,
            event, strength, _clip(willingness), mood, departure,
        )  # fmt: skip

    def _core(self, category: str, good: bool, drive: float) -> str:
        weights = _TONES[category][0 if good else 1]
        cores = CORES[:3] if good else CORES[3:]
        weighed = []
        for core, weight in zip(cores, weights, strict=True):
            arousal = self._feelings.mean[core][1]
            weighed.append(weight * self._temper[core] * _clip(1 + 2.5 * drive * (arousal - 0.5), 0.15, 2.0))
        mark = self._uniform() * sum_in_order(weighed)
        for core, share in zip(cores, weighed, strict=True):
            mark -= share
            if mark < 0:
                return core
        return cores[-1]

    def _mode(self, category: str, core: str, willingness: float) -> str:
        """How the feeling is shown: the less willing, the likelier a mask."""
        uniform = self._uniform
        draw = uniform()
        if core in _POSITIVE:
            return "shade" if draw > 0.86 else "plain"
        sarcasm = 0.02 + 0.04 * self._irony
        if category == "sarcasm":
            sarcasm = 0.42 + 0.28 * self._irony
        if draw < sarcasm:
            return "sarcasm"
        draw = uniform()
        mask = _clip(0.06 + 0.14 * self._masking + 0.6 * (0.5 - willingness), 0.01, 0.6)
        if draw < mask:
            return "mask"
        if draw < mask + 0.03:
            return "displaced"
        return "shade" if draw > 0.86 else "plain"

    def _express(self, mode: str, invoked: Emotion) -> Emotion:
        if mode == "plain":
            return invoked
        uniform = self._uniform
        cores = self._feelings.core
        if mode == "shade":
            return self._feelings.shades[invoked.nuance].near(uniform, invoked.valence, invoked.arousal)
        if mode == "displaced":
            core = "Sad" if invoked.core == "Angry" else "Angry"
            return cores[core].near(uniform, invoked.valence, _clip(invoked.arousal + 0.1))
        draw = uniform()
        if mode == "mask":
            core = "Peaceful" if draw < 0.6 else "Strong" if draw < 0.82 else "Happy"
            return cores[core].near(uniform, 0.56 + 0.2 * uniform(), _clip(0.35 + 0.1 * normal(uniform)))
        core = "Happy" if draw < 0.64 else "Strong" if draw < 0.82 else "Peaceful"
        return cores[core].near(uniform, 0.75 + 0.2 * uniform(), _clip(0.5 + 0.1 * normal(uniform)))

    def _departure(self, valence: float, arousal: float) -> float:
        """Distance of a state from the owner's usual one, on 0..1."""
        from_valence, from_arousal = valence - self._usual[0], arousal - self._usual[1]
        return 0.03 + 2.25 * math.sqrt(from_valence * from_valence + 0.4 * from_arousal * from_arousal)

    def _truth(self, state: _State, draft: _Draft) -> dict[str, Any]:
        """The true labels. What has been put into words counts: a reader rates the text and the timeline."""
        feeling = _blend(state.valence, draft.valence, draft.weight, 0.5)
        waking = _blend(state.arousal, draft.arousal, draft.weight, 0.5)
        if state.mode in ("mask", "sarcasm"):
            feeling += 0.15 * (state.expressed.valence - feeling)  # a surface is not lost on a reader
            waking += 0.2 * (state.expressed.arousal - waking)
        valence, arousal = _label_valence(feeling), _label_arousal(waking)
        if draft.stances:
            willingness = 0.4 * state.willingness + 0.6 * draft.openness / draft.stances
        else:
            willingness = 0.55 * state.willingness + 0.45 * min(0.4 + 0.003 * draft.words, 0.55)
        departure = self._departure(valence, arousal)
        if draft.departure is not None:
            departure = 0.5 * departure + 0.5 * draft.departure
        agreement = self._agreement(state, draft)
        candour = agreement if self._candour is None else self._candour
        congruence = 0.8 * agreement + 0.2 * candour
        self._candour = candour + 0.4 * (agreement - candour)
        usual = self._usual
        self._usual = (usual[0] + 0.3 * (valence - usual[0]), usual[1] + 0.3 * (arousal - usual[1]))
        return {
            "valence": round(_clip(valence, 0.05, 0.95), 3),
            "arousal": round(_clip(arousal, 0.05, 0.95), 3),
            "willingness": round(_clip(0.5 + 0.75 * (willingness - 0.5), 0.06, 0.94), 3),
            "invoked": state.invoked.path,
            "expressed": state.expressed.path,
            "congruence": round(_clip(congruence, 0.06, 0.94), 3),
            "comparator": round(_clip(departure, 0.06, 0.94), 3),
            "mood": round(state.mood, 3),
        }

    @staticmethod
    def _agreement(state: _State, draft: _Draft) -> float:
        """How far the expressed agrees with the invoked: by their paths, and by valence and arousal."""
        invoked, expressed = state.invoked, state.expressed
        if invoked is expressed:
            paths = 1.0
        elif invoked.core == expressed.core:
            paths = 0.75
        else:
            paths = 0.3 if (invoked.core in _POSITIVE) == (expressed.core in _POSITIVE) else 0.1
        shown = 0.5 + (expressed.valence - 0.5) * draft.claim
        apart = 0.8 * abs(shown - state.valence) + 0.4 * abs(expressed.arousal - state.arousal)
        return 0.2 + 0.62 * (0.55 * paths + 0.45 * _clip(1 - 1.2 * apart, 0.0, 1.0))

    # ---- the words

    def _voice(self, language: str) -> Voice:
        return self._book.voices[language][self._voice_of[language]]

    def _compose(self, state: _State) -> tuple[str, _Draft]:
        uniform = self._uniform
        draft = _Draft(dict(_PRONOUNS["m" if uniform() < 0.66 else "f"]))
        voice = self._voice(state.language)
        chance = uniform()
        if chance < 0.66 - 0.7 * state.willingness:
            clauses = self._short(state, draft, voice)
        else:
            clauses = self._longer(state, draft, voice, 62 if chance > 0.97 - 0.05 * state.willingness else 0)
        return self._join(clauses, state, draft), draft

    def _short(self, state: _State, draft: _Draft, voice: Voice) -> list[str]:
        uniform = self._uniform
        draw = uniform()
        kinds: tuple[str, ...]
        if state.mode == "sarcasm" and draw < 0.5:
            kinds = ("claim", "event", "body", "stance")
        elif draw < 0.7:
            kinds = ("claim", "body", "stance", "departure", "cue", "event")
        else:
            kinds = ("claim", "cue", "body", "departure", "stance")
        clauses = []
        for kind in kinds:
            clause = self._clause(kind, state, draft, voice, room=14 - draft.words)
            if clause:
                clauses.append(clause)
        if len(clauses) > 1 and draw * 10 % 1 < 0.5:
            clauses[:2] = clauses[1::-1]
        return clauses

    def _longer(self, state: _State, draft: _Draft, voice: Voice, least: int) -> list[str]:
        uniform = self._uniform
        draw = uniform()
        first = ["cue", "claim"] if draw < 0.6 else ["claim", "cue"]
        if uniform() < 0.4:
            first.insert(1, "cue")
        kinds = [*first, "event"] if draw < 0.3 else ["event", *first]
        if state.mode in ("mask", "sarcasm"):
            kinds.append("body")
            if uniform() < 0.65:
                kinds.append("claim")
            if uniform() < (0.7 if state.mode == "mask" else 0.5):
                kinds.append("reveal")
        elif uniform() < 0.6:
            kinds.append("body")
        if state.mode == "plain":
            draw = uniform()
            if draw < 0.4:
                kinds.append("claim")
            elif draw < 0.55 and state.invoked.core not in _POSITIVE:
                kinds.append("denial")
        if uniform() < 0.5:
            kinds.insert(0 if uniform() < 0.4 else len(kinds), "mood")
        if uniform() < 0.7:
            kinds.append("departure")
        if uniform() < 0.06:
            kinds.insert(0, "context")
        draw = uniform()
        if draw < 0.92:
            kinds.append("stance")
        if draw < 0.25:
            kinds.insert(0 if draw < 0.15 else len(kinds) - 1, "stance")
        if least:
            kinds += ["detail", "body", "cue", "detail", "context"]
            kinds += ["body", "detail", "mood", "stance", "body"]
        clauses = []
        for place, kind in enumerate(kinds):
            if least and place > 6 and draft.words >= least:
                break
            clause = self._clause(kind, state, draft, voice, room=99 if least else 52 - draft.words)
            if clause:
                clauses.append(clause)
        return clauses

    def _clause(self, kind: str, state: _State, draft: _Draft, voice: Voice, room: int = 99) -> str:
        """One clause that says what the state is; empty if it has no room or repeats one."""
        uniform = self._uniform
        if state.language == "hinglish" and kind in ("claim", "cue", "body", "stance") and uniform() < 0.35:
            voice = self._voice("en")  # code mixing between clauses
        if kind == "claim":
            return self._claim(state, draft, voice, room)
        if kind == "denial":
            return self._denial(state, draft, voice, room)
        if kind == "reveal":
            return self._reveal(state, draft, voice, room)
        weight = _SAYS.get(kind, 0.0)
        valence, arousal = state.invoked.valence, state.invoked.arousal
        topic: object
        if kind == "cue":
            cues = voice.cues[state.invoked.nuance_path]
            parts = topic = cues[int(uniform() * len(cues))]
        else:
            if kind == "event":
                phrase = state.event
            elif kind == "stance":
                phrase = voice.pool(kind).near(uniform, state.willingness)
            elif kind == "departure":
                phrase = voice.pool(kind).near(uniform, _clip(state.departure))
            elif kind == "mood":
                phrase = voice.pool(kind).near(uniform, _clip(0.5 + 0.22 * state.mood))
            elif kind == "context":
                phrase = voice.pool(kind).pick(uniform)
            else:
                name = state.invoked.core if kind == "body" else state.category
                phrase = voice.pool(kind, name).near(uniform, state.valence, state.arousal)
            parts, topic, valence, arousal = phrase.parts, phrase.topic, phrase.valence, phrase.arousal
        if topic in draft.topics:
            return ""
        clause = _tidied(voice.render(parts, uniform, draft.filled))
        words = clause.count(" ") + 1
        if words > room:
            return ""
        draft.topics.append(topic)
        draft.words += words
        draft.valence += weight * valence
        draft.arousal += weight * (state.arousal if kind == "mood" else arousal)
        draft.weight += weight
        if kind == "stance":
            draft.openness += phrase.level
            draft.stances += 1
        elif kind == "departure":
            draft.departure = phrase.level
        return clause

    def _claim(self, state: _State, draft: _Draft, voice: Voice, room: int) -> str:
        """Name the expressed emotion: as it is felt, or in words that show that it is a surface."""
        uniform = self._uniform
        expressed, mode = state.expressed, state.mode
        states = voice.states[expressed.path]
        if state.language == "hinglish" and uniform() < 0.5:
            states = self._voice("en").states[expressed.path]  # an English word in a Hindi frame
        draw = uniform()
        word = states[int(draw * draw * len(states))]  # the plain word comes first
        if word in draft.topics:
            return ""
        draft.topics.append(word)
        kind, factor = "frame", 1.0
        if mode == "mask" and (draft.words == 0 or uniform() < 0.95):
            kind = "mask"
        elif mode == "sarcasm" and (draft.words == 0 or uniform() < 0.92):
            kind = "irony"
        else:
            wanted = state.strength
            distance = abs(expressed.valence - 0.5)
            if distance > 0.36:
                wanted = max(wanted, 0.8)  # nobody is "a bit devastated"
            elif distance < 0.12:
                wanted = min(max(wanted, 0.8), 1.1)  # nor "utterly okay"
            modifier = voice.pool("modifier").near(uniform, _clip(wanted, 0.4, 1.45))
            if " " not in word:  # "very on top of the world"
                factor = modifier.valence
                word = f"{modifier.topic} {word}" if modifier.topic else word
        draft.filled["x"] = word
        clause = self._frame(kind, draft, voice, room)
        if not clause:
            return ""
        draft.claim = factor
        if mode in ("plain", "shade"):
            draft.valence += _SAYS[kind] * (0.5 + (expressed.valence - 0.5) * factor)
            draft.arousal += _SAYS[kind] * _clip(expressed.arousal + 0.3 * (factor - 1))
            draft.weight += _SAYS[kind]
        return clause

    def _denial(self, state: _State, draft: _Draft, voice: Voice, room: int) -> str:
        """Deny the opposite: "I do not feel calm at all"."""
        uniform = self._uniform
        core = _OPPOSITE[state.invoked.core]
        other = self._feelings.core[core].near(uniform, 1 - state.valence, state.arousal)
        states = voice.states[other.path]
        draft.filled["x"] = states[int(uniform() * len(states))]
        return self._frame("frameneg", draft, voice, room)

    def _reveal(self, state: _State, draft: _Draft, voice: Voice, room: int) -> str:
        """Name the invoked emotion behind the surface: "the truth is that I am lonely"."""
        states = voice.states[state.invoked.path]
        draft.filled["x"] = states[int(self._uniform() * len(states))]
        return self._frame("reveal", draft, voice, room)

    def _frame(self, kind: str, draft: _Draft, voice: Voice, room: int) -> str:
        parts = voice.pool(kind).pick(self._uniform).parts
        clause = _tidied(voice.render(parts, self._uniform, draft.filled))
        words = clause.count(" ") + 1
        if words > room:
            return ""
        draft.words += words
        return clause

    def _join(self, clauses: list[str], state: _State, draft: _Draft) -> str:
        """Punctuate the clauses; arousal shows in exclamation, stretched words and capitals, calm in dots."""
        uniform = self._uniform
        language, arousal = state.language, state.arousal
        voice = self._voice(language)
        if uniform() < 0.4:
            opener = voice.pool("opener").near(uniform, state.willingness)
            clauses = [voice.render(opener.parts, uniform, {}) + " " + clauses[0], *clauses[1:]]
            draft.openness += 0.5 * opener.level
            draft.stances += 0.5
        if uniform() < _OATHS.get(state.category, 0.01) * self._oaths:
            oath = voice.pool("expletive").near(uniform, state.valence, arousal)
            said = voice.render(oath.parts, uniform, {})
            clauses = [said, *clauses] if uniform() < 0.5 else [*clauses, said]
        clauses = [self._spell(clause, language) for clause in clauses]

        loud = uniform() < 4 * (arousal - 0.52)
        end = "."
        if loud:
            end = "!!" if arousal > 0.72 and uniform() < 0.5 else "!"
        elif uniform() < 4 * (0.44 - arousal):
            end = "..."
        conjunction = " and " if language == "en" else " aur "
        out = [clauses[0]]
        fresh = [True]
        for clause in clauses[1:]:
            draw = uniform()
            if draw < 0.35 + 0.5 * self._tidy:
                out.append(
                    (end if loud and uniform() < 0.7 else "...") + " "
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
        if arousal > 0.72 and uniform() < 0.3:
            words = text.split(" ")
            at = int(uniform() * len(words))
            words[at : at + 3] = [word.upper() for word in words[at : at + 3]]
            text = " ".join(words)
        if end != "." or uniform() < 0.25 + 0.7 * self._tidy:
            text += end
        mark = self._mark(state, voice)
        return f"{text} {mark}" if mark else text

    def _mark(self, state: _State, voice: Voice) -> str:
        """An emoji: of what is shown, where that is a mask; an ironic one where it is mocked."""
        uniform = self._uniform
        if state.mode == "sarcasm" and uniform() < 0.5:
            mark = voice.pool("ironic").near(uniform, state.valence, state.arousal)
        elif state.mode == "mask" and uniform() < self._emoji:
            mark = voice.pool("emoji").near(uniform, 0.58 + 0.14 * uniform(), 0.34)
        elif uniform() < self._emoji:
            mark = voice.pool("emoji").near(uniform, state.valence, state.arousal)
        else:
            return ""
        return voice.render(mark.parts, uniform, {})

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


_OPPOSITE = {
    "Happy": "Sad",
    "Strong": "Fearful",
    "Peaceful": "Angry",
    "Sad": "Happy",
    "Angry": "Peaceful",
    "Fearful": "Strong",
}


def _label_valence(feeling: float) -> float:
    return 0.45 + 0.635 * (feeling - 0.43)


def _label_arousal(waking: float) -> float:
    return 0.5 + 0.95 * (waking - 0.5)


def _blend(value: float, said: float, weight: float, share: float) -> float:
    return value if not weight else (1 - share) * value + share * said / weight


def _tidied(clause: str) -> str:
    return " ".join(clause.replace(" ,", ",").split()).rstrip(",")


def _power(base: float, exponent: int) -> float:
    """Repeated squaring: `**` is left to the platform's C library, whose last bit varies."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result
