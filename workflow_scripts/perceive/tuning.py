"""Search for the hyperparameters of the full-feature model, over the folds of the training part.

The study lies in an Optuna journal file, so that a killed search resumes where it was and several workers
can share it. Proposals are seeded by the trial's number: a resumed search proposes what the uninterrupted
one would have. With several workers it depends on who is faster which trials are proposed, and the result is
that of one worker within the noise of the search.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState

from perceive import io
from perceive.boosters import lgb
from perceive.models import dataset, lightgbm_parameters

log = logging.getLogger(__name__)

WORKER = "worker"
"""Attribute of a trial: the number of the worker that has it, 0 of one that is alone."""

INTEGERS = ("num_leaves", "max_depth", "min_data_in_leaf")
LOGARITHMIC = ("learning_rate", "num_leaves")


@dataclass(frozen=True)
class FoldData:
    """Matrices of one fold: ``features`` [n, d] and ``target`` [n] to learn from, ``val_*`` to score on."""

    features: np.ndarray
    target: np.ndarray
    val_features: np.ndarray
    val_target: np.ndarray


def suggest(trial: optuna.Trial, space: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Draw a trial's hyperparameters from ``space`` (name to low and high)."""
    drawn: dict[str, Any] = {}
    for name, limits in space.items():
        log_scale = name in LOGARITHMIC
        if name in INTEGERS:
            drawn[name] = trial.suggest_int(name, int(limits["low"]), int(limits["high"]), log=log_scale)
        else:
            drawn[name] = trial.suggest_float(name, limits["low"], limits["high"], log=log_scale)
    return drawn


def best_round(curves: Sequence[Sequence[float]], sizes: Sequence[int]) -> tuple[int, float]:
    """The one number of trees that serves all folds best.

    Each fold's own best round would be chosen on the rows that it then predicts. One number for all, chosen
    on the pooled error, is a hyperparameter like the others.

    Parameters
    ----------
    curves : sequence of sequences
        Squared error after each round, per fold; a shorter curve is continued by its last value.
    sizes : sequence of int
        Validation rows per fold: the weights.

    Returns
    -------
    tuple of (int, float)
        Number of trees (from 1) and the pooled RMSE there.
    """
    longest = max(len(curve) for curve in curves)
    padded = np.array(
        [np.pad(np.asarray(c, dtype=float), (0, longest - len(c)), mode="edge") for c in curves]
    )
    mean = np.average(padded, axis=0, weights=np.asarray(sizes, dtype=float))
    index = int(np.argmin(mean))
    return index + 1, float(np.sqrt(mean[index]))


def stalled(trials: Sequence[FrozenTrial], patience: int, min_gain: float) -> bool:
    """Whether the last ``patience`` finished trials brought no relative gain of ``min_gain``."""
    best, since = np.inf, 0
    for trial in sorted(trials, key=lambda t: t.number):
        if (
            trial.state == TrialState.COMPLETE
            and trial.value is not None
            and trial.value < best * (1 - min_gain)
        ):
            best, since = trial.value, 0
        elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            since += 1
    return since >= patience


def choose(trials: Sequence[FrozenTrial], tolerance: float) -> FrozenTrial:
    """Among the complete trials within ``tolerance`` of the best, the cheapest to serve: depth times trees.

    Raises
    ------
    ValueError
        If no trial is complete.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    if not complete:
        raise ValueError("no trial of the study is complete; run again to resume it")
    limit = min(t.value for t in complete if t.value is not None) * (1 + tolerance)
    near = [t for t in complete if t.value is not None and t.value <= limit]
    return min(near, key=lambda t: (t.user_attrs["cost"], t.value, t.number))


def drop_partial_line(journal: Path) -> None:
    """Cut off a last line that a killed process wrote only in part; Optuna would stumble over it."""
    if not journal.exists():
        return
    with open(journal, "rb+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        content = handle.read()
        keep = content.rfind(b"\n") + 1
        if keep < len(content):
            handle.truncate(keep)


def journal_path(cache: Path, inputs: Iterable[str], workers: Iterable[str] = ()) -> Path:
    """The live journal of a search; it is resumed only where the content of all its inputs is the same.

    Parameters
    ----------
    cache : Path
        Folder of the journals.
    inputs : iterable of str
        Files that the job reads.
    workers : iterable of str
        Those of `inputs` that workers of the same search have written: what they searched is in the journal.
    """
    content = "".join(io.file_sha256(path) for path in sorted({*map(str, inputs)} - {*map(str, workers)}))
    return cache / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.journal"


class Superfluous(Exception):
    """The trials that others run already spend the budget."""


def publish(search: ResumableSearch, journal: Path, output: Any) -> None:
    """Write ``output.trials``, ``.study`` and ``.best``, and drop the journals of other inputs."""
    with io.atomic_path(output.trials) as temporary:
        search.table().to_csv(temporary, index=False)
    with io.atomic_path(output.study) as temporary:
        shutil.copyfile(journal, temporary)
    io.write_json(output.best, search.best())
    for old in journal.parent.glob("*.journal"):
        if old != journal:
            old.unlink()


def conduct(search: ResumableSearch, journal: Path, output: Any, worker: str | None) -> None:
    """Search to the end and publish; or as one of several workers, take part until there is nothing to begin.

    Parameters
    ----------
    search, journal
        The search, and the journal that its study is in.
    output
        With `trials`, `study` and `best`; of a worker with `joined`.
    worker : str, optional
        The worker's number from 1; None: all workers there were have ended.
    """
    if worker is None:
        search.run()
        publish(search, journal, output)
    else:
        search.run(worker=int(worker))
        own = [trial for trial in search.finished() if trial.user_attrs.get(WORKER) == int(worker)]
        io.write_json(output.joined, {"worker": int(worker), "trials": len(own)})


def nearest(values: Mapping[str, Any], space: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What ``space`` has nearest to some hyperparameters, each of the type that it has there."""
    return {
        name: type(values[name])(np.clip(values[name], limits["low"], limits["high"]))
        for name, limits in space.items()
    }


_TAKEN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
_APART = 100_003
"""Between the seeds of workers: more than a search has trials."""


class KernelLock(BaseJournalFileLock):
    """Lock on the journal file itself, which vanishes with its process.

    Optuna's own lock files outlive a killed process, and one at a relative path then blocks for ever.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: IO[bytes] | None = None

    def acquire(self) -> bool:
        self._handle = open(self._path, "ab")  # noqa: SIM115 (open as long as the lock is held)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


class ResumableSearch:
    """A search whose study lies in a journal file; a subclass says what a trial is.

    Parameters
    ----------
    journal : Path
        The study's journal file; a new one is begun where absent.
    name : str
        The study's name.
    settings : mapping
        ``trials``, ``patience``, ``min_gain``, ``tolerance``, ``seed`` and, for a bound on the time,
        ``time_limit_s``.
    pruner : BasePruner, optional
    """

    def __init__(
        self,
        journal: Path,
        name: str,
        settings: Mapping[str, Any],
        pruner: optuna.pruners.BasePruner | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal.parent.mkdir(parents=True, exist_ok=True)
        drop_partial_line(journal)
        self._settings = settings
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=KernelLock(journal))),
            study_name=name,
            direction="minimize",
            load_if_exists=True,
            sampler=self._sampler(0),
            pruner=pruner or optuna.pruners.NopPruner(),
        )

    def _objective(self, trial: optuna.Trial) -> float:
        """What a trial is judged by; notes the attribute ``cost`` of what it would serve."""
        raise NotImplementedError

    def table(self) -> pd.DataFrame:
        """One row per finished trial."""
        raise NotImplementedError

    def best(self) -> dict[str, Any]:
        """The chosen trial, and how the search went, as a JSON value."""
        raise NotImplementedError

    def _known_good(self) -> list[dict[str, Any]]:
        """Hyperparameters that are tried first, so that one trial is sound."""
        return []

    def _told(self, trial: FrozenTrial) -> str:
        """A finished trial in a few words, for the log."""
        return "pruned" if trial.state == TrialState.PRUNED else f"RMSE {trial.value:.4f}"

    def _sampler(self, number: int, *, shared: bool = False) -> optuna.samplers.BaseSampler:
        # Where others search beside it, a proposal keeps away from what they are trying.
        return optuna.samplers.TPESampler(
            seed=self._settings["seed"] + number,
            multivariate=True,
            n_startup_trials=8,
            constant_liar=shared,
        )

    def _running(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def finished(self) -> list[FrozenTrial]:
        """Trials that count against the budget: complete or pruned."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def _compared(self, done: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        """Those of the finished trials of which it is known whether they are a gain."""
        return done

    def spent(self, done: Sequence[FrozenTrial]) -> float:
        """Seconds that finished trials took, those before a resumption included."""
        return float(sum(trial.duration.total_seconds() for trial in done if trial.duration is not None))

    def stopped_by(self) -> str | None:
        """Why the search has ended: budget, patience or time; None while it has not."""
        done = self.finished()
        if len(done) >= self._settings["trials"]:
            return "budget"
        if stalled(self._compared(done), self._settings["patience"], self._settings["min_gain"]):
            return "patience"
        # Without a complete trial there would be nothing to choose from.
        complete = any(trial.state == TrialState.COMPLETE for trial in done)
        return "time" if complete and self.spent(done) >= self._settings.get("time_limit_s", np.inf) else None

    def run(self, worker: int = 0) -> None:
        """Run trials until the budget or the time is spent, or the search has stalled.

        Parameters
        ----------
        worker : int
            0: nobody else searches. Else the number, from 1, among workers that share the journal; it ends,
            too, where the trials that others run are the last of the budget.
        """
        # A killed worker leaves a trial that runs for ever; its place is taken by a new one.
        for trial in self._running():
            if not worker or trial.user_attrs.get(WORKER) == worker:
                self.study.tell(trial.number, state=TrialState.FAIL)
        if worker <= 1:
            queued = sum("fixed_params" in t.system_attrs for t in self.study.get_trials(deepcopy=False))
            for known_good in self._known_good()[queued:]:
                self.study.enqueue_trial(known_good)
        name = self.study.study_name
        if done := self.finished():
            log.info("%s: %s %d trials", name, "resumed after" if not worker else "joined after", len(done))

        def objective(trial: optuna.Trial) -> float:
            trial.set_user_attr(WORKER, worker)
            if worker:
                before = self.study.get_trials(deepcopy=False)[: trial.number]
                if sum(t.state in _TAKEN for t in before) >= self._settings["trials"]:
                    raise Superfluous
            return self._objective(trial)

        while self.stopped_by() is None:
            begun = len(self.finished()) + len(self._running())
            if worker and begun >= self._settings["trials"]:
                break
            # Seeded by the number: a resumed search proposes what the uninterrupted one would have. Workers
            # that begin at the same moment must not propose the same.
            seed = begun + worker * _APART if worker else len(self.finished())
            self.study.sampler = self._sampler(seed, shared=bool(worker))
            self.study.optimize(objective, n_trials=1, catch=(Superfluous,))
            done = self.finished()
            best = min(
                (t.value for t in done if t.value is not None and t.state == TrialState.COMPLETE),
                default=np.nan,
            )
            own = [t for t in done if t.user_attrs.get(WORKER) == worker]
            if own:
                log.info(
                    "%s: trial %d of %d: %s (best %.4f, %.0f s)",
                    name, len(done), self._settings["trials"], self._told(own[-1]), best, self.spent(done),
                )  # fmt: skip
        why = self.stopped_by()
        log.info(
            "%s: %s after %d trials",
            name, f"stopped by {why}" if why else "others run the last trials", len(self.finished()),
        )  # fmt: skip

    def chosen(self) -> tuple[FrozenTrial, dict[str, Any]]:
        """The chosen trial, and how the search went as a JSON value."""
        done = self.finished()
        chosen = choose(done, self._settings["tolerance"])
        return chosen, {
            "trial": done.index(chosen),
            "trials": len(done),
            "pruned": sum(t.state == TrialState.PRUNED for t in done),
            "budget": self._settings["trials"],
            "stopped_by": self.stopped_by(),
            "seconds": round(self.spent(done), 1),
        }

    def best_value(self) -> float:
        """The least error of a complete trial."""
        return min(t.value for t in self.finished() if t.state == TrialState.COMPLETE and t.value is not None)


class Search(ResumableSearch):
    """The search for the full-feature model of a scale.

    Parameters
    ----------
    journal : Path
        The study's journal file; a new one is begun where absent.
    name : str
        The study's name.
    folds : sequence of FoldData
        Pruning happens between folds. Folds without labelled rows on both sides are left out.
    names : sequence of str
        Feature names.
    settings : mapping
        The ``tuning/<variable>`` slice of the configuration.
    threads : int
        Threads of each training.

    Raises
    ------
    ValueError
        If no fold has labelled rows both to learn from and to score on.
    """

    def __init__(
        self,
        journal: Path,
        name: str,
        folds: Sequence[FoldData],
        names: Sequence[str],
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
        self._folds = [fold for fold in folds if len(fold.target) and len(fold.val_target)]
        if not self._folds:
            raise ValueError("no fold has labelled rows to learn from and to score on; label more owners")
        self._data: list[tuple[lgb.Dataset, lgb.Dataset]] = []
        for fold in self._folds:
            train = dataset(fold.features, fold.target, names, max_bin=settings["max_bin"])
            val = lgb.Dataset(fold.val_features, fold.val_target, reference=train, free_raw_data=True)
            self._data.append((train, val))

    def _train(self, fold: int, parameters: Mapping[str, Any]) -> list[float]:
        """Squared error on the fold's validation rows after each round."""
        train, val = self._data[fold]
        curve: dict[str, dict[str, list[float]]] = {}
        lgb.train(
            {
                **lightgbm_parameters(parameters, seed=self._settings["seed"], threads=self._threads),
                "metric": "l2",
            },
            train,
            num_boost_round=self._settings["max_trees"],
            valid_sets=[val],
            valid_names=["val"],
            callbacks=[
                lgb.early_stopping(self._settings["stopping_rounds"], verbose=False),
                lgb.record_evaluation(curve),
            ],
        )
        return curve["val"]["l2"]

    def _objective(self, trial: optuna.Trial) -> float:
        parameters = {**suggest(trial, self._settings["space"]), "max_bin": self._settings["max_bin"]}
        curves: list[list[float]] = []
        sizes: list[int] = []
        rmse = np.inf
        for number, fold in enumerate(self._folds):
            curves.append(self._train(number, parameters))
            sizes.append(len(fold.val_target))
            trees, rmse = best_round(curves, sizes)
            trial.set_user_attr("trees", trees)
            trial.set_user_attr("cost", trees * parameters["max_depth"])
            trial.report(rmse, number)
            if number + 1 < len(self._folds) and trial.should_prune():
                raise optuna.TrialPruned
        return rmse

    def best(self) -> dict[str, Any]:
        """The chosen trial as a JSON value: parameters, trees, RMSE, cost, and how the search went."""
        chosen, course = self.chosen()
        return {
            "parameters": {**chosen.params, "max_bin": self._settings["max_bin"]},
            "trees": chosen.user_attrs["trees"],
            "rmse": chosen.value,
            "best_rmse": self.best_value(),
            "cost": chosen.user_attrs["cost"],
            **course,
        }

    def table(self) -> pd.DataFrame:
        """One row per finished trial: number, state, RMSE, trees, cost, folds run, and the parameters."""
        return pd.DataFrame(
            [
                {
                    "trial": number,
                    "state": trial.state.name.lower(),
                    "rmse": trial.value,
                    "folds": len(trial.intermediate_values),
                    "trees": trial.user_attrs.get("trees"),
                    "cost": trial.user_attrs.get("cost"),
                    **trial.params,
                }
                for number, trial in enumerate(self.finished())
            ]
        )
