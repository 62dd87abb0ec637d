"""The parts of a sentence encoder: embeddings and layers, called one by one."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def ask(
    layer: torch.nn.Module, queries: torch.Tensor, states: torch.Tensor, attention: torch.Tensor
) -> torch.Tensor:
    """A layer of :class:`Backbone` for one position a text, which attends to all of its tokens.

    Where the query is the state of a token, the answer is what ``layer(states, attention)`` gives for it. No
    key and no value is computed: for one query it is cheaper to take it back through the keys' weights (their
    bias moves all scores alike), and to project the mean of the states by the values' weights afterwards.
    So the layer costs about as much for a whole text as otherwise for one token.

    Parameters
    ----------
    layer : Module
    queries : Tensor of shape (b, width)
        States of the positions.
    states : Tensor of shape (b, t, width)
        States of the tokens.
    attention : Tensor of shape (b, 1, 1, t)
        Of :func:`additive_mask`.

    Returns
    -------
    Tensor of shape (b, width)
    """
    parts: dict[str, Any] = {name: module for name, module in layer.named_children()}
    if "ffn" in parts:  # DistilBERT
        of_attention = parts["attention"]
        q, k, v = of_attention.q_lin, of_attention.k_lin, of_attention.v_lin
        heads = of_attention.n_heads
    else:  # BERT and its kin
        of_attention = parts["attention"].self
        q, k, v = of_attention.query, of_attention.key, of_attention.value
        heads = of_attention.num_attention_heads
    width = q.in_features
    length = width // heads  # of a head
    asked = q(queries).view(-1, heads, length).transpose(0, 1)  # [heads, b, length]
    back = (asked @ k.weight.view(heads, length, width)).transpose(0, 1)  # [b, heads, width]
    scores = back @ states.transpose(1, 2) / math.sqrt(length) + attention[:, 0]
    # Softmax in float32 also where the products are in bf16.
    means = scores.float().softmax(dim=-1).to(back.dtype) @ states.to(back.dtype)  # [b, heads, width]
    of_heads = means.transpose(0, 1) @ v.weight.view(heads, length, width).transpose(1, 2)
    context = of_heads.transpose(0, 1).flatten(start_dim=1) + v.bias
    if "ffn" in parts:
        seen = parts["sa_layer_norm"](of_attention.out_lin(context) + queries)
        answer: torch.Tensor = parts["output_layer_norm"](parts["ffn"](seen) + seen)
        return answer
    seen = parts["attention"].output(context, queries)
    answer = parts["output"](parts["intermediate"](seen), seen)
    return answer
