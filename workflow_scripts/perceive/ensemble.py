"""The assembled model of one scale: base models, blender, calibrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from perceive.boosters import lgb
from perceive.calibration import Calibrator
from perceive.features.matrix import ALL

_KNOWN = frozenset(ALL)


@dataclass(frozen=True)
class RegressionEnsemble:
    """Base models over the features and a blender over the context.

    Attributes
    ----------
    bases : dict of str to Booster
        The trees, in the order of the blender's outputs. Their feature names say which columns they read.
    blender : Booster
        Raw scores, one per base model.
    calibrator : Calibrator or None
        None before calibration.
    network : str or None
        Name of a further base model, the blender's last, whose answer is the last column of the matrix: the
        transformer, or the GRU.

    Raises
    ------
    ValueError
        If the blender weighs another number of base models.
    """

    bases: dict[str, lgb.Booster]
    blender: lgb.Booster
    calibrator: Calibrator | None = None
    network: str | None = None

    def __post_init__(self) -> None:
        weighed, given = self.blender.num_model_per_iteration(), len(self.bases) + (self.network is not None)
        if weighed != given:
            raise ValueError(f"the blender weighs {weighed} base models, but there are {given}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the matrix: the 418 features, the answers of other variables, the network's."""
        read = dict.fromkeys(name for booster in self.bases.values() for name in booster.feature_name())
        own = (self.network,) if self.network else ()
        return (*ALL, *(name for name in read if name not in _KNOWN), *own)

    def base_columns(self, base: str) -> list[int]:
        """Indices into `columns` that a base model reads, in its own order."""
        index = {name: position for position, name in enumerate(self.columns)}
        return [index[name] for name in self.bases[base].feature_name()]

    @classmethod
    def load(
        cls,
        models: Sequence[str | Path],
        blender: str | Path,
        calibrator: Calibrator | None = None,
        network: str | None = None,
    ) -> RegressionEnsemble:
        """Read the model files; a base model's name is the name of its file's folder."""
        bases = {Path(path).parent.name: lgb.Booster(model_file=str(path)) for path in models}
        return cls(bases, lgb.Booster(model_file=str(blender)), calibrator, network)

    def predict(self, features: np.ndarray, context: np.ndarray, *, threads: int = 0) -> pd.DataFrame:
        """Predict.

        Parameters
        ----------
        features : ndarray of shape (n, columns), float32
            Columns as in `columns`.
        context : ndarray of shape (n, 9), float32
        threads : int
            Of LightGBM; 0 for all.

        Returns
        -------
        DataFrame
            One column per base model, ``alpha_<base>``, ``raw`` and, with a calibrator, ``calibrated``.
        """
        columns = {}
        for name, booster in self.bases.items():
            columns[name] = np.asarray(
                booster.predict(features[:, self.base_columns(name)], num_threads=threads)
            )
        if self.network:
            columns[self.network] = features[:, -1].astype(np.float64)
        predictions = np.column_stack(list(columns.values()))
        scores = np.asarray(self.blender.predict(context, raw_score=True, num_threads=threads))
        alpha = softmax(scores.reshape(predictions.shape), axis=1)
        frame = pd.DataFrame(columns)
        for number, name in enumerate(columns):
            frame[f"alpha_{name}"] = alpha[:, number]
        frame["raw"] = (alpha * predictions).sum(axis=1)
        if self.calibrator is not None:
            frame["calibrated"] = self.calibrator.predict(frame["raw"].to_numpy())
        return frame
