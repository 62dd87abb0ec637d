"""The leak audit: proof, from recorded ids, that nothing was tested on what it had learned from.

Three phases, the same kind of report: :func:`audit_splits` right after splitting, :func:`audit_timeline` once
the temporal features exist, :func:`audit_variable` once the out-of-fold predictions of a variable do. Each
check recomputes what it judges from the items themselves and from the ids that the stages recorded; it never
trusts the code that made the splits, and it has a search of its own for near-duplicates
(:mod:`perceive.exact_join`). Reports name owners and items by salted hashes only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pandas as pd

from perceive.exact_join import similar_pairs
from perceive.features.temporal import FEATURES as TEMPORAL
from perceive.features.temporal import temporal_features
from perceive.ledger import SPLITS, as_boundary, owner_key, salted_key
from perceive.near_duplicates import MIN_SHINGLES, THRESHOLD
from perceive.splits import (
    COPY_REASONS,
    EMBARGO_DAYS,
    EXCLUDED,
    OWNER_REASONS,
    PURGE_REASONS,
    largest_remainder,
    normalise_text,
    published_test,
    training_rows,
)
from perceive.variables import VARIABLES

Verdict = Literal["pass", "fail", "waived"]
Mode = Literal["grouped", "grouped_temporal"]

# Comparing each text with each takes time by the square of their number. Of more texts, this many drawn by
# lot are compared with all. A leaked pair is found if one of its texts was drawn: one at least of twenty
# pairs, among 500,000 texts, in 98 of 100 audits.
EXACT_TEXTS = 50_000

# The stages that record which items they used, and the split that these must come from.
STAGE_SPLITS = {
    "projection": "train",
    "training": "train",
    "tuning": "train",
    "blend": "train",
    "calibration": "val",
    "evaluation": "test",
}

_MAX_EXAMPLES = 5
_FOLD_STAGE = re.compile(r"[^/]+/fold(\d+)")
_HISTORY_ROWS = 200_000
_SAME = 0.999  # a feature correlated with a label beyond this is the label
_MIN_ROWS = 20  # with fewer rows, such a correlation can be chance
_MIN_CLASS = 5  # a class of fewer rows explains any feature of its few rows
_LABEL_COLUMNS = frozenset({"value", "core", "nuance", "micro", "n_raters", "spread", "split", "fold"})
_LABEL_WORDS = frozenset(
    {
        "label",
        "labels",
        "target",
        "gold",
        "truth",
        "annotation",
        "annotations",
        "annotator",
        "rater",
        "raters",
    }
)
_LABEL_FORMS = frozenset(
    {"value", "true", "observed", "mean", "y", "core", "nuance", "micro", "path", "spread"}
)


class LeakError(RuntimeError):
    """At least one check of an audit failed."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes
    ----------
    name
        What is looked for.
    verdict
        ``"pass"``, ``"fail"``, or ``"waived"``: found, but allowed by a setting or not enforceable.
    count
        How many owners, items or columns were found.
    examples
        Up to five of them: salted hashes of owners and items, or names of columns.
    explanation, remedy
        What was found or proven, and, where the check did not pass, what to do.
    """

    name: str
    verdict: Verdict
    count: int
    examples: tuple[str, ...]
    explanation: str
    remedy: str = ""


@dataclass
class AuditReport:
    """The checks of one audit.

    Attributes
    ----------
    subject
        What was audited: ``"splits"`` or a variable.
    checks
        The outcomes.
    """

    subject: str
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no check failed (a waived one did not)."""
        return not self.failed

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.verdict == "fail"]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready builtins."""
        checks = [asdict(check) | {"examples": list(check.examples)} for check in self.checks]
        verdicts = [check.verdict for check in self.checks]
        counts = {verdict: verdicts.count(verdict) for verdict in ("pass", "fail", "waived")}
        return {"subject": self.subject, "ok": self.ok, "verdicts": counts, "checks": checks}

    def raise_if_failed(self) -> None:
        """Raise if a check failed.

        Raises
        ------
        LeakError
            Naming each failed check, what it found and the remedy.
        """
        if not self.ok:
            found = [
                f"{check.name} ({check.count}): {check.explanation}; {check.remedy}" for check in self.failed
            ]
            raise LeakError(f"the audit of {self.subject} failed: " + " | ".join(found))


def audit_splits(
    items: pd.DataFrame,
    split_items: pd.DataFrame,
    owners: pd.DataFrame,
    *,
    salt: str,
    ledger: pd.DataFrame | None = None,
    shares: Sequence[float] = (0.70, 0.15, 0.15),
    n_folds: int = 5,
    published: Literal["honour", "ignore"] = "honour",
    allow_owner_overlap: bool = False,
    threshold: float = THRESHOLD,
    min_shingles: int = MIN_SHINGLES,
    mode: Mode = "grouped",
    boundary: str | datetime | None = None,
    held_boundary: str | datetime | None = None,
    configured_boundary: str | datetime | None = None,
    embargo_days: float = EMBARGO_DAYS,
    purged: pd.DataFrame | None = None,
) -> AuditReport:
    """Audit the splits themselves.

    Parameters
    ----------
    items
        item_id, owner_id, text, timestamp in the mode ``grouped_temporal``, and split where the corpus has a
        published one.
    split_items, owners
        What :func:`perceive.splits.split_items` and :func:`perceive.splits.assign_owners` returned.
    salt
        The salt of the hashes in the report.
    ledger
        The ledger as it was *before* this round (owner_key, split, fold); None or empty in the first round.
    shares, n_folds, published, allow_owner_overlap, threshold, min_shingles, mode, embargo_days
        The settings of the splitting. With `allow_owner_overlap`, owners whom the publisher put into test and
        train are reported as waived; every other overlap still fails.
    boundary
        Mode ``grouped_temporal``: the boundary that the items were split at.
    held_boundary, configured_boundary
        The boundary that the ledger held *before* this round, and the configured one; None: there was none.
    purged
        The list of purged items as it was published (item_id, split, reason); None: not compared.

    Returns
    -------
    AuditReport
        The checks owner_in_two_splits, owner_in_two_folds, text_in_two_splits, near_text_in_two_splits,
        text_in_training_rows, excluded_copies, coverage, in the mode ``grouped_temporal``
        temporal_boundary and sticky_boundary, embargo_7_days, purge_list, sticky_owners, splits_not_empty
        and owner_shares.

    Raises
    ------
    ValueError
        For the mode ``grouped_temporal`` without a boundary.
    """
    if mode == "grouped_temporal" and boundary is None:
        raise ValueError(
            "boundary: the mode grouped_temporal needs the boundary that the items were split at"
        )
    hashed = _Hasher(salt)
    report = AuditReport("splits")
    copies = split_items["reason"].isin(COPY_REASONS)
    texts = _Texts(items, threshold, min_shingles, always=split_items.loc[copies, "item_id"])
    rows = split_items[["item_id", "split", "fold", "reason"]].merge(
        items[["item_id", "owner_id", *(["timestamp"] if mode == "grouped_temporal" else [])]].assign(
            text=texts.codes
        ),
        on="item_id",
        how="inner",
    )
    used = rows[rows["split"] != EXCLUDED]
    listed = published_test(items, published)
    listed_ids = set() if listed is None else set(items.loc[listed, "item_id"])
    waivable = listed_ids if allow_owner_overlap else set()

    report.checks.append(_owner_in_two_splits(used, owners, waivable, hashed))
    report.checks.append(_owner_in_two_folds(used, owners, hashed))
    report.checks += _text_in_two_splits(used, rows, texts, hashed)
    report.checks.append(_text_in_training_rows(split_items, texts, n_folds, hashed))
    report.checks.append(_excluded_copies(used, rows, texts, hashed))
    report.checks.append(_coverage(items, split_items, owners, n_folds, hashed))
    if mode == "grouped_temporal":
        edge = as_boundary(boundary)  # type: ignore[arg-type]
        report.checks.append(_temporal_boundary(used, edge, hashed))
        report.checks.append(
            _sticky_boundary(items["timestamp"], edge, held_boundary, configured_boundary, shares[0])
        )
        report.checks.append(_temporal_embargo(used, edge, embargo_days, hashed))
        expected = _purge_reasons(rows, owners, edge, embargo_days)
    else:
        report.checks.append(_embargo(used, report.checks[0], embargo_days))
        expected = pd.Series(None, index=rows.index, dtype="str")
    report.checks.append(_purge_list(rows, owners, expected, purged, hashed))
    report.checks.append(_sticky(owners, ledger, salt))
    report.checks.append(_not_empty(used, n_folds))
    first_round = ledger is None or ledger.empty
    report.checks.append(_shares(owners, shares, enforced=first_round and listed is None))
    return report


def audit_variable(
    variable: str,
    *,
    items: pd.DataFrame,
    split_items: pd.DataFrame,
    oof_records: pd.DataFrame,
    trained_on: pd.DataFrame,
    labels: Mapping[str, pd.DataFrame],
    salt: str,
    bases: Sequence[str] | None = None,
    feature_columns: Collection[str] = (),
    features: pd.DataFrame | None = None,
    records: Mapping[str, Collection[str]] | None = None,
    upstream: Mapping[str, pd.DataFrame] | None = None,
    threshold: float = THRESHOLD,
    min_shingles: int = MIN_SHINGLES,
) -> AuditReport:
    """Audit the predictions of one variable.

    Parameters
    ----------
    variable
        Its name, a key of `labels`.
    items
        item_id, owner_id, text.
    split_items
        item_id, split, fold; audited before by :func:`audit_splits`.
    oof_records
        item_id, base, fold_predicted: one row for each out-of-fold prediction of a base model, with the fold
        whose model made it.
    trained_on
        fold, item_id, and base where the bases differ: what the model of each fold was trained on (all that
        it read labels of: for early stopping, too).
    labels
        The labels of all variables: item_id with value, or with core, nuance and micro.
    salt
        The salt of the hashes in the report.
    bases
        The base models that must have predictions; by default those in `oof_records`.
    feature_columns
        The names of all features that any model of the variable reads.
    features
        item_id and feature columns, at least of the train items; None: only the names are checked.
    records
        Stage to the item ids that it used. A stage is one of projection, training, tuning, blend, calibration
        and evaluation, with an optional suffix after a slash (``"training/full"``). The suffix ``foldK``
        (``"tuning/fold3"``) says that it was for predicting fold K, of which it must not have seen an owner
        or a text.
    upstream
        Variable to its out-of-fold predictions of the train items that are features of this one: item_id, and
        columns named like the features.
    threshold, min_shingles
        Which texts are near-copies: see :func:`perceive.near_duplicates.near_pairs`.

    Returns
    -------
    AuditReport
        The checks oof_complete, oof_in_fold_prediction, text_trained_and_predicted,
        near_text_trained_and_predicted, label_among_features_by_name, label_among_features_by_value, with
        `upstream` upstream_in_graph and upstream_out_of_fold, and, where recorded,
        learned_inside_training_folds, test_untouched, one of each stage (``training_on_train_only``, ...,
        ``evaluation_on_test_only``) and blend_on_oof_only.

    Raises
    ------
    ValueError
        For an unknown stage in `records`.
    """
    hashed = _Hasher(salt)
    report = AuditReport(variable)
    split_of = pd.Series(split_items["split"].to_numpy(dtype=object), index=split_items["item_id"])
    train_ids = set(split_of.index[split_of == "train"])
    target = labels[variable]
    labelled = set(target.loc[target[_label_columns(target)].notna().any(axis=1), "item_id"])
    names = list(bases) if bases is not None else sorted(oof_records["base"].unique())

    report.checks.append(_oof_complete(oof_records, names, train_ids, labelled & train_ids, hashed))
    texts = _Texts(items[items["item_id"].isin(train_ids)], threshold, min_shingles)
    report.checks += _oof_unseen(items, oof_records, trained_on, texts, hashed)
    report.checks.append(_label_by_name(feature_columns, labels))
    if features is not None:
        report.checks.append(_label_by_value(features, feature_columns, labels, train_ids))
    if upstream is not None:
        report.checks += _upstream(variable, upstream, features, train_ids, hashed)
    records = dict(records or {})
    folds = {stage: int(match[1]) for stage in records if (match := _FOLD_STAGE.fullmatch(stage))}
    if folds:
        report.checks.append(_inside_training_folds(records, folds, items, split_items, texts, hashed))
    # What the fold models were trained on is a training record, too.
    records["training/folds"] = set(trained_on["item_id"])
    report.checks += _stages(records, split_of, hashed)
    blended = [set(ids) for stage, ids in records.items() if stage.split("/")[0] == "blend"]
    if blended:
        complete = oof_records.groupby("item_id")["base"].nunique()
        predicted = set(complete.index[complete >= max(len(names), 1)])
        report.checks.append(
            _check(
                "blend_on_oof_only",
                hashed.items(set().union(*blended) - predicted),
                "the blend was trained only on rows with an out-of-fold prediction of every base model",
                "items that the blend was trained on without an out-of-fold prediction of every base model",
                "train the blend on the out-of-fold rows only",
            )
        )
    return report


def audit_timeline(
    items: pd.DataFrame,
    lexical: pd.DataFrame,
    temporal: pd.DataFrame,
    *,
    salt: str,
    max_rows: int = _HISTORY_ROWS,
) -> AuditReport:
    """Audit that the temporal features see nothing but the owner's own past.

    For each item its features are computed again from what its owner had written up to that moment, and
    nothing else. In a corpus with more history than `max_rows` this is a sample of the items, the same on
    every run.

    Parameters
    ----------
    items
        item_id, owner_id, timestamp.
    lexical
        item_id, lex_valence.
    temporal
        item_id and the 13 temporal features.
    salt
        The salt of the hashes in the report, which also choose the sample.
    max_rows
        How many rows of history are computed at most.

    Returns
    -------
    AuditReport
        The checks timeline_rows and timeline_causal.
    """
    hashed = _Hasher(salt)
    report = AuditReport("timeline")
    ids = items["item_id"].tolist()
    strays: set[str] = set()
    for frame in (temporal, lexical):
        strays |= {*ids} ^ {*frame["item_id"]} | {*frame.loc[frame["item_id"].duplicated(), "item_id"]}
    missing = [name for name in TEMPORAL if name not in temporal.columns]
    report.checks.append(
        _check(
            "timeline_rows",
            missing + hashed.items(strays),
            f"each of {len(ids)} items has its {len(TEMPORAL)} temporal features",
            "items without temporal features or with two rows of them, features without an item, or "
            "features that are missing",
            "compute the temporal features again from the present items",
        )
    )
    if missing or strays:
        return report
    history = items[["item_id", "owner_id", "timestamp"]].merge(
        lexical[["item_id", "lex_valence"]], on="item_id", validate="one_to_one"
    )
    history = history.sort_values(["owner_id", "timestamp", "item_id"], ignore_index=True)
    place = history.groupby("owner_id").cumcount().to_numpy()
    rank = np.argsort([salted_key("item", item, salt) for item in history["item_id"]])
    chosen = rank[: max(1, int(np.searchsorted(np.cumsum(place[rank] + 1), max_rows, side="right")))]
    lengths = place[chosen] + 1
    ends = np.cumsum(lengths)
    past = (
        np.arange(lengths.sum())
        - np.repeat(ends - lengths, lengths)
        + np.repeat(chosen - place[chosen], lengths)
    )
    again = temporal_features(
        np.repeat(np.arange(len(chosen)), lengths).tolist(),
        history["timestamp"].iloc[past].reset_index(drop=True),
        history["lex_valence"].to_numpy()[past],
        item_ids=history["item_id"].iloc[past].tolist(),
    )[ends - 1]
    stored = temporal.set_index("item_id").loc[history["item_id"].iloc[chosen], list(TEMPORAL)].to_numpy()
    differs = ~np.isclose(stored, again, rtol=1e-6, atol=1e-6)
    names = [name for name, column in zip(TEMPORAL, differs.T, strict=True) if column.any()]
    report.checks.append(
        _check(
            "timeline_causal",
            hashed.items(history["item_id"].iloc[chosen[differs.any(axis=1)]]),
            f"the temporal features of {len(chosen)} of {len(ids)} items follow from what their owners had "
            "written up to that moment",
            f"items whose temporal features ({', '.join(names)}) do not follow from what their owners had "
            "written up to that moment",
            "let the features of an item depend on its owner's earlier items and on itself alone, and "
            "compute them again from the present items",
        )
    )
    return report


class _Texts:
    """The texts of some items, and which of them are near-copies of one another.

    Attributes
    ----------
    codes
        The number of each item's normalised text.
    n
        How many texts there are.
    extent
        What is to be added to a sentence on near-copies where not all texts were compared with all.
    """

    def __init__(
        self, items: pd.DataFrame, threshold: float, min_shingles: int, always: Iterable[str] = ()
    ) -> None:
        normal = pd.Series([normalise_text(text) for text in items["text"]], dtype=object)
        self.codes, texts = pd.factorize(normal)
        self.n = len(texts)
        self._items = pd.Index(items["item_id"])
        probes, self.extent = None, ""
        if self.n > EXACT_TEXTS:
            drawn = np.random.default_rng(0).choice(self.n, EXACT_TEXTS, replace=False)
            probes = np.union1d(drawn, self.of(always)[1])
            self.extent = f"; {len(probes):,} of {self.n:,} texts, drawn by lot, were compared with all"
        self._pairs = similar_pairs(texts, threshold=threshold, min_shingles=min_shingles, probes=probes)

    def of(self, ids: Iterable[str]) -> tuple[pd.Index, np.ndarray]:
        """Return the known items among `ids`, and the codes of their texts."""
        wanted = pd.Index(ids).unique()
        places = self._items.get_indexer(wanted)
        return wanted[places >= 0], self.codes[places[places >= 0]]

    def equal(self, codes: np.ndarray) -> np.ndarray:
        """Return for each text whether it is among `codes`."""
        among = np.zeros(self.n, dtype=bool)
        among[codes] = True
        return among

    def near(self, codes: np.ndarray) -> np.ndarray:
        """Return for each text whether a near-copy of it, not the text itself, is among `codes`."""
        among, near = self.equal(codes), np.zeros(self.n, dtype=bool)
        one, other = self._pairs.T
        near[other[among[one]]] = True
        near[one[among[other]]] = True
        return near


class _Hasher:
    """Names owners and items by salted hashes, in an order that depends on the hashes alone."""

    def __init__(self, salt: str) -> None:
        self.salt = salt

    def owners(self, ids: Iterable[str]) -> list[str]:
        return sorted({owner_key(str(owner), self.salt) for owner in ids})

    def items(self, ids: Iterable[str]) -> list[str]:
        return sorted({salted_key("item", str(item), self.salt) for item in ids})


def _check(name: str, found: Sequence[str], proven: str, leak: str, remedy: str) -> Check:
    """Pass when nothing was found, else fail."""
    if not found:
        return Check(name, "pass", 0, (), proven)
    return Check(name, "fail", len(found), tuple(found[:_MAX_EXAMPLES]), f"{len(found)} {leak}", remedy)


# --- splits ------------------------------


def _owner_in_two_splits(
    used: pd.DataFrame, owners: pd.DataFrame, waivable: set[str], hashed: _Hasher
) -> Check:
    name = "owner_in_two_splits"
    # The table of owners counts like an item: an owner assigned to one split with items in another is in two.
    pairs = pd.concat([used[["owner_id", "split"]], owners[["owner_id", "split"]]])
    crossing = _in_several(pairs, "split")
    # A published test item is no reason to doubt the other items of its owner, if it is where the publisher
    # put it.
    others = used[~(used["item_id"].isin(waivable) & (used["split"] == "test"))]
    own = pd.concat([others[["owner_id", "split"]], owners[["owner_id", "split"]]])
    unexplained = _in_several(own, "split")
    if crossing and not unexplained:
        items_of = used[used["owner_id"].isin(crossing)]["split"].value_counts()
        numbers = ", ".join(f"{int(items_of.get(split, 0))} {split}" for split in SPLITS)
        return Check(
            name,
            "waived",
            len(crossing),
            tuple(hashed.owners(crossing)[:_MAX_EXAMPLES]),
            f"{len(crossing)} owners have items in the published test split and in another one "
            f"({numbers} items); the settings allow it",
            "to forbid it, disallow the owner overlap: the items of test owners outside test are then "
            "excluded",
        )
    return _check(
        name,
        hashed.owners(unexplained),
        f"each of {used['owner_id'].nunique()} owners has items in one split only",
        "owners in two splits",
        "split again; restore the ledger from version control if it was edited",
    )


def _owner_in_two_folds(used: pd.DataFrame, owners: pd.DataFrame, hashed: _Hasher) -> Check:
    columns = ["owner_id", "fold"]
    pairs = pd.concat(
        [used.loc[used["split"] == "train", columns], owners.loc[owners["split"] == "train", columns]]
    )
    return _check(
        "owner_in_two_folds",
        hashed.owners(_in_several(pairs, "fold")),
        f"each of {pairs['owner_id'].nunique()} train owners is in one fold only",
        "owners in two folds",
        "split again; restore the ledger from version control if it was edited",
    )


def _in_several(pairs: pd.DataFrame, column: str) -> list[str]:
    numbers = pairs.groupby("owner_id")[column].nunique(dropna=False)
    return numbers.index[numbers > 1].tolist()


def _text_in_two_splits(
    used: pd.DataFrame, rows: pd.DataFrame, texts: _Texts, hashed: _Hasher
) -> list[Check]:
    numbers = used.groupby("text")["split"].nunique()
    crossing = used["text"].isin(numbers.index[numbers > 1])
    near = np.zeros(len(used), dtype=bool)
    for split, members in used.groupby("split"):
        alike = texts.near(members["text"].to_numpy())
        near |= (used["split"] != split).to_numpy() & alike[used["text"]]
    reasons = rows["reason"].fillna("")
    kept_out = int(reasons.str.startswith("duplicate_text").sum())
    near_out = int(reasons.str.startswith("near_duplicate_text").sum())
    return [
        _check(
            "text_in_two_splits",
            hashed.items(used.loc[crossing, "item_id"]),
            f"no normalised text is in two splits ({kept_out} copies were kept out)",
            "items whose normalised text is in another split, too",
            "split again from the present items",
        ),
        _check(
            "near_text_in_two_splits",
            hashed.items(used.loc[near, "item_id"]),
            f"no two splits hold near-copies of a text ({near_out} near-copies were kept out{texts.extent})",
            "items with a near-copy of their text in another split",
            "split again from the present items; if that does not help, lower the threshold of "
            "near-duplicates a little",
        ),
    ]


def _text_in_training_rows(split_items: pd.DataFrame, texts: _Texts, n_folds: int, hashed: _Hasher) -> Check:
    found: set[str] = set()
    left_out = 0
    train = split_items["split"] == "train"
    ids = split_items["item_id"]
    for fold in range(n_folds):
        inside = train & (split_items["fold"] == fold).fillna(False)
        rows = training_rows(split_items, fold)
        left_out += int((train & ~inside & ~rows).sum())
        held = texts.of(ids[inside])[1]
        learned, codes = texts.of(ids[rows])
        found |= set(learned[(texts.equal(held) | texts.near(held))[codes]])
    return _check(
        "text_in_training_rows",
        hashed.items(found),
        f"the training rows of no fold hold a copy or near-copy of a text of the fold ({left_out} were left "
        f"out{texts.extent})",
        "items would train the model of a fold that holds a copy or near-copy of their text",
        "split again from the present items",
    )


def _excluded_copies(used: pd.DataFrame, rows: pd.DataFrame, texts: _Texts, hashed: _Hasher) -> Check:
    unfounded: list[str] = []
    copies = rows[rows["reason"].isin(COPY_REASONS)]
    for reason, members in copies.groupby("reason"):
        kind, split = str(reason).split("_text_in_")
        held = used.loc[used["split"] == split, "text"].to_numpy()
        originals = texts.equal(held) if kind == "duplicate" else texts.near(held)
        unfounded += members.loc[~originals[members["text"]], "item_id"].tolist()
    return _check(
        "excluded_copies",
        hashed.items(unfounded),
        f"each of {len(copies)} items that were excluded as copies has its like in the split that is named",
        "items were excluded as copies of a text that is not there",
        "split again from the present items",
    )


def _coverage(
    items: pd.DataFrame, split_items: pd.DataFrame, owners: pd.DataFrame, n_folds: int, hashed: _Hasher
) -> Check:
    ids = split_items["item_id"]
    faults: dict[str, pd.Series] = {
        "in no row of the splits": items.loc[~items["item_id"].isin(ids), "item_id"],
        "in the splits, but no accepted item": ids[~ids.isin(items["item_id"])],
        "in two rows of the splits": ids[ids.duplicated()],
        "of an owner without an assignment": items.loc[
            ~items["owner_id"].isin(owners["owner_id"]), "item_id"
        ],
        "in an unknown split": ids[~split_items["split"].isin([*SPLITS, EXCLUDED])],
    }
    excluded, train = split_items["split"] == EXCLUDED, split_items["split"] == "train"
    reason, fold = split_items["reason"], split_items["fold"]
    known = [*PURGE_REASONS, *COPY_REASONS, *OWNER_REASONS]
    faults["excluded without a known reason"] = ids[excluded & ~reason.isin(known)]
    faults["in a split and with a reason for exclusion"] = ids[~excluded & reason.notna()]
    in_range = fold.ge(0).fillna(False).astype(bool) & fold.lt(n_folds).fillna(False).astype(bool)
    faults["in train without a valid fold"] = ids[train & ~in_range]
    faults["in a fold outside train"] = ids[~train & fold.notna()]
    if not any(len(found) for found in faults.values()) and ids.tolist() != items["item_id"].tolist():
        faults["in another order than the items"] = ids[ids.to_numpy() != items["item_id"].to_numpy()]
    found = hashed.items(pd.concat([series.astype(object) for series in faults.values()]))
    named = "; ".join(f"{len(series)} {fault}" for fault, series in faults.items() if len(series))
    sizes = ", ".join(
        f"{int((split_items['split'] == split).sum())} {split}" for split in (*SPLITS, EXCLUDED)
    )
    return _check(
        "coverage",
        found,
        f"every one of {len(items)} accepted items is in one split, or excluded with a reason ({sizes})",
        f"items not properly covered: {named}",
        "split again from the present items",
    )


def _temporal_boundary(used: pd.DataFrame, boundary: pd.Timestamp, hashed: _Hasher) -> Check:
    late = used["timestamp"] >= boundary
    test = used["split"] == "test"
    sides = ", ".join(f"{int((used['split'] == split).sum())} {split}" for split in SPLITS)
    return _check(
        "temporal_boundary",
        hashed.items(used.loc[late != test, "item_id"]),
        f"mode grouped_temporal: train and val end before {boundary.isoformat()}, and test starts there "
        f"({sides} items)",
        f"items on the wrong side of {boundary.isoformat()}",
        "split again from the present items",
    )


def _sticky_boundary(
    timestamps: pd.Series,
    boundary: pd.Timestamp,
    held: str | datetime | None,
    configured: str | datetime | None,
    share: float,
) -> Check:
    said = boundary.isoformat()
    if held is not None:
        right, proven = boundary == as_boundary(held), f"the boundary of the earlier rounds, {said}, was kept"
    elif configured is not None:
        right, proven = (
            boundary == as_boundary(configured),
            f"first round: the boundary is as configured, {said}",
        )
    else:
        times = np.sort(timestamps.to_numpy(dtype="datetime64[us]"))
        rank = share * len(times)
        near = times[[min(max(int(rank) + step, 0), len(times) - 1) for step in (-1, 0)]]
        half_a_day = np.timedelta64(12, "h")
        right = boundary == boundary.normalize() and bool(
            (np.abs(near - boundary.to_numpy()) <= half_a_day).any()
        )
        proven = f"first round: the boundary {said} is the whole day nearest to the {share:g} quantile"
    return _check(
        "sticky_boundary",
        [] if right else [said],
        proven,
        f"boundary that is not that of the earlier rounds, the configured one, or the {share:g} quantile",
        "restore the ledger from version control and split again",
    )


def _temporal_embargo(used: pd.DataFrame, boundary: pd.Timestamp, days: float, hashed: _Hasher) -> Check:
    near = (used["timestamp"] >= boundary - pd.Timedelta(days=days)) & (used["timestamp"] < boundary)
    return _check(
        f"embargo_{days:g}_days",
        hashed.items(used.loc[near & (used["split"] != "test"), "item_id"]),
        f"no item of train or val lies within {days:g} days before {boundary.isoformat()}",
        f"items of train or val within {days:g} days before the boundary",
        "split again from the present items",
    )


def _purge_reasons(
    rows: pd.DataFrame, owners: pd.DataFrame, boundary: pd.Timestamp, days: float
) -> pd.Series:
    """Return why each row is to be purged, from its owner's split and its time."""
    split = rows["owner_id"].map(owners.drop_duplicates("owner_id").set_index("owner_id")["split"])
    age = boundary - rows["timestamp"]
    expected = pd.Series(None, index=rows.index, dtype="str")
    learns = split.isin(["train", "val"])
    expected[learns & (age <= pd.Timedelta(days=days))] = "embargo"
    expected[learns & (age <= pd.Timedelta(0))] = "after_boundary"
    expected[split.eq("test") & (age > pd.Timedelta(0))] = "before_boundary"
    return expected


def _purge_list(
    rows: pd.DataFrame,
    owners: pd.DataFrame,
    expected: pd.Series,
    purged: pd.DataFrame | None,
    hashed: _Hasher,
) -> Check:
    actual = rows["reason"].where(rows["reason"].isin(PURGE_REASONS))
    wrong = actual.fillna("") != expected.fillna("")
    named = [
        ("not purged", rows.loc[wrong & actual.isna(), "item_id"]),
        ("purged without cause", rows.loc[wrong & expected.isna(), "item_id"]),
        ("purged for the wrong reason", rows.loc[wrong & actual.notna() & expected.notna(), "item_id"]),
    ]
    if purged is not None:
        split = rows["owner_id"].map(owners.drop_duplicates("owner_id").set_index("owner_id")["split"])
        due = rows.assign(split=split, reason=expected)[expected.notna()]
        columns = ["item_id", "split", "reason"]
        entries = [
            frame[columns].astype(object).itertuples(index=False, name=None) for frame in (due, purged)
        ]
        faulty = {entry[0] for entry in set(entries[0]) ^ set(entries[1])}
        faulty |= set(purged.loc[purged["item_id"].duplicated(), "item_id"])
        named.append(
            ("wrong in the list, missing in it or in it twice", pd.Series(sorted(faulty), dtype="str"))
        )
    counts = expected.value_counts().sort_index()
    what = ", ".join(f"{number} {reason}" for reason, number in counts.items()) or "nothing to purge"
    return _check(
        "purge_list",
        hashed.items(pd.concat([ids.astype(object) for _, ids in named])),
        f"exactly the items are purged that must be ({what})",
        "items: " + "; ".join(f"{len(ids)} {fault}" for fault, ids in named if len(ids)),
        "split again from the present items",
    )


def _embargo(used: pd.DataFrame, overlap: Check, days: float) -> Check:
    name = f"embargo_{days:g}_days"
    if overlap.verdict == "pass":
        return Check(
            name,
            "pass",
            0,
            (),
            f"mode grouped: no owner has items in two splits, so there is nothing to purge within "
            f"{days:g} days",
        )
    return Check(
        name,
        overlap.verdict,
        overlap.count,
        overlap.examples,
        f"{overlap.count} owners have items in two splits, which may lie within {days:g} days of each other",
        overlap.remedy,
    )


def _sticky(owners: pd.DataFrame, ledger: pd.DataFrame | None, salt: str) -> Check:
    name = "sticky_owners"
    if ledger is None or ledger.empty:
        return Check(name, "pass", 0, (), "first round: the ledger holds no owner yet")
    keyed = owners.assign(owner_key=[owner_key(owner, salt) for owner in owners["owner_id"]])
    both = keyed.merge(ledger, on="owner_key", suffixes=("", "_held"))
    moved = (both["split"] != both["split_held"]) | (both["fold"].fillna(-1) != both["fold_held"].fillna(-1))
    return _check(
        name,
        sorted(both.loc[moved, "owner_key"]),
        f"{len(both)} owners of earlier rounds kept their split and fold; {len(keyed) - len(both)} are new",
        "owners changed their split or fold since an earlier round",
        "restore the ledger from version control and split again",
    )


def _not_empty(used: pd.DataFrame, n_folds: int) -> Check:
    present = set(used["split"])
    empty = [split for split in SPLITS if split not in present]
    folds = set(used.loc[used["split"] == "train", "fold"].dropna().astype(int))
    empty += [f"fold {fold}" for fold in range(n_folds) if fold not in folds]
    return _check(
        "splits_not_empty",
        empty,
        f"train, val, test and all {n_folds} folds have items",
        f"parts without any item ({', '.join(empty)})",
        "bring more owners, or configure fewer folds or other shares",
    )


def _shares(owners: pd.DataFrame, shares: Sequence[float], *, enforced: bool) -> Check:
    counts = np.array([(owners["split"] == split).sum() for split in SPLITS])
    target = largest_remainder(len(owners), shares)
    off = int(np.abs(counts - target).max())
    numbers = ", ".join(
        f"{n} {split} (aim {aim})" for n, split, aim in zip(counts, SPLITS, target, strict=True)
    )
    if off <= 1:
        return Check("owner_shares", "pass", 0, (), f"owners: {numbers}")
    return Check(
        "owner_shares",
        "fail" if enforced else "waived",
        off,
        (),
        f"owners: {numbers}"
        + ("" if enforced else "; owners of earlier rounds and published splits are not moved"),
        "split again" if enforced else "none needed: new owners are dealt towards the shares",
    )


# --- one variable ------------------------------


def _oof_complete(
    oof_records: pd.DataFrame, bases: Sequence[str], train_ids: set[str], expected: set[str], hashed: _Hasher
) -> Check:
    twice = oof_records.loc[oof_records.duplicated(["base", "item_id"]), "item_id"]
    outside = oof_records.loc[~oof_records["item_id"].isin(train_ids), "item_id"]
    missing: set[str] = set()
    for base in bases:
        missing |= expected - set(oof_records.loc[oof_records["base"] == base, "item_id"])
    if not bases:
        missing = expected
    named = [
        (len(missing), "without a prediction of each base model"),
        (len(twice), "predicted more than once"),
    ]
    named.append((len(outside), "predicted, but not in train"))
    return _check(
        "oof_complete",
        hashed.items([*missing, *twice, *outside]),
        f"each of {len(expected)} labelled train items was predicted exactly once by each of "
        + ", ".join(bases),
        "items: " + "; ".join(f"{number} {fault}" for number, fault in named if number),
        "compute the out-of-fold predictions again",
    )


def _oof_unseen(
    items: pd.DataFrame,
    oof_records: pd.DataFrame,
    trained_on: pd.DataFrame,
    texts: _Texts,
    hashed: _Hasher,
) -> list[Check]:
    known = items[["item_id", "owner_id"]]
    predicted = oof_records[["item_id", "base", "fold_predicted"]].rename(columns={"fold_predicted": "fold"})
    predicted = predicted.merge(known, on="item_id", how="left")
    trained = trained_on.merge(known, on="item_id", how="left")
    model = ["base", "fold"] if "base" in trained_on.columns else ["fold"]

    unknown = [*predicted.loc[predicted["owner_id"].isna(), "item_id"]]
    unknown += [*trained.loc[trained["owner_id"].isna(), "item_id"]]
    unrecorded = predicted.merge(trained[model].drop_duplicates(), on=model, how="left", indicator=True)
    unrecorded_ids = unrecorded.loc[unrecorded["_merge"] == "left_only", "item_id"]
    # An item is always of its own owner, so an item in its own model's training rows is found here, too.
    seen = predicted.merge(trained[[*model, "owner_id"]].dropna().drop_duplicates(), on=[*model, "owner_id"])
    named = [(seen["item_id"].nunique(), "predicted by a model that was trained on their owner")]
    named.append((unrecorded_ids.nunique(), "predicted by a model without a record of its training"))
    named.append((len(set(unknown)), "in the records, but no accepted item"))
    in_fold = _check(
        "oof_in_fold_prediction",
        hashed.items([*seen["item_id"], *unrecorded_ids, *unknown]),
        f"each of {len(predicted)} out-of-fold predictions is by a model that saw no item of its owner",
        "items: " + "; ".join(f"{number} {fault}" for number, fault in named if number),
        "compute the out-of-fold predictions again, each fold's model without the owners of the fold",
    )
    read, nearly = set(), set()
    learned = dict(iter(trained.groupby(model)["item_id"]))
    for name, answered in predicted.groupby(model)["item_id"]:
        ids, codes = texts.of(answered)
        of_learned = texts.of(learned.get(name, ()))[1]
        read |= set(ids[texts.equal(of_learned)[codes]])
        nearly |= set(ids[texts.near(of_learned)[codes]])
    remedy = "take the training rows from perceive.splits.training_rows, which leaves the copies out"
    text = _check(
        "text_trained_and_predicted",
        hashed.items(read),
        "no out-of-fold prediction is of a text that its model was trained on",
        "items predicted by a model that was trained on a copy of their text",
        remedy,
    )
    near = _check(
        "near_text_trained_and_predicted",
        hashed.items(nearly),
        f"no out-of-fold prediction is of a text that its model was trained on a near-copy of{texts.extent}",
        "items predicted by a model that was trained on a near-copy of their text",
        remedy,
    )
    return [in_fold, text, near]


def _inside_training_folds(
    records: Mapping[str, Collection[str]],
    folds: Mapping[str, int],
    items: pd.DataFrame,
    split_items: pd.DataFrame,
    texts: _Texts,
    hashed: _Hasher,
) -> Check:
    owner_of = pd.Series(items["owner_id"].to_numpy(dtype=object), index=items["item_id"])
    train = split_items[split_items["split"] == "train"]
    found: set[str] = set()
    for stage, fold in folds.items():
        inside = train.loc[(train["fold"] == fold).fillna(False), "item_id"]
        used = pd.Index(list(records[stage])).intersection(owner_of.index)
        found |= set(used[owner_of.loc[used].isin(set(owner_of.loc[inside]))])
        ids, codes = texts.of(used)
        held = texts.of(inside)[1]
        found |= set(ids[(texts.equal(held) | texts.near(held))[codes]])
    return _check(
        "learned_inside_training_folds",
        hashed.items(found),
        f"{', '.join(sorted({stage.split('/')[0] for stage in folds}))}: what was learned for predicting a "
        f"fold was learned without its owners and its texts{texts.extent}",
        "items of an owner of a fold, or copies of its texts, in what was learned for predicting the fold",
        "take the training rows from perceive.splits.training_rows",
    )


def _upstream(
    variable: str,
    upstream: Mapping[str, pd.DataFrame],
    features: pd.DataFrame | None,
    train_ids: set[str],
    hashed: _Hasher,
) -> list[Check]:
    reads = VARIABLES[variable].reads
    strangers = sorted(set(upstream) - set(reads))
    in_graph = _check(
        "upstream_in_graph",
        strangers,
        f"{variable} reads predictions of {', '.join(upstream) or 'no variable'}, as the graph allows",
        f"variables are read that {variable} must not read ({', '.join(strangers)})",
        f"read predictions of {', '.join(reads) or 'no variable'} only",
    )
    if features is None:
        return [in_graph]
    rows = features[features["item_id"].isin(train_ids)].set_index("item_id")
    found: set[str] = set()
    columns: list[str] = []
    for predictions in upstream.values():
        names = [name for name in predictions.columns if name != "item_id"]
        recorded = predictions.set_index("item_id").reindex(rows.index)[names]
        same = np.isclose(rows[names].to_numpy(float), recorded.to_numpy(float), rtol=1e-5, atol=1e-6)
        found |= set(rows.index[~same.all(axis=1)])
        columns += names
    out_of_fold = _check(
        "upstream_out_of_fold",
        hashed.items(found),
        f"on {len(rows)} train items the {len(columns)} features of other variables are their out-of-fold "
        "predictions",
        "train items with a feature of another variable that is not its out-of-fold prediction",
        "fill these features from the out-of-fold predictions of the variables that are read",
    )
    return [in_graph, out_of_fold]


def _label_columns(label: pd.DataFrame) -> list[str]:
    return [column for column in ("value", "core", "nuance", "micro") if column in label.columns]


def _label_by_name(feature_columns: Collection[str], labels: Mapping[str, pd.DataFrame]) -> Check:
    variables = {*VARIABLES, *labels}

    def suspicious(column: str) -> bool:
        name = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")
        words = set(name.split("_"))
        stem, _, form = name.rpartition("_")
        return (
            name in variables
            or name in _LABEL_COLUMNS
            or bool(words & _LABEL_WORDS)
            or (stem in variables and form in _LABEL_FORMS)
        )

    return _check(
        "label_among_features_by_name",
        sorted(column for column in feature_columns if suspicious(column)),
        f"none of {len(feature_columns)} features is named like a label",
        "features are named like a label",
        "take them out of the features, or rename them if they are computed from the text alone",
    )


def _label_by_value(
    features: pd.DataFrame,
    feature_columns: Collection[str],
    labels: Mapping[str, pd.DataFrame],
    train_ids: set[str],
) -> Check:
    rows = features[features["item_id"].isin(train_ids)].set_index("item_id")
    columns = [column for column in rows.columns if not feature_columns or column in set(feature_columns)]
    rows = rows[columns].astype(np.float64).replace([np.inf, -np.inf], np.nan)
    found: dict[str, str] = {}
    for variable, label in labels.items():
        label = label.set_index("item_id")
        for column in _label_columns(label.reset_index()):
            truth = label[column].dropna()
            truth = truth[truth.index.isin(rows.index)]
            matrix = rows.loc[truth.index]
            same = _same_numbers(matrix, truth) if column == "value" else _same_classes(matrix, truth)
            found |= dict.fromkeys(same, variable)
    what = ", ".join(f"{column} = {found[column]}" for column in sorted(found)[:_MAX_EXAMPLES])
    return _check(
        "label_among_features_by_value",
        sorted(found),
        f"none of {len(columns)} features equals a label, up to scale and order, on the train rows",
        f"features equal a label on the train rows ({what})",
        "take them out of the features",
    )


def _same_numbers(matrix: pd.DataFrame, truth: pd.Series) -> list[str]:
    truth = truth.astype(np.float64)
    if truth.nunique() < 2:
        return []
    with np.errstate(all="ignore"):  # constant columns have no correlation
        pearson = matrix.corrwith(truth).abs()
        spearman = matrix.rank().corrwith(truth.rank()).abs()
    enough = matrix.notna().sum() >= _MIN_ROWS
    return matrix.columns[enough & ((pearson >= _SAME) | (spearman >= _SAME))].tolist()


def _same_classes(matrix: pd.DataFrame, truth: pd.Series) -> list[str]:
    sizes = truth.map(truth.value_counts())
    truth = truth[sizes >= _MIN_CLASS]
    if len(truth) < _MIN_ROWS or truth.nunique() < 2:
        return []
    matrix = matrix.loc[truth.index]
    explained = matrix.groupby(truth.to_numpy()).transform("mean").var(ddof=0)
    with np.errstate(all="ignore"):
        ratio = explained / matrix.var(ddof=0)
    return matrix.columns[(matrix.notna().sum() >= _MIN_ROWS) & (ratio >= _SAME)].tolist()


def _stages(records: Mapping[str, Collection[str]], split_of: pd.Series, hashed: _Hasher) -> list[Check]:
    used: dict[str, set[str]] = {}
    for stage, ids in records.items():
        kind = stage.split("/")[0]
        if kind not in STAGE_SPLITS:
            raise ValueError(f"records: unknown stage {stage!r}; known are {', '.join(STAGE_SPLITS)}")
        used.setdefault(kind, set()).update(ids)
    test_ids = set(split_of.index[split_of == "test"])
    touched: set[str] = set()
    for kind, ids in used.items():
        if kind != "evaluation":
            touched |= ids & test_ids
    checks = [
        _check(
            "test_untouched",
            hashed.items(touched),
            f"no test item was used by {', '.join(kind for kind in used if kind != 'evaluation')}",
            "test items were used before the evaluation",
            "take the rows of each stage from the splits",
        )
    ]
    for kind, ids in used.items():
        split = STAGE_SPLITS[kind]
        allowed = set(split_of.index[split_of == split])
        checks.append(
            _check(
                f"{kind}_on_{split}_only",
                hashed.items(ids - allowed),
                f"{kind}: all {len(ids)} items are {split} items",
                f"items used by {kind} are not in {split}",
                "take the rows of each stage from the splits",
            )
        )
    return checks
