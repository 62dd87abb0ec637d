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
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from perceive.evaluation.hierarchy import PathScores, path_metrics
from perceive.transformer.backbone import Backbone
from perceive.transformer.model import Hierarchy
from perceive.transformer.training import Examples, Hyperparameters, Machine, Rows, fit, predict
from perceive.tuning import KernelLock, choose, drop_partial_line, stalled

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy

log = logging.getLogger(__name__)

INTEGERS = ("top_layers", "epochs")
LOGARITHMIC = ("learning_rate", "head_factor")
OF_HIERARCHIES = ("gamma", "level_ratio", "class_power")
"""Hyperparameters that a regressor does not have."""

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


def scales_error(targets: NDArray[np.float32]) -> Error:
    """Mean over the scales of RMSE by the labels' standard deviation.

    Parameters
    ----------
    targets : ndarray of shape (n, scales)
        NaN where there is no label.
    """
    deviation = np.nanstd(targets, axis=0)

    def error(answers: Answers, rows: Rows) -> float:
        return float(np.mean(np.sqrt(np.nanmean((answers[0] - targets[rows]) ** 2, axis=0)) / deviation))

    return error


def sample_owners(owners: pd.Series, usable: NDArray[np.bool_], most: int, *, seed: int) -> NDArray[np.int64]:
    """Rows of randomly chosen owners: about ``most``, or all usable rows where there are no more.

    Parameters
    ----------
    owners : Series of shape (n,)
    usable : ndarray of shape (n,)
    most : int
        No owner is begun after so many rows.

    Returns
    -------
    ndarray of int
        In ascending order.
    """
    rows = np.flatnonzero(usable)
    codes, names = pd.factorize(owners.iloc[rows], sort=True)
    if len(rows) <= most:
        return rows
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = np.bincount(codes, minlength=len(names))[order]
    taken = order[np.cumsum(sizes) - sizes < most]
    log.info("the search works on a sample: %d of %d owners", len(taken), len(names))
    return rows[np.isin(codes, taken)]


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


class TransformerSearch:
    """A resumable search.

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
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal.parent.mkdir(parents=True, exist_ok=True)
        drop_partial_line(journal)
        self._settings = settings
        self._examples, self._backbone, self._machine, self._error = examples, backbone, machine, error
        self._rungs = [Rung(**rung) for rung in settings["rungs"]]
        self._folds = self._sampled(folds)
        if len(self._folds) < max(rung.folds for rung in self._rungs):
            raise ValueError(
                f"only {len(self._folds)} folds have labelled rows on both sides, fewer than the rungs need; "
                "label more owners, or give the last rungs fewer folds"
            )
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=KernelLock(journal))),
            study_name=name,
            direction="minimize",
            load_if_exists=True,
            sampler=self._sampler(0),
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

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(
            seed=self._settings["seed"] + number, multivariate=True, n_startup_trials=8
        )

    def _known_good(self) -> dict[str, Any]:
        """The defaults, as near as the space allows: tried first, so that one trial is sound."""
        defaults = asdict(Hyperparameters())
        return {
            name: type(defaults[name])(np.clip(defaults[name], limits["low"], limits["high"]))
            for name, limits in self._settings["space"].items()
            if isinstance(self._examples.output, Hierarchy) or name not in OF_HIERARCHIES
        }

    def _suggest(self, trial: optuna.Trial) -> Hyperparameters:
        drawn: dict[str, Any] = dict(self._settings.get("fixed", {}))
        for name, limits in self._settings["space"].items():
            if name in OF_HIERARCHIES and not isinstance(self._examples.output, Hierarchy):
                continue
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
        trial.set_user_attr("cost", parameters.top_layers)  # the frozen layers serve every model at once
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

    def finished(self) -> list[FrozenTrial]:
        """Trials that count against the budget: complete or pruned."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def spent(self, done: Sequence[FrozenTrial]) -> float:
        """Seconds that finished trials took, those before a resumption included."""
        return float(sum(trial.duration.total_seconds() for trial in done if trial.duration is not None))

    def stopped_by(self) -> str | None:
        """Why the search has ended: budget, patience or time; None while it has not."""
        done = self.finished()
        if len(done) >= self._settings["trials"]:
            return "budget"
        if stalled(done, self._settings["patience"], self._settings["min_gain"]):
            return "patience"
        # Without a complete trial there would be nothing to choose from.
        complete = any(trial.state == TrialState.COMPLETE for trial in done)
        return "time" if complete and self.spent(done) >= self._settings["time_limit_s"] else None

    def run(self) -> None:
        """Run trials until the budget or the time is spent, or the search has stalled."""
        # A killed worker leaves a trial that runs for ever; its place is taken by a new one.
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
        if not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(self._known_good())
        if done := self.finished():
            log.info("%s: resumed after %d trials", self.study.study_name, len(done))
        while self.stopped_by() is None:
            self.study.sampler = self._sampler(len(self.finished()))
            self.study.optimize(self._objective, n_trials=1)
            done = self.finished()
            last = done[-1]
            on = len(last.intermediate_values)
            best = min((t.value for t in done if t.state == TrialState.COMPLETE and t.value), default=np.nan)
            log.info(
                "%s: trial %d of %d: %s on rung %d of %d (best %.4f, %.0f s)",
                self.study.study_name,
                len(done),
                self._settings["trials"],
                f"error {last.intermediate_values[on - 1]:.4f}" if on else "diverged",
                on,
                len(self._rungs),
                best,
                self.spent(done),
            )
        log.info("%s: stopped by %s", self.study.study_name, self.stopped_by())

    def best(self) -> dict[str, Any]:
        """The chosen trial as a JSON value: all hyperparameters, its error, and how the search went."""
        done = self.finished()
        chosen = choose(done, self._settings["tolerance"])
        parameters = Hyperparameters(**{**self._settings.get("fixed", {}), **chosen.params})
        return {
            "parameters": asdict(parameters),
            "error": chosen.value,
            "best_error": min(
                t.value for t in done if t.state == TrialState.COMPLETE and t.value is not None
            ),
            "trial": done.index(chosen),
            "trials": len(done),
            "pruned": sum(t.state == TrialState.PRUNED for t in done),
            "budget": self._settings["trials"],
            "stopped_by": self.stopped_by(),
            "seconds": round(self.spent(done), 1),
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
