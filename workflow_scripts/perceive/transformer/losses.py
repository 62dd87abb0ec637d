"""What the transformer minimises: focal loss over conditional softmaxes, or squared error over scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from perceive.transformer.model import Hierarchy

Targets = Sequence[NDArray[np.float32]]

SMOOTHING_ROWS = 5.0
"""Added to every label's count before it is inverted: a handful of rows says little about a frequency."""


def one_hot(codes: NDArray[np.int64], hierarchy: Hierarchy) -> list[NDArray[np.float32]]:
    """Targets of paths: one array per level, shape (n, labels), zero rows where a path stops early.

    Parameters
    ----------
    codes : ndarray of shape (n, levels)
        Positions of the labels, -1 below the end of a path: :func:`perceive.evaluation.hierarchy.encode`.
    """
    return [
        (codes[:, level, None] == np.arange(size)).astype(np.float32)
        for level, size in enumerate(hierarchy.sizes)
    ]


def class_weights(targets: Targets, *, power: float, bound: float) -> list[NDArray[np.float32]]:
    """Weight of each label: its smoothed inverse frequency, to a power, bounded.

    ``w = clip((mean count / count)^power, 1 / bound, bound)``, then scaled so that a level's weights sum to
    the number of rows: a level that few labels reach counts as much as the others.

    Parameters
    ----------
    targets : sequence of arrays of shape (n, labels)
        Of the training rows.
    power : float
        0: all labels weigh the same; 1: the inverse frequency.
    bound : float
        At least 1.
    """
    weights = []
    for target in targets:
        count = target.sum(axis=0, dtype=np.float64)
        smoothed = count + SMOOTHING_ROWS
        weight = np.clip((smoothed.mean() / smoothed) ** power, 1 / bound, bound)
        total = float((weight * count).sum())
        weights.append((weight * (len(target) / total if total else 0.0)).astype(np.float32))
    return weights


def focal_loss(log_p: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, gamma: float) -> torch.Tensor:
    """Focal loss of each row: ``sum_j t_j w_j (1 - p_j)^gamma (-log p_j)``; Lin et al., ICCV 2017.

    Parameters
    ----------
    log_p, target : Tensor of shape (b, labels)
        Of p(label | parent), and the share of the label that falls to each: a row of zeros costs nothing and
        moves nothing.
    weight : Tensor of shape (labels,)
    gamma : float
        0 is cross entropy.

    Returns
    -------
    Tensor of shape (b,)
    """
    cross_entropy = -(target * weight * log_p)
    if gamma:
        cross_entropy = cross_entropy * (-torch.expm1(log_p)).clamp_min(0) ** gamma
    return cross_entropy.sum(dim=1)


class HierarchyLoss:
    """Weighted mean of the levels' focal losses.

    Parameters
    ----------
    weights : sequence of ndarray
        :func:`class_weights`, one array per level.
    level_weights : sequence of float
        Of the first levels, all that there are; their sum does not matter.
    gamma : float
    """

    def __init__(
        self, weights: Targets, level_weights: Sequence[float], gamma: float, device: torch.device
    ) -> None:
        self._weights = [torch.from_numpy(weight).to(device) for weight in weights]
        total = sum(level_weights)
        self._level_weights = [weight / total for weight in level_weights]
        self._gamma = gamma

    def __call__(self, log_p: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean over the rows; ``log_p`` as of `HierarchyHead`."""
        levels = zip(self._level_weights, log_p, targets, self._weights, strict=True)
        losses = [
            share * focal_loss(of_level, target, weight, self._gamma).mean()
            for share, of_level, target, weight in levels
        ]
        return torch.stack(losses).sum()


class ScalesLoss:
    """Mean squared error in standard deviations, over the labels that there are (NaN: none).

    Parameters
    ----------
    mean, deviation : Tensor of shape (scales,)
        Of the training labels.
    """

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        self._mean, self._deviation = mean, deviation

    def __call__(self, outputs: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean over the labels; ``outputs`` as of `ScalesHead`."""
        target = (targets[0] - self._mean) / self._deviation
        known = ~target.isnan()
        error = torch.where(known, outputs[0] - target.nan_to_num(), 0.0)
        return error.square().sum() / known.sum().clamp_min(1)
