"""The labelled rows of the test split with what the model of a scale answers on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from perceive import io
from perceive.calibration import Calibrator
from perceive.corpus.ceiling import scale_ceiling
from perceive.ensemble import RegressionEnsemble
from perceive.features.store import labelled, model_inputs, read_labels, with_upstream


@dataclass(frozen=True)
class Artifacts:
    """Paths of what an evaluation reads, under ``results/``.

    Attributes
    ----------
    split_items, features, labels, agreement, calibrator, blender, network : str
        ``features`` is of the test part; ``network`` holds the answers of the transformer or the GRU, which
        gives the base model its name.
    columns, models, upstream : sequence of str
        ``columns`` are of the items; see `perceive.io.read_items`.
    """

    columns: Sequence[str]
    split_items: str
    features: str
    labels: str
    agreement: str
    calibrator: str
    blender: str
    network: str
    models: Sequence[str]
    upstream: Sequence[str]

    @classmethod
    def of(cls, named: Any) -> Artifacts:
        """Pick them out of an object that has them among its attributes."""
        return cls(**{name: getattr(named, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class EvaluatedRows:
    """What :func:`perceive.evaluation.evaluate.evaluate_regression` takes.

    Attributes
    ----------
    test, train : DataFrame
        The labelled rows; those of test with the answers.
    ceiling : dict
        The noise ceiling, or why it is not known.
    derived : str or None
        Where labels of the test rows were derived: how many, and by which formula.
    """

    test: pd.DataFrame
    train: pd.DataFrame
    ceiling: dict[str, Any]
    derived: str | None

    def marked(self, variable: str) -> str:
        """The variable's name for people, with the mark of derived labels."""
        return f"{variable} (derived label)" if self.derived else variable


def noise_ceiling(agreement: dict[str, Any], labels: pd.DataFrame) -> dict[str, Any]:
    """What a perfect model could reach on these rows, or why that is not known."""
    found = agreement["ceiling"]
    if "error_variance" not in found:
        return {"reason": found["reason"]}
    return scale_ceiling(found["error_variance"], labels["n_raters"], labels["value"])


def evaluated_rows(variable: str, paths: Artifacts) -> EvaluatedRows:
    """Read the labelled rows of a scale and answer those of test.

    Raises
    ------
    ValueError
        If no test item has a label.
    """
    labels = read_labels(paths.labels)
    rated = io.read_parquet(paths.labels).set_index("item_id")
    items = io.read_items(paths.columns)
    features = with_upstream(io.read_parquet(paths.features), [*paths.upstream, paths.network])
    rows = labelled(features, labels)
    if rows.empty:
        raise ValueError(f"no test item has a label of {variable}; label some items of the test owners")
    ensemble = RegressionEnsemble.load(
        paths.models,
        paths.blender,
        Calibrator.from_dict(io.read_json(paths.calibrator)),
        network=Path(paths.network).stem,
    )
    predicted = ensemble.predict(*model_inputs(rows, items, ensemble.columns))
    by_id = items.set_index("item_id")
    test = by_id.loc[rows["item_id"]].reset_index()
    test = pd.concat([test, predicted], axis=1).assign(observed=labels.loc[rows["item_id"]].to_numpy())
    split_items = io.read_parquet(paths.split_items, ["item_id", "split"])
    train_ids = split_items.loc[split_items["split"] == "train", "item_id"]
    train_ids = train_ids[train_ids.isin(labels.index)]
    train = by_id.loc[train_ids].reset_index().assign(observed=labels.loc[train_ids].to_numpy())
    agreement = io.read_json(paths.agreement)
    rated = rated.loc[rows["item_id"]]
    computed = int(rated["derived"].sum())
    formula = agreement.get("derived", {}).get("formula")
    derived = f"{computed} of {len(rated)} labels by {formula}" if computed else None
    return EvaluatedRows(test, train, noise_ceiling(agreement, rated), derived)
