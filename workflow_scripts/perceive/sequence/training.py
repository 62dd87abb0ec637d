"""Training of the recurrent regressor, and prediction.

The same rows, parameters, seed and threads give the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from perceive.sequence.model import GruRegressor, Shape
from perceive.sequence.windows import GROUPS, Timelines
from perceive.torch_runs import reproducible, torch_threads

Rows = NDArray[np.int64]

PREDICTED_AT_ONCE = 1024


@dataclass(frozen=True)
class Hyperparameters:
    """How a model is trained.

    Attributes
    ----------
    hidden, layers, length : int
        See `perceive.sequence.model.Shape`.
    dropout : float
    learning_rate : float
        Of AdamW (Loshchilov and Hutter, ICLR 2019), constant.
    weight_decay : float
        Of the weight matrices.
    embedding, lexical, temporal : bool
        Whether it reads these columns.
    epochs : int
        Passes over the training rows.
    batch_rows : int
    """

    hidden: int = 48
    layers: int = 1
    length: int = 10
    dropout: float = 0.3
    learning_rate: float = 2e-3
    weight_decay: float = 0.03
    embedding: bool = True
    lexical: bool = True
    temporal: bool = True
    epochs: int = 12
    batch_rows: int = 64

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of columns that it reads."""
        return tuple(group for group in GROUPS if getattr(self, group))


def taken_rows(
    timelines: Timelines, rows: Rows, length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Rows that the windows of some rows hold, shape (b, t), which of them count, and how many do."""
    windows = timelines.windows
    lengths = np.minimum(windows.lengths[rows], length)
    first = windows.lengths[rows] - lengths
    places = np.arange(int(lengths.max(initial=1)))[None, :]
    inside = places < lengths[:, None]
    at = np.minimum(first[:, None] + places, windows.rows.shape[1] - 1)
    return np.take_along_axis(windows.rows[rows], at, axis=1).astype(np.int64), inside, lengths


def batch(timelines: Timelines, rows: Rows, length: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Windows of some rows as a model takes them: features (b, t, columns), and how many count.

    ``t`` is the longest of these windows; what stands after an item's own step is zero.
    """
    taken, inside, lengths = taken_rows(timelines, rows, length)
    sequence = timelines.matrix[np.where(inside, taken, 0)]
    sequence[~inside] = 0.0
    return sequence, lengths


def fit(
    timelines: Timelines,
    rows: Rows,
    targets: NDArray[np.float64],
    parameters: Hyperparameters,
    *,
    seed: int,
    threads: int,
    on_epoch: Callable[[int, GruRegressor], bool] | None = None,
) -> GruRegressor:
    """Train a model by squared error.

    Parameters
    ----------
    timelines : Timelines
        All of it may be read as history. Inputs are standardised on ``rows``.
    rows : ndarray of int
        The items to learn from.
    targets : ndarray of shape (len(rows),)
        Labels in 0..1.
    parameters : Hyperparameters
    seed : int
    threads : int
    on_epoch : callable, optional
        Called after each epoch with its number (from 1) and the model; true stops the training.

    Raises
    ------
    ValueError
        If there are no rows, or a target is not finite.
    """
    if not len(rows):
        raise ValueError(
            "no labelled training rows: at least one owner with labels must lie in the training part"
        )
    if not np.isfinite(targets).all():
        raise ValueError(f"{int((~np.isfinite(targets)).sum())} training labels are not finite")
    shape = Shape(
        timelines.columns, parameters.groups, parameters.length, parameters.hidden, parameters.layers
    )
    rng = np.random.default_rng(seed)
    with reproducible(seed, threads):
        model = GruRegressor(shape, parameters.dropout)
        columns = [*shape.embedding, *shape.others]
        seen = timelines.matrix[rows][:, columns]
        deviation = seen.std(axis=0)
        model.get_buffer("mean").copy_(torch.from_numpy(seen.mean(axis=0)))
        model.get_buffer("deviation").copy_(torch.from_numpy(np.where(deviation > 1e-6, deviation, 1)))
        spread = float(targets.std())
        model.get_buffer("target_mean").fill_(float(targets.mean()))
        model.get_buffer("target_deviation").fill_(spread if spread > 0 else 1.0)
        standard = (targets - targets.mean()) / (spread if spread > 0 else 1.0)
        wanted = torch.from_numpy(standard.astype(np.float32))
        # Biases are not pulled towards zero.
        matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        decay = parameters.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=parameters.learning_rate)
        for epoch in range(1, parameters.epochs + 1):
            model.train()
            order = rng.permutation(len(rows))
            for start in range(0, len(order), parameters.batch_rows):
                chosen = order[start : start + parameters.batch_rows]
                taken, inside, lengths = taken_rows(timelines, rows[chosen], parameters.length)
                # An item that stands in several windows is encoded once, and padding not at all.
                unique, places = np.unique(np.where(inside, taken, taken[0, 0]), return_inverse=True)
                codes = model.codes(torch.from_numpy(timelines.matrix[unique]))
                windows = codes[torch.from_numpy(places.reshape(taken.shape))]
                answer = model.standard(windows, torch.from_numpy(lengths))
                loss = torch.nn.functional.mse_loss(answer, wanted[torch.from_numpy(chosen)])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            model.eval()
            if on_epoch is not None and on_epoch(epoch, model):
                break
    return model.eval()


def predict(model: GruRegressor, timelines: Timelines, rows: Rows, *, threads: int) -> NDArray[np.float32]:
    """The model's answers for some rows, in 0..1, shape (rows,)."""
    result = np.zeros(len(rows), dtype=np.float32)
    with torch.inference_mode(), torch_threads(threads):
        for start in range(0, len(rows), PREDICTED_AT_ONCE):
            sequence, lengths = batch(timelines, rows[start : start + PREDICTED_AT_ONCE], model.shape.length)
            answer = model(torch.from_numpy(sequence), torch.from_numpy(lengths))
            result[start : start + len(lengths)] = answer[:, 0].numpy()
    return result


def text_alone(parameters: Hyperparameters) -> Hyperparameters:
    """The same network without history: it sees the item itself, and nothing of the timeline."""
    return replace(parameters, length=1, temporal=False)


def labelled_rows(
    timelines: Timelines, item_ids: Sequence[str], labels: pd.Series
) -> tuple[Rows, NDArray[np.float64]]:
    """Rows of the items that have a label, and the labels."""
    known = [item for item in item_ids if item in labels.index]
    return timelines.positions(known), labels.loc[known].to_numpy(np.float64)
