"""Search for the hyperparameters of the recurrent regressor, over the folds of the training part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.trial import TrialState

from perceive.sequence.model import GruRegressor
from perceive.sequence.training import Hyperparameters, Rows, fit, predict
from perceive.sequence.windows import GROUPS, Timelines
from perceive.tuning import ResumableSearch, best_round, nearest

INTEGERS = ("hidden", "layers", "length")
LOGARITHMIC = ("hidden", "learning_rate", "weight_decay")


@dataclass(frozen=True)
class FoldTimelines:
    """One fold: what its models learn from, and the held-out timelines that they are scored on.

    Attributes
    ----------
    train, val : Timelines
        Of disjoint owners; the features are the fold's own.
    learn, score : ndarray of int
        Labelled rows of ``train`` and of ``val``.
    learn_targets, score_targets : ndarray of float
        Their labels.
    """

    train: Timelines
    val: Timelines
    learn: Rows
    score: Rows
    learn_targets: NDArray[np.float64]
    score_targets: NDArray[np.float64]


class SequenceSearch(ResumableSearch):
    """The search: trials are pruned between folds, and a fold stops where its error stops falling.

    The number of epochs is one for all folds, chosen on the pooled error
    (:func:`perceive.tuning.best_round`): a model that stopped on the rows that it then predicts would have
    seen them.

    Parameters
    ----------
    journal, name
        As for :class:`perceive.tuning.ResumableSearch`.
    folds : sequence of FoldTimelines
        Those without labelled rows on both sides are left out.
    settings : mapping
        ``trials``, ``patience``, ``min_gain``, ``tolerance``, ``seed``, ``time_limit_s``,
        ``pruning_startup``, ``max_epochs``, ``stopping_epochs``, ``batch_rows``, ``space``.
    threads : int

    Raises
    ------
    ValueError
        If no fold has labelled rows both to learn from and to score on.
    """

    def __init__(
        self,
        journal: Path,
        name: str,
        folds: Sequence[FoldTimelines],
        settings: Mapping[str, Any],
        *,
        threads: int,
    ) -> None:
        super().__init__(
            journal,
            name,
            settings,
            optuna.pruners.MedianPruner(n_startup_trials=settings["pruning_startup"], n_warmup_steps=0),
        )
        self._threads = threads
        self._folds = [fold for fold in folds if len(fold.learn) and len(fold.score)]
        if not self._folds:
            raise ValueError("no fold has labelled rows to learn from and to score on; label more owners")

    def _known_good(self) -> list[dict[str, Any]]:
        """The defaults, as near as the space allows, with all groups of columns and with none."""
        defaults = nearest(asdict(Hyperparameters()), self._settings["space"])
        return [{**defaults, **dict.fromkeys(GROUPS, read)} for read in (True, False)]

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        for name, limits in self._settings["space"].items():
            log = name in LOGARITHMIC
            if name in INTEGERS:
                drawn[name] = trial.suggest_int(name, int(limits["low"]), int(limits["high"]), log=log)
            else:
                drawn[name] = trial.suggest_float(name, limits["low"], limits["high"], log=log)
        for group in GROUPS:
            drawn[group] = trial.suggest_categorical(group, [True, False])
        return drawn

    def _curve(self, fold: FoldTimelines, parameters: Hyperparameters) -> list[float]:
        """Squared error on the fold's held-out rows after each epoch."""
        curve: list[float] = []

        def judge(epoch: int, model: GruRegressor) -> bool:
            answers = predict(model, fold.val, fold.score, threads=self._threads)
            curve.append(float(np.mean((answers - fold.score_targets) ** 2)))
            best = int(np.argmin(curve))
            return not np.isfinite(curve[-1]) or epoch - 1 - best >= self._settings["stopping_epochs"]

        fit(
            fold.train,
            fold.learn,
            fold.learn_targets,
            parameters,
            seed=self._settings["seed"],
            threads=self._threads,
            on_epoch=judge,
        )
        return curve

    def _objective(self, trial: optuna.Trial) -> float:
        drawn = self._suggest(trial)
        parameters = Hyperparameters(
            **drawn, epochs=self._settings["max_epochs"], batch_rows=self._settings["batch_rows"]
        )
        trial.set_user_attr("cost", parameters.hidden * parameters.layers * parameters.length)
        curves: list[list[float]] = []
        sizes: list[int] = []
        rmse = np.inf
        for number, fold in enumerate(self._folds):
            curves.append(self._curve(fold, parameters))
            if not np.isfinite(curves[-1]).all():
                raise optuna.TrialPruned
            sizes.append(len(fold.score))
            epochs, rmse = best_round(curves, sizes)
            trial.set_user_attr("epochs", epochs)
            trial.report(rmse, number)
            if number + 1 < len(self._folds) and trial.should_prune():
                raise optuna.TrialPruned
        return rmse

    def best(self) -> dict[str, Any]:
        """The chosen trial as a JSON value: all hyperparameters, its RMSE, and how the search went."""
        chosen, course = self.chosen()
        parameters = Hyperparameters(
            **chosen.params, epochs=chosen.user_attrs["epochs"], batch_rows=self._settings["batch_rows"]
        )
        return {
            "parameters": asdict(parameters),
            "rmse": chosen.value,
            "best_rmse": self.best_value(),
            "cost": chosen.user_attrs["cost"],
            **course,
            "time_limit_s": self._settings["time_limit_s"],
        }

    def table(self) -> pd.DataFrame:
        """One row per finished trial: number, state, RMSE, folds run, epochs, cost, hyperparameters."""
        return pd.DataFrame(
            [
                {
                    "trial": number,
                    "state": trial.state.name.lower(),
                    "rmse": trial.value if trial.state == TrialState.COMPLETE else None,
                    "folds": len(trial.intermediate_values),
                    "epochs": trial.user_attrs.get("epochs"),
                    "cost": trial.user_attrs.get("cost"),
                    "seconds": round(self.spent([trial]), 1),
                    **trial.params,
                }
                for number, trial in enumerate(self.finished())
            ]
        )
