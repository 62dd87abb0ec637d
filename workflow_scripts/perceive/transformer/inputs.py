"""What a hierarchy's transformer is trained on, read from the artifacts of the earlier stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perceive.encoder import check_weights, resolve_model
from perceive.features.path_store import EXTRA_INPUTS
from perceive.transformer.backbone import Backbone, load_backbone
from perceive.transformer.losses import one_hot
from perceive.transformer.model import Hierarchy
from perceive.transformer.states import StateStore, TextTokenizer
from perceive.transformer.training import Examples, Machine

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


def examples(
    variable: str,
    items: pd.DataFrame,
    codes: NDArray[np.int64],
    taxonomy: Taxonomy,
    extra: NDArray[np.float32],
    store: StateStore,
) -> Examples:
    """All items as examples.

    Parameters
    ----------
    items : DataFrame
        ``text``.
    codes : ndarray of shape (n, levels)
        -1 where an item has no label.
    """
    hierarchy = Hierarchy.of(taxonomy)
    texts = items["text"].tolist()
    return Examples(
        partial(store.states, texts),
        store.depth,
        one_hot(codes, hierarchy),
        hierarchy,
        extra,
        EXTRA_INPUTS[variable],
    )


def machine(settings: Mapping[str, Any], threads: int) -> Machine:
    """Where to compute, by the configuration."""
    return Machine(threads, settings["precision"], settings["device"])
