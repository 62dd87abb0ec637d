"""What a synthetic corpus holds, and how well any model could do on it: the exact noise ceilings.

Everything is gathered in one pass by running sums and counters; no text and no item is kept.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from typing import Any

from perceive.corpus.raters import Raters
from perceive.corpus.reader import length_bucket, plurality_path
from perceive.io import PathLike, atomic_path
from perceive.variables import HIERARCHIES, SCALES

_LEVELS = ("core", "nuance", "micro")
_COLUMNS = ("category", "language", "risk_level")
_BINS = 20


class _Scale:
    """Running sums of a scale: what a perfect model would say against the mean rating."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = [0.0] * 5  # of x, y, xx, yy, xy; x the perfect answer, y the mean rating
        self.squares = self.absolute = 0.0
        self.histogram = [0] * _BINS

    def add(self, perfect: float, rating: float) -> None:
        self.count += 1
        sums = self.sums
        sums[0] += perfect
        sums[1] += rating
        sums[2] += perfect * perfect
        sums[3] += rating * rating
        sums[4] += perfect * rating
        error = perfect - rating
        self.squares += error * error
        self.absolute += abs(error)
        self.histogram[min(int(rating * _BINS), _BINS - 1)] += 1

    def ceiling(self) -> dict[str, float]:
        x, y, xx, yy, xy = (total / self.count for total in self.sums)
        spread = max(xx - x * x, 0.0) * max(yy - y * y, 0.0)
        r = min((xy - x * y) / math.sqrt(spread), 1.0) if spread > 0 else math.nan
        return {
            "pearson": _rounded(r),
            "rmse": _rounded(math.sqrt(self.squares / self.count)),
            "mae": _rounded(self.absolute / self.count),
        }

    def distribution(self) -> dict[str, Any]:
        x, y, xx, yy, _ = (total / self.count for total in self.sums)
        return {
            "mean": _rounded(y),
            "sd": _rounded(math.sqrt(max(yy - y * y, 0.0))),
            "true_mean": _rounded(x),
            "true_sd": _rounded(math.sqrt(max(xx - x * x, 0.0))),
            "histogram": self.histogram,
        }


class _Hierarchy:
    """Counts of a hierarchy: the true path against the aggregated label, and annotator against annotator."""

    def __init__(self) -> None:
        self.true: tuple[Counter[str], ...] = tuple(Counter() for _ in _LEVELS)
        self.said: tuple[Counter[str], ...] = tuple(Counter() for _ in _LEVELS)
        self.both: tuple[Counter[str], ...] = tuple(Counter() for _ in _LEVELS)
        self.pairs: dict[tuple[str, str], Counter[tuple[str, str]]] = {}

    def add(self, item_id: str, truth: str, ratings: list[tuple[str, str]]) -> None:
        paths: list[tuple[str, str | None, str | None]] = []
        for _, path in ratings:
            core, nuance, micro = path.split("/")
            paths.append((core, nuance, micro))
        label = [part for part in plurality_path(paths, item_id) if part is not None]
        true, said = "", ""
        for level, part in enumerate(truth.split("/")):
            true = f"{true}/{part}" if level else part
            self.true[level][true] += 1
            if level < len(label):
                said = f"{said}/{label[level]}" if level else label[level]
                self.said[level][said] += 1
                if said == true:
                    self.both[level][true] += 1
        for (one, first), (other, second) in combinations(
            zip((rater for rater, _ in ratings), (path[0] for path in paths), strict=True), 2
        ):
            table = self.pairs.get((one, other))
            if table is None:
                table = self.pairs[one, other] = Counter()
            table[first, second] += 1

    def ceiling(self) -> dict[str, Any]:
        """Macro-F1 of each level, and hierarchical F1 over the paths with their ancestors."""
        result: dict[str, Any] = {}
        for level, name in enumerate(_LEVELS):
            true, said, both = self.true[level], self.said[level], self.both[level]
            classes = true.keys() | said.keys()
            scores = sorted(2 * both[c] / (true[c] + said[c]) for c in classes)
            result[f"macro_f1_{name}"] = _rounded(math.fsum(scores) / len(scores))
        common, true_total, said_total = (
            sum(counter.total() for counter in side) for side in (self.both, self.true, self.said)
        )
        result["hierarchical_f1"] = _rounded(2 * common / (true_total + said_total))
        return result

    def kappas(self) -> dict[str, float]:
        """Cohen's kappa of the cores of each pair of annotators."""
        return {f"{one}, {other}": _kappa(table) for (one, other), table in self.pairs.items()}


class Report:
    """Gathers the report of a synthetic corpus, record by record (each owner's records in a row).

    Parameters
    ----------
    raters
        The annotators of the corpus.
    """

    def __init__(self, raters: Raters) -> None:
        self._raters = raters
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in (*_COLUMNS, "length_bucket")}
        self._scales = {scale: _Scale() for scale in SCALES}
        self._paths = {name: _Hierarchy() for name in HIERARCHIES}
        self._cores: Counter[tuple[str, str]] = Counter()
        self._owner: str | None = None
        self._size = 0
        self._sizes: Counter[int] = Counter()

    def add(self, record: dict[str, Any], truth: dict[str, Any]) -> None:
        """Count one record with its true state, as `synthesize.simulate` yields them."""
        for name in _COLUMNS:
            self._counts[name][record[name]] += 1
        self._counts["length_bucket"][length_bucket(record["text"])] += 1
        if record["owner_id"] != self._owner:
            self._end_owner()
            self._owner = record["owner_id"]
        self._size += 1
        annotations = record["annotations"]
        given = [annotation["perception_labels"] for annotation in annotations]
        for scale, sums in self._scales.items():
            perfect = min(1.0, max(0.0, truth[scale] + self._raters.bias[scale]))
            sums.add(perfect, math.fsum([labels[scale] for labels in given]) / len(given))
        for name, counts in self._paths.items():
            ratings = [(a["annotator_id"], a["perception_labels"][name]) for a in annotations]
            counts.add(record["item_id"], truth[name], ratings)
        self._cores[truth["invoked"].partition("/")[0], truth["expressed"].partition("/")[0]] += 1

    def _end_owner(self) -> None:
        if self._size:
            self._sizes[self._size] += 1
        self._size = 0

    def result(self) -> dict[str, Any]:
        """The report, for JSON; after the last record."""
        self._end_owner()
        total = self._cores.total()
        if not total:
            return {"items": 0}
        differing = sum(count for (invoked, expressed), count in self._cores.items() if invoked != expressed)
        return {
            "items": total,
            "owners": self._sizes.total(),
            "owners_with_5_items": sum(count for size, count in self._sizes.items() if size >= 5),
            "largest_owner": max(self._sizes),
            **{name: dict(sorted(counter.items())) for name, counter in self._counts.items()},
            "scales": {scale: sums.distribution() for scale, sums in self._scales.items()},
            "cores": {name: dict(sorted(counts.true[0].items())) for name, counts in self._paths.items()},
            "cores_differ": _rounded(differing / total),
            "annotators": self._raters.describe(),
            "kappa_core": {name: counts.kappas() for name, counts in self._paths.items()},
            "ceiling": {
                **{scale: sums.ceiling() for scale, sums in self._scales.items()},
                **{name: counts.ceiling() for name, counts in self._paths.items()},
            },
        }


def write_corpus(
    pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]],
    annotations: PathLike,
    truth: PathLike,
    report: Report,
) -> int:
    """Write records and true states as JSON lines, one at a time and atomically; return how many."""
    count = 0
    with (
        atomic_path(annotations) as first,
        atomic_path(truth) as second,
        open(first, "w", encoding="utf-8", newline="\n") as records,
        open(second, "w", encoding="utf-8", newline="\n") as states,
    ):
        for record, state in pairs:
            records.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            states.write(json.dumps(state, ensure_ascii=False, allow_nan=False) + "\n")
            report.add(record, state)
            count += 1
    return count


def _kappa(table: Counter[tuple[str, str]]) -> float:
    total = table.total()
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    agreed = 0
    for (one, other), count in table.items():
        first[one] += count
        second[other] += count
        agreed += count * (one == other)
    chance = sum(first[core] * second[core] for core in first) / total**2
    return _rounded((agreed / total - chance) / (1 - chance)) if chance < 1 else 1.0


def _rounded(value: float) -> float:
    return round(value, 6)
