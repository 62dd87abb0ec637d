"""Simulated annotators: each has an own bias, own confusions and own care, and rates every item.

A scale is rated as the true value plus the annotator's bias plus noise. A path is misread at one level: as a
plausible neighbour of another core (an annotator's favourite mistake, or another), as another nuance of the
core, or as another micro of the nuance. Annotators err independently of each other: what misleads all of them
alike could be told from the truth by nobody, so no noise ceiling could be checked against it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Final

from perceive.corpus.phrases import Emotion
from perceive.variables import HIERARCHIES, SCALES

#: Standard deviation of one annotator's noise on each scale, at noise 1.
NOISE: Final[Mapping[str, float]] = {
    "valence": 0.083,
    "arousal": 0.088,
    "willingness": 0.077,
    "congruence": 0.087,
    "comparator": 0.084,
}
#: Standard deviation of the annotators' biases, and how often they misread a level, at noise 1.
BIAS: Final = 0.02
MISREAD: Final[Mapping[str, float]] = {"core": 0.095, "nuance": 0.10, "micro": 0.12}
#: Share of an annotator's mistakes in the core that are the favourite one.
FAVOURITE: Final = 0.6
#: Which other cores a core is taken for, the likelier first.
NEIGHBOURS: Final[Mapping[str, tuple[str, ...]]] = {
    "Happy": ("Peaceful", "Strong"),
    "Strong": ("Happy", "Peaceful", "Angry"),
    "Peaceful": ("Happy", "Strong", "Sad"),
    "Sad": ("Fearful", "Angry", "Peaceful"),
    "Angry": ("Sad", "Fearful", "Strong"),
    "Fearful": ("Sad", "Angry"),
}
_MOST_MISREAD = 0.8

# Quantiles of the standard normal: one uniform a variate, and no logarithm whose last bit differs between
# machines (rounded far from where that could show).
_BITS = 12
_QUANTILES = tuple(round(NormalDist().inv_cdf((i + 0.5) / (1 << _BITS)), 6) for i in range(1 << _BITS))
_DECIMALS = tuple(thousandths / 1000 for thousandths in range(1001))


def normal(uniform: Callable[[], float]) -> float:
    """A standard normal variate, within 3.7, from one uniform; the same on every machine."""
    return _QUANTILES[int(uniform() * 4096.0)]


class _Rater:
    """One annotator: biases, noise and preferred confusions."""

    def __init__(self, name: str, seed: int, noise: float) -> None:
        uniform = random.Random(f"perceive:{seed}:{name}").random
        self.name = name
        self.bias = {scale: noise * BIAS * normal(uniform) for scale in SCALES}
        care = [0.85 + 0.3 * uniform() for _ in SCALES]
        self.scales = [
            (scale, self.bias[scale], noise * NOISE[scale] * factor)
            for scale, factor in zip(SCALES, care, strict=True)
        ]
        self.misread = {level: noise * share * (0.8 + 0.4 * uniform()) for level, share in MISREAD.items()}
        self.favourite = {
            core: others[int(uniform() * uniform() * len(others))] for core, others in NEIGHBOURS.items()
        }


class Raters:
    """All annotators of a corpus.

    Parameters
    ----------
    seed
        Seed of the corpus; it settles the annotators' biases.
    count
        Number of annotators.
    noise
        Factor on all biases, noises and error rates; at 0 everybody tells the truth.
    emotions
        The cells of the taxonomy.
    """

    def __init__(self, seed: int, count: int, noise: float, emotions: Sequence[Emotion]) -> None:
        self._raters = [_Rater(f"rater-{number}", seed, noise) for number in range(1, count + 1)]
        self._core_of = {emotion.path: emotion.core for emotion in emotions}
        self._slips = {emotion.path: _slips(emotion, emotions) for emotion in emotions}
        #: Mean bias of the annotators on each scale.
        self.bias = {
            scale: sum_in_order([rater.bias[scale] for rater in self._raters]) / count for scale in SCALES
        }

    def describe(self) -> dict[str, Any]:
        """Biases, noises and error rates of each annotator, for the report."""
        return {
            rater.name: {
                "bias": {scale: round(value, 4) for scale, value in rater.bias.items()},
                "noise": {scale: round(deviation, 4) for scale, _, deviation in rater.scales},
                "misread": {level: round(share, 4) for level, share in rater.misread.items()},
                "takes_for": rater.favourite,
            }
            for rater in self._raters
        }

    def rate(self, uniform: Callable[[], float], truth: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Annotate one item.

        Parameters
        ----------
        uniform
            Source of the noise.
        truth
            The item's true value of every variable; paths as core/nuance/micro.

        Returns
        -------
        list of dict
            One entry for ``annotations`` an annotator.
        """
        annotations = []
        for rater in self._raters:
            labels: dict[str, Any] = {}
            for scale, bias, deviation in rater.scales:
                value = truth[scale] + bias + deviation * _QUANTILES[int(uniform() * 4096.0)]
                labels[scale] = (
                    0.0 if value < 0.0 else 1.0 if value > 1.0 else _DECIMALS[int(value * 1000 + 0.5)]
                )
            for name in HIERARCHIES:
                labels[name] = self._read(rater, truth[name], uniform)
            annotations.append({"annotator_id": rater.name, "perception_labels": labels})
        return annotations

    def _read(self, rater: _Rater, path: str, uniform: Callable[[], float]) -> str:
        misread = rater.misread
        draw = uniform()
        threshold = misread["core"] if misread["core"] < _MOST_MISREAD else _MOST_MISREAD
        if draw < threshold:
            core = self._core_of[path]
            others = NEIGHBOURS[core]
            favoured = uniform() < FAVOURITE
            other = rater.favourite[core] if favoured else others[int(uniform() * len(others))]
            choices = self._slips[path][other]
            return choices[int(uniform() * len(choices))]
        for level in ("nuance", "micro"):
            threshold += misread[level] * (1 - threshold)
            if draw < threshold:
                choices = self._slips[path][level]
                return choices[int(uniform() * len(choices))]
        return path


def _slips(emotion: Emotion, emotions: Sequence[Emotion]) -> dict[str, tuple[str, ...]]:
    """What a path is misread as: at each level, and for another core, the cells that feel most alike."""

    def nearest(others: list[Emotion], count: int) -> tuple[str, ...]:
        def distance(other: Emotion) -> float:
            return abs(other.valence - emotion.valence) + 0.5 * abs(other.arousal - emotion.arousal)

        return tuple(other.path for other in sorted(others, key=lambda e: (distance(e), e.path))[:count])

    same_core = [other for other in emotions if other.core == emotion.core]
    slips = {
        core: nearest([other for other in emotions if other.core == core], 4)
        for core in NEIGHBOURS[emotion.core]
    }
    slips["nuance"] = nearest([other for other in same_core if other.nuance != emotion.nuance], 8)
    slips["micro"] = nearest(
        [other for other in same_core if other.nuance == emotion.nuance and other is not emotion], 5
    )
    return slips


def sum_in_order(numbers: Sequence[float]) -> float:
    """Add from left to right: `sum` compensates from Python 3.12 on, and a last bit could change a draw."""
    total = 0.0
    for number in numbers:
        total += number
    return total
