"""Search for the transformer's hyperparameters: successive halving over rows, epochs and folds.

Every trial begins on few rows and epochs of one fold (the first *rung*); of the trials that have stood on a
rung, only the best share climbs to the next, which costs more (asynchronous successive halving; Li et al.,
A system for massively parallel hyperparameter tuning, MLSys 2020). What a trial is compared with are finished
trials alone, and proposals are seeded by the trial's number, so that a killed search, resumed from its
journal, goes on as the uninterrupted one would have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from perceive.evaluation.path_scores import PathScores, path_metrics
from perceive.transformer.backbone import Backbone
from perceive.transformer.training import Examples, Hyperparameters, Machine, Rows, fit, predict
from perceive.tuning import ResumableSearch, nearest

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy

log = logging.getLogger(__name__)

INTEGERS = ("top_layers", "epochs")
LOGARITHMIC = ("learning_rate", "head_factor")

Answers = Sequence[NDArray[np.float32]]
Error = Callable[[Answers, Rows], float]
"""Answers for some rows, and these rows, to what is minimised."""


def hierarchy_error(codes: NDArray[np.int64], taxonomy: Taxonomy) -> Error:
    """One less the mean of macro-F1 at the first level and hierarchical F1: what the gates ask for.

    Parameters
    ----------
    codes : ndarray of shape (n, levels)
        Of all rows: :func:`perceive.evaluation.hierarchy.encode`.
    taxonomy : Taxonomy
    """

    def error(answers: Answers, rows: Rows) -> float:
        known = codes[rows, 0] >= 0
        p = [answer[known].astype(np.float64) for answer in answers]
        of = path_metrics(PathScores(codes[rows][known], taxonomy, p))
        return 1.0 - (of[f"macro_f1_{taxonomy.levels[0]}"] + of["hierarchical_f1"]) / 2

    return error


@dataclass(frozen=True)
class Rung:
    """What a trial is given on one rung.

    Attributes
    ----------
    rows : float
        Share of the fold's training rows.
    epochs : float
        Share of the trial's epochs; at least one epoch.
    folds : int
        The first so many folds.
    """

    rows: float
    epochs: float
    folds: int


def climbs(value: float, others: Sequence[float], halving: int) -> bool:
    """Whether a trial goes on to the next rung: it is among the best 1 / ``halving`` of those on this one.

    Until there are ``halving`` trials, only the best so far goes on.

    Parameters
    ----------
    value : float
        The trial's error on the rung.
    others : sequence of float
        Errors of finished trials there.
    halving : int
    """
    place = max(0, (len(others) + 1) // halving - 1)
    return bool(np.isfinite(value)) and value <= sorted([*others, value])[place]


class TransformerSearch(ResumableSearch):
    """The search for the hyperparameters of a transformer.

    Parameters
    ----------
    journal : Path
        The study's journal file; a new one is begun where absent.
    name : str
        The study's name.
    examples : Examples
    folds : sequence of (rows to learn from, rows to score on)
        Of the training part. Rows without a label are left out.
    error : callable
        For example of `hierarchy_error`.
    backbone : Backbone
    settings : mapping
        ``trials``, ``patience``, ``min_gain``, ``tolerance``, ``seed``, ``halving``, ``rungs`` (mappings with
        the fields of `Rung`), ``max_rows`` (of a fold's training rows at most), ``time_limit_s``, ``space``
        (name of a hyperparameter to ``low`` and ``high``), ``fixed`` (name to value).
    machine : Machine

    Raises
    ------
    ValueError
        If there are fewer usable folds than a rung asks for.
    """

    def __init__(
        self,
        journal: Path,
        name: str,
        examples: Examples,
        folds: Sequence[tuple[Rows, Rows]],
        error: Error,
        backbone: Backbone,
        settings: Mapping[str, Any],
        machine: Machine,
    ) -> None:
        super().__init__(journal, name, settings)
        self._examples, self._backbone, self._machine, self._error = examples, backbone, machine, error
        self._rungs = [Rung(**rung) for rung in settings["rungs"]]
        self._folds = self._sampled(folds)
        if len(self._folds) < max(rung.folds for rung in self._rungs):
            raise ValueError(
                f"only {len(self._folds)} folds have labelled rows on both sides, fewer than the rungs need; "
                "label more owners, or give the last rungs fewer folds"
            )

    def _sampled(self, folds: Sequence[tuple[Rows, Rows]]) -> list[tuple[Rows, Rows]]:
        """Labelled rows of each fold in random order, ``max_rows`` and a quarter of that at most.

        Rungs take from the front, so that a rung's rows are among those of the next.
        """
        rng = np.random.default_rng(self._settings["seed"])
        labelled = self._examples.labelled()
        most = int(self._settings["max_rows"])
        sampled = []
        for learn, score in folds:
            pair = (
                rng.permutation(learn[labelled[learn]])[:most],
                np.sort(rng.permutation(score[labelled[score]])[: max(1, most // 4)]),
            )
            if all(map(len, pair)):
                sampled.append(pair)
        return sampled

    def _known_good(self) -> list[dict[str, Any]]:
        """The defaults, as near as the space allows."""
        return [nearest(asdict(Hyperparameters()), self._settings["space"])]

    def _suggest(self, trial: optuna.Trial) -> Hyperparameters:
        drawn: dict[str, Any] = dict(self._settings.get("fixed", {}))
        for name, limits in self._settings["space"].items():
            if name in INTEGERS:
                drawn[name] = trial.suggest_int(name, int(limits["low"]), int(limits["high"]))
            else:
                drawn[name] = trial.suggest_float(
                    name, limits["low"], limits["high"], log=name in LOGARITHMIC
                )
        return Hyperparameters(**drawn)

    def _answers(self, fold: int, rung: Rung, parameters: Hyperparameters) -> list[NDArray[np.float32]]:
        learn, score = self._folds[fold]
        parameters = replace(parameters, epochs=max(1, round(rung.epochs * parameters.epochs)))
        rows = learn[: max(1, round(rung.rows * len(learn)))]
        model = fit(
            self._examples,
            rows,
            self._backbone,
            parameters,
            self._machine,
            seed=self._settings["seed"],
            on_epoch=lambda epoch, loss: not np.isfinite(loss),
        )
        return predict(model, self._examples, score, self._machine)

    def _objective(self, trial: optuna.Trial) -> float:
        parameters = self._suggest(trial)
        # The frozen layers serve every model at once, and the last trained one works for one position.
        trial.set_user_attr("cost", max(0, parameters.top_layers - 1))
        done = self.finished()
        complete = any(t.state == TrialState.COMPLETE for t in done)
        started = time.monotonic()
        known: dict[tuple[int, float, float], list[NDArray[np.float32]]] = {}
        value = np.inf
        for number, rung in enumerate(self._rungs):
            for fold in range(rung.folds):
                if (fold, rung.rows, rung.epochs) not in known:
                    known[fold, rung.rows, rung.epochs] = self._answers(fold, rung, parameters)
            of_folds = [known[fold, rung.rows, rung.epochs] for fold in range(rung.folds)]
            pooled = [np.concatenate(of_level) for of_level in zip(*of_folds, strict=True)]
            rows = np.concatenate([score for _, score in self._folds[: rung.folds]])
            finite = all(np.isfinite(of_level).all() for of_level in pooled)
            value = self._error(pooled, rows) if finite else np.inf
            if not np.isfinite(value):
                raise optuna.TrialPruned
            trial.report(value, number)
            if number + 1 == len(self._rungs):
                break
            others = [t.intermediate_values[number] for t in done if number in t.intermediate_values]
            late = self.spent(done) + time.monotonic() - started > self._settings["time_limit_s"]
            if not climbs(value, others, self._settings["halving"]) or (late and complete):
                raise optuna.TrialPruned
        return value

    def _compared(self, done: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        # On a lower rung a model has seen a part of the rows, so that its error says nothing about a gain.
        return [trial for trial in done if len(trial.intermediate_values) == len(self._rungs)]

    def _told(self, trial: FrozenTrial) -> str:
        on = len(trial.intermediate_values)
        error = f"error {trial.intermediate_values[on - 1]:.4f}" if on else "diverged"
        return f"{error} on rung {on} of {len(self._rungs)}"

    def best(self) -> dict[str, Any]:
        """The chosen trial as a JSON value: all hyperparameters, its error, and how the search went."""
        chosen, course = self.chosen()
        parameters = Hyperparameters(**{**self._settings.get("fixed", {}), **chosen.params})
        return {
            "parameters": asdict(parameters),
            "error": chosen.value,
            "best_error": self.best_value(),
            **course,
            "time_limit_s": self._settings["time_limit_s"],
        }

    def table(self) -> pd.DataFrame:
        """One row per finished trial: number, state, error, error on each rung, seconds, hyperparameters."""
        return pd.DataFrame(
            [
                {
                    "trial": number,
                    "state": trial.state.name.lower(),
                    "error": trial.value if trial.state == TrialState.COMPLETE else None,
                    **{
                        f"rung_{rung}": trial.intermediate_values.get(rung)
                        for rung in range(len(self._rungs))
                    },
                    "seconds": round(self.spent([trial]), 1),
                    **trial.params,
                }
                for number, trial in enumerate(self.finished())
            ]
        )
