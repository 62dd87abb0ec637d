"""The parts of a sentence encoder: embeddings and layers, called one by one."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch

from perceive.encoder import _transformer_folder, source_sha256


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder, in evaluation mode.

    Attributes
    ----------
    embeddings : Module
        Token ids [b, t] to states [b, t, width].
    layers : ModuleList
        Each maps ``(states, additive mask)`` to states.
    width : int
        Length of a state.
    sha256 : str
        Of all that decides what it computes: :func:`perceive.encoder.source_sha256`.
    """

    embeddings: torch.nn.Module
    layers: torch.nn.ModuleList
    width: int
    sha256: str

    def top(self, count: int) -> torch.nn.ModuleList:
        """Copies of the ``count`` topmost layers.

        Raises
        ------
        ValueError
            If the encoder has fewer.
        """
        if not 0 <= count <= len(self.layers):
            raise ValueError(
                f"{count} layers cannot be trained: the encoder has {len(self.layers)}; correct top_layers"
            )
        return copy.deepcopy(self.layers[len(self.layers) - count :])


def load_backbone(source: Path) -> Backbone:
    """Read the transformer of a sentence-transformers folder (:func:`perceive.encoder.resolve_model`).

    Raises
    ------
    ValueError
        If its architecture is none whose layers are known: BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Eager attention is as fast as any other on a CPU for short texts, and deterministic on a GPU.
    model = AutoModel.from_pretrained(
        _transformer_folder(source), local_files_only=True, use_safetensors=True, attn_implementation="eager"
    ).eval()
    kind = model.config.model_type
    if kind not in ("bert", "roberta", "xlm-roberta", "electra", "distilbert"):
        raise ValueError(
            f"the encoder is of the architecture {kind!r}, whose layers are not known here; configure "
            "a BERT, RoBERTa, XLM-R, ELECTRA or DistilBERT encoder"
        )
    layers = (model.transformer if kind == "distilbert" else model.encoder).layer
    return Backbone(model.embeddings, layers, int(model.config.hidden_size), source_sha256(source))


def additive_mask(mask: torch.Tensor) -> torch.Tensor:
    """What layers add to their attention scores [b, 1, 1, t]: zero at tokens, the lowest number at padding.

    Parameters
    ----------
    mask : Tensor of shape (b, t)
        True (or 1) at tokens.
    """
    return (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
