"""What a transformer is trained on, read from the artifacts of the earlier stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perceive import io
from perceive.encoder import TextTokenizer, check_weights, resolve_model
from perceive.features.path_store import EXTRA_INPUTS, read_paths
from perceive.features.store import read_labels
from perceive.transformer.backbone import Backbone, load_backbone
from perceive.transformer.losses import one_hot
from perceive.transformer.model import Hierarchy, Output, Scales
from perceive.transformer.states import StateStore
from perceive.transformer.training import Examples, Hyperparameters, Machine
from perceive.variables import HIERARCHIES

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy


@dataclass(frozen=True)
class Source:
    """The encoder that is trained further.

    Attributes
    ----------
    backbone : Backbone
    tokenizer : TextTokenizer
    store : StateStore
    """

    backbone: Backbone
    tokenizer: TextTokenizer
    store: StateStore

    @classmethod
    def load(cls, settings: Mapping[str, Any], encoder: Path, cache: Path, *, threads: int) -> Source:
        """Open the configured encoder.

        Parameters
        ----------
        settings : mapping
            ``model`` and ``sha256``, as in a section of ``encoders``.
        encoder : Path
            Its converted folder, for the tokenizer.
        cache : Path
            Folder of the token states.
        threads : int
            Threads that compute token states which are missing.
        """
        folder = resolve_model(settings["model"])
        check_weights(folder, settings["sha256"])
        backbone, tokenizer = load_backbone(folder), TextTokenizer(encoder)
        return cls(backbone, tokenizer, StateStore(cache, backbone, tokenizer, threads=threads))


def extra_inputs(variable: str, ids: pd.Series, *frames: pd.DataFrame) -> NDArray[np.float32]:
    """What the variable's transformer reads beside the text, shape (n, extra inputs).

    Parameters
    ----------
    ids : Series of str
        The items; in ``frames`` they may stand in any order.
    frames : DataFrame
        ``item_id`` and features.
    """
    joined = pd.concat([frame.set_index("item_id").loc[ids] for frame in frames], axis=1)
    # A cue that is a lexical feature, too, stands in both.
    joined = joined.loc[:, ~joined.columns.duplicated()]
    return joined[list(EXTRA_INPUTS[variable])].to_numpy(np.float32)


Targets = list[NDArray[np.float32]]


def read_targets(
    variable: str, path: str | Path, ids: pd.Series, taxonomy: Taxonomy | None
) -> tuple[Targets, Output]:
    """Labels of items as :class:`perceive.transformer.training.Examples` takes them, and what they are of.

    Parameters
    ----------
    path : str or Path
        ``corpus/labels/<variable>.parquet``.
    ids : Series of str
    taxonomy : Taxonomy or None
        Of a hierarchy.
    """
    if variable in HIERARCHIES:
        assert taxonomy is not None  # the Snakefile asks for one
        hierarchy = Hierarchy.of(taxonomy)
        return one_hot(read_paths(path, ids, taxonomy), hierarchy), hierarchy
    return [read_labels(path).reindex(ids).to_numpy(np.float32)[:, None]], Scales((variable,))


def examples(
    variable: str,
    items: pd.DataFrame,
    targets: Targets,
    output: Output,
    extra: NDArray[np.float32],
    store: StateStore,
) -> Examples:
    """All items as examples.

    Parameters
    ----------
    items : DataFrame
        ``text``.
    """
    states = partial(store.states, items["text"].tolist())
    return Examples(states, store.depth, targets, output, extra, EXTRA_INPUTS[variable])


def hyperparameters(settings: Mapping[str, Any], tuned: str | Sequence[str]) -> Hyperparameters:
    """Those that a search found (``best.json``), or for a scale, which has no search, the configured ones."""
    return Hyperparameters(**(io.read_json(str(tuned)) if tuned else settings)["parameters"])


def machine(settings: Mapping[str, Any], threads: int) -> Machine:
    """Where to compute, by the configuration."""
    return Machine(threads, settings["precision"], settings["device"])
