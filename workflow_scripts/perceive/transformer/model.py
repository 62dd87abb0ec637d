"""The trained part of the transformer: top layers and a head for a hierarchy or for scales.

The last layer works for one position, the mean of the states that enter it, which attends to all tokens: next
to a mean over what the layer makes of every token, that costs hardly anything in training and in serving.

A hierarchy's head gives p(core), p(nuance | core), p(micro | nuance): at each level one logit a label, and a
softmax among siblings alone. The probabilities of a level are their products down the path, so every level
sums to one and adds up to the level above, whatever the weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from perceive import io
from perceive.transformer.backbone import Backbone, additive_mask, ask

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "model.json"
LARGEST_EXTRA = 5.0
"""Extra inputs are cut off at this many standard deviations: counts have long tails."""


@dataclass(frozen=True)
class Hierarchy:
    """The shape of a taxonomy.

    Attributes
    ----------
    levels : tuple of str
        Names of the levels.
    parents : tuple of tuple of int
        For each level the position of every label's parent in the level above; zeros at the first.
    """

    levels: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, taxonomy: Taxonomy) -> Hierarchy:
        """The shape of a taxonomy, labels in the order of ``taxonomy.labels(level)``."""
        from perceive.paths import parents

        return cls(tuple(taxonomy.levels), tuple(tuple(above.tolist()) for above in parents(taxonomy)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Labels of each level."""
        return tuple(map(len, self.parents))


@dataclass(frozen=True)
class Scales:
    """Names of the scales (0..1) that a regressor predicts at once."""

    names: tuple[str, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """One output array, with a column for each scale."""
        return (len(self.names),)


Output = Hierarchy | Scales


@dataclass(frozen=True)
class Shape:
    """What a model is, apart from its weights.

    Attributes
    ----------
    output : Hierarchy or Scales
    top_layers : int
        Trained layers; the model reads the states that enter the first of them.
    width : int
        Length of a token state.
    extra : tuple of str
        Names of the extra inputs of an item.
    """

    output: Output
    top_layers: int
    width: int
    extra: tuple[str, ...] = ()


class HierarchyHead(nn.Module):
    """Conditional softmaxes over the labels of a hierarchy."""

    def __init__(self, width: int, hierarchy: Hierarchy) -> None:
        super().__init__()
        self.hierarchy = hierarchy
        self.linear = nn.Linear(width, sum(hierarchy.sizes))
        for level, parents in enumerate(hierarchy.parents):
            slots, place = _siblings(np.array(parents))
            self.register_buffer(f"slots{level}", torch.from_numpy(slots), persistent=False)
            self.register_buffer(f"place{level}", torch.from_numpy(place), persistent=False)
            self.register_buffer(f"parents{level}", torch.tensor(parents), persistent=False)

    def forward(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Log of p(label | parent), one array per level, shape (b, labels)."""
        result = []
        logits = self.linear(features).split(self.hierarchy.sizes, dim=1)
        for level, of_level in enumerate(logits):
            slots: torch.Tensor = self.get_buffer(f"slots{level}")
            empty = slots < 0
            table = of_level[:, slots.clamp_min(0)].masked_fill(empty, torch.finfo(torch.float32).min)
            flat = table.log_softmax(dim=2).flatten(start_dim=1)
            result.append(flat[:, self.get_buffer(f"place{level}")])
        return result

    def answer(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Joint probabilities, one array per level, shape (b, labels)."""
        result: list[torch.Tensor] = []
        for level, conditional in enumerate(self(features)):
            p = conditional.exp()
            result.append(result[-1][:, self.get_buffer(f"parents{level}")] * p if result else p)
        return result


def _siblings(parents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels below each parent [parents, most siblings], -1 where there are fewer; and each label's place.

    The place counts through the flattened table.
    """
    counts = np.bincount(parents)
    if not counts.all():
        raise ValueError("a label above the last level has no children; every path must reach the last level")
    slots = np.full((len(counts), counts.max()), -1)
    place = np.zeros(len(parents), dtype=np.int64)
    for parent in range(len(counts)):
        children = np.flatnonzero(parents == parent)
        slots[parent, : len(children)] = children
        place[children] = parent * slots.shape[1] + np.arange(len(children))
    return slots, place


class ScalesHead(nn.Module):
    """Linear outputs in standard deviations of the training labels, given back on their scale."""

    def __init__(self, width: int, scales: Scales) -> None:
        super().__init__()
        self.linear = nn.Linear(width, len(scales.names))
        self.register_buffer("mean", torch.zeros(len(scales.names)))
        self.register_buffer("deviation", torch.ones(len(scales.names)))

    def forward(self, features: torch.Tensor) -> list[torch.Tensor]:
        """One array of shape (b, scales), in standard deviations from the mean."""
        return [self.linear(features)]

    def answer(self, features: torch.Tensor) -> list[torch.Tensor]:
        """One array of shape (b, scales), in 0..1."""
        mean, deviation = self.get_buffer("mean"), self.get_buffer("deviation")
        return [(mean + deviation * self.linear(features)).clamp(0.0, 1.0)]


class TopTransformer(nn.Module):
    """Top layers and head.

    Parameters
    ----------
    shape : Shape
    backbone : Backbone
        Its top layers are copied.
    """

    def __init__(self, shape: Shape, backbone: Backbone) -> None:
        super().__init__()
        self.shape = shape
        self.source_sha256 = backbone.sha256
        self.layers = backbone.top(shape.top_layers)
        self.dropout = nn.Dropout(0.0)
        width = shape.width + len(shape.extra)
        output = shape.output
        self.head = (
            HierarchyHead(width, output) if isinstance(output, Hierarchy) else ScalesHead(width, output)
        )
        # From zero, the first answers are the uniform distribution or the mean: no random start to unlearn.
        nn.init.zeros_(self.head.linear.weight)
        nn.init.zeros_(self.head.linear.bias)
        self.register_buffer("extra_mean", torch.zeros(len(shape.extra)))
        self.register_buffer("extra_deviation", torch.ones(len(shape.extra)))

    def features(self, states: torch.Tensor, mask: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
        """What the head reads, float32 [b, features].

        Parameters
        ----------
        states : Tensor of shape (b, t, width)
            States that enter the first trained layer.
        mask : Tensor of shape (b, t)
            True (or 1) at tokens.
        extra : Tensor of shape (b, extra inputs)
            As they come; they are standardised here.
        """
        attention = additive_mask(mask)
        for layer in self.layers[:-1]:
            states = layer(states, attention)
        weight = mask.float()[:, :, None]
        pooled = (states.float() * weight).sum(dim=1) / weight.sum(dim=1)
        for layer in self.layers[-1:]:
            pooled = ask(layer, pooled, states, attention).float()
        # Encoders differ in the scale of their states; the head's learning rate should not have to.
        parts = [self.dropout(nn.functional.layer_norm(pooled, pooled.shape[1:]))]
        if self.shape.extra:
            standard = (extra - self.get_buffer("extra_mean")) / self.get_buffer("extra_deviation")
            parts.append(standard.clamp(-LARGEST_EXTRA, LARGEST_EXTRA))
        return torch.cat(parts, dim=1)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, extra: torch.Tensor) -> list[torch.Tensor]:
        """The answer: joint probabilities of each level, or one array of scales."""
        return self.head.answer(self.features(states, mask, extra))


def save(model: TopTransformer, folder: Path) -> None:
    """Write ``model.safetensors`` and ``model.json``; each appears whole or not at all."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with io.atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(weights, temporary)
    kind = "hierarchy" if isinstance(model.shape.output, Hierarchy) else "scales"
    io.write_json(
        folder / CONFIG_FILE,
        {"kind": kind, "shape": asdict(model.shape), "source_sha256": model.source_sha256},
    )


def load(folder: Path, backbone: Backbone) -> TopTransformer:
    """Read what :func:`save` wrote.

    Raises
    ------
    ValueError
        If the model was trained on another encoder than ``backbone``.
    """
    config: dict[str, Any] = io.read_json(folder / CONFIG_FILE)
    if config["source_sha256"] != backbone.sha256:
        raise ValueError(
            f"{folder} was trained on another encoder than the configured one: train it again, or correct "
            "encoders.*.model"
        )
    values = dict(config["shape"])
    output: Output
    if config["kind"] == "hierarchy":
        output = Hierarchy(
            tuple(values["output"]["levels"]), tuple(tuple(level) for level in values["output"]["parents"])
        )
    else:
        output = Scales(tuple(values["output"]["names"]))
    shape = Shape(**{**values, "output": output, "extra": tuple(values["extra"])})
    model = TopTransformer(shape, backbone)
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return model.eval()
