"""The assembled regression model of one variable: base models, blender, calibrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd
from scipy.special import softmax

from perceive.calibration import Calibrator
from perceive.features.matrix import ALL, TRANSFORMER

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
    """

    bases: dict[str, lgb.Booster]
    blender: lgb.Booster
    calibrator: Calibrator | None = None

    @property
    def has_transformer(self) -> bool:
        """Whether the blender weighs one base model more: the transformer, whose answer is a column."""
        return self.blender.num_model_per_iteration() == len(self.bases) + 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the matrix: the 418 features, the answers of other variables, the transformer's."""
        read = dict.fromkeys(name for booster in self.bases.values() for name in booster.feature_name())
        own = (TRANSFORMER,) if self.has_transformer else ()
        return (*ALL, *(name for name in read if name not in _KNOWN), *own)

    def base_columns(self, base: str) -> list[int]:
        """Indices into `columns` that a base model reads, in its own order."""
        index = {name: position for position, name in enumerate(self.columns)}
        return [index[name] for name in self.bases[base].feature_name()]

    @classmethod
    def load(
        cls, models: Sequence[str | Path], blender: str | Path, calibrator: Calibrator | None = None
    ) -> RegressionEnsemble:
        """Read the model files; a base model's name is the name of its file's folder."""
        bases = {Path(path).parent.name: lgb.Booster(model_file=str(path)) for path in models}
        return cls(bases, lgb.Booster(model_file=str(blender)), calibrator)

    def predict(self, features: np.ndarray, context: np.ndarray) -> pd.DataFrame:
        """Predict.

        Parameters
        ----------
        features : ndarray of shape (n, columns), float32
            Columns as in `columns`.
        context : ndarray of shape (n, 9), float32

        Returns
        -------
        DataFrame
            One column per base model, ``alpha_<base>``, ``raw`` and, with a calibrator, ``calibrated``.
        """
        columns = {}
        for name, booster in self.bases.items():
            columns[name] = np.asarray(booster.predict(features[:, self.base_columns(name)]))
        if self.has_transformer:
            columns[TRANSFORMER] = features[:, -1].astype(np.float64)
        predictions = np.column_stack(list(columns.values()))
        alpha = softmax(
            np.asarray(self.blender.predict(context, raw_score=True)).reshape(predictions.shape), axis=1
        )
        frame = pd.DataFrame(columns)
        for number, name in enumerate(columns):
            frame[f"alpha_{name}"] = alpha[:, number]
        frame["raw"] = (alpha * predictions).sum(axis=1)
        if self.calibrator is not None:
            frame["calibrated"] = self.calibrator.predict(frame["raw"].to_numpy())
        return frame
