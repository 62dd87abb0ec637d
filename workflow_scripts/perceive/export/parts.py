"""The trained parts of all variables, as a run left them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perceive import io
from perceive.answers import upstream_columns
from perceive.boosters import lgb
from perceive.calibration import Calibrator
from perceive.classifiers import read_trees
from perceive.encoder import check_weights, resolve_model
from perceive.ensemble import RegressionEnsemble
from perceive.export.heads import Head
from perceive.features.matrix import BASE_FEATURES, PATH_BASES
from perceive.features.path_store import path_columns
from perceive.hierarchy_calibration import HierarchyCalibrator
from perceive.path_ensemble import PathEnsemble
from perceive.sequence.model import GruRegressor
from perceive.sequence.model import load as load_gru
from perceive.taxonomy import Taxonomy
from perceive.transformer.backbone import Backbone, load_backbone
from perceive.transformer.model import Hierarchy, TopTransformer
from perceive.transformer.model import load as load_transformer


@dataclass(frozen=True)
class Parts:
    """What answers, apart from the encoders of other languages.

    Attributes
    ----------
    source : Path
        Folder of the encoder that the transformers are built on.
    backbone : Backbone
    heads : dict of variable to Head
        In the order of the variables.
    transformers : dict of variable to TopTransformer
    grus : dict of variable to GruRegressor
    """

    source: Path
    backbone: Backbone
    heads: dict[str, Head]
    transformers: dict[str, TopTransformer]
    grus: dict[str, GruRegressor]


def load_parts(
    results: Path,
    kinds: Mapping[str, str],
    reads: Mapping[str, Sequence[str]],
    taxonomy: Taxonomy | None,
    backbone: Mapping[str, Any],
) -> Parts:
    """Read the models, blenders and calibrators of all variables.

    Parameters
    ----------
    results : Path
        With ``models``, ``blend`` and ``calibration``.
    kinds : mapping of variable to kind
    reads : mapping of variable to variables
        Whose answers are features of it.
    taxonomy : Taxonomy or None
        None where no variable is a hierarchy.
    backbone : mapping
        ``model`` and ``sha256`` of the encoder that the transformers are built on.
    """
    source = resolve_model(backbone["model"])
    check_weights(source, backbone["sha256"])
    parts = Parts(source, load_backbone(source), {}, {}, {})
    for name, kind in kinds.items():
        calibrator = io.read_json(results / "calibration" / name / "calibrator.json")
        blender = results / "blend" / name / "model.txt"
        folder = results / "models" / name
        trees = PATH_BASES[:-1] if kind == "hierarchy" else BASE_FEATURES
        bases = [folder / base / "model.txt" for base in trees]
        ensemble: RegressionEnsemble | PathEnsemble
        if kind == "hierarchy":
            assert taxonomy is not None
            columns: Sequence[str] = path_columns(name)
            ensemble = PathEnsemble(
                [read_trees(path, columns) for path in bases],
                lgb.Booster(model_file=str(blender)),
                HierarchyCalibrator.from_dict(calibrator),
                Hierarchy.of(taxonomy),
            )
            answers: Sequence[str] = upstream_columns(name, taxonomy)
        else:
            network = "gru" if kind == "sequence" else "transformer"
            ensemble = RegressionEnsemble.load(bases, blender, Calibrator.from_dict(calibrator), network)
            columns, answers = ensemble.columns, [f"{name}_answer"]
        read = any(name in of_one for of_one in reads.values())
        parts.heads[name] = Head(name, ensemble, tuple(columns), tuple(answers) if read else ())
        if kind == "sequence":
            parts.grus[name] = load_gru(folder / "gru")
        else:
            parts.transformers[name] = load_transformer(folder / "transformer", parts.backbone)
    return parts
