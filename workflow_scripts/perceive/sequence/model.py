"""A recurrent regressor over windows of a timeline.

Each item of the window is encoded (embedding projected, the rest standardised), a GRU (Cho et al., EMNLP
2014) runs over them in the order of time, and its state at the last item, the item's own code, and how far
that lies from the mean code of the window give the answer. A state depends on earlier steps alone, so that
the padding after the last item cannot reach it, and no packed sequences are needed (they do not convert to
OpenVINO).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from perceive import io
from perceive.features.matrix import EMBEDDING
from perceive.sequence.windows import GROUPS

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "model.json"
EMBEDDING_CODE = 16
"""Numbers that the embedding of an item is reduced to."""
LARGEST_INPUT = 5.0
"""Standardised inputs are cut off there: counts and gaps have long tails."""


@dataclass(frozen=True)
class Shape:
    """What a model is, apart from its weights.

    Attributes
    ----------
    columns : tuple of str
        Of the matrix that it is given; it reads some of them.
    groups : tuple of str
        Groups of columns that it reads: see `perceive.sequence.windows.GROUPS`.
    length : int
        Items of a window at most.
    hidden : int
        Size of an item's code, and of the GRU's state.
    layers : int
        Of the GRU.
    """

    columns: tuple[str, ...]
    groups: tuple[str, ...]
    length: int
    hidden: int
    layers: int

    @property
    def embedding(self) -> list[int]:
        """Columns of the embedding that it reads."""
        if "embedding" not in self.groups:
            return []
        return [place for place, name in enumerate(self.columns) if name in _EMBEDDING]

    @property
    def others(self) -> list[int]:
        """The other columns that it reads."""
        left_out = {name for group, names in GROUPS.items() if group not in self.groups for name in names}
        return [
            place
            for place, name in enumerate(self.columns)
            if name not in left_out and name not in _EMBEDDING
        ]


_EMBEDDING = frozenset(EMBEDDING)


class GruRegressor(nn.Module):
    """See the module.

    Parameters
    ----------
    shape : Shape
    dropout : float
        Of the codes, between the layers of the GRU, and before the head.
    """

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        hidden = shape.hidden
        embedding, others = shape.embedding, shape.others
        columns = torch.tensor([*embedding, *others], dtype=torch.int64)
        self.register_buffer("read", columns, persistent=False)
        self.register_buffer("mean", torch.zeros(len(embedding) + len(others)))
        self.register_buffer("deviation", torch.ones(len(embedding) + len(others)))
        # A narrow pass: of some thousand rows, hundreds of dimensions would be learned by heart.
        self.project = nn.Linear(len(embedding), EMBEDDING_CODE) if embedding else None
        self.encode = nn.Linear((EMBEDDING_CODE if embedding else 0) + len(others), hidden)
        self.gru = nn.GRU(
            hidden, hidden, shape.layers, batch_first=True, dropout=dropout if shape.layers > 1 else 0.0
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(
            nn.Linear(3 * hidden, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 1)
        )
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_deviation", torch.ones(()))

    def codes(self, items: torch.Tensor) -> torch.Tensor:
        """Codes of items, shape (..., hidden), from their columns, shape (..., columns)."""
        inputs = items.index_select(items.ndim - 1, self.get_buffer("read")) - self.get_buffer("mean")
        inputs = (inputs / self.get_buffer("deviation")).clamp(-LARGEST_INPUT, LARGEST_INPUT)
        n_embedding = len(self.shape.embedding)
        parts = [inputs[..., n_embedding:]]
        if self.project is not None:
            parts.insert(0, self.dropout(nn.functional.gelu(self.project(inputs[..., :n_embedding]))))
        return self.dropout(nn.functional.gelu(self.encode(torch.cat(parts, dim=-1))))

    def standard(self, codes: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The answer in standard deviations of the training labels from their mean, shape (b,).

        Parameters
        ----------
        codes : Tensor of shape (b, t, hidden)
            In the order of time; what follows an item's own step is not looked at.
        lengths : Tensor of shape (b,)
            Items of each window.
        """
        steps = torch.arange(codes.shape[1], device=codes.device)
        inside = (steps[None, :] < lengths[:, None]).to(codes.dtype)[:, :, None]
        states, _ = self.gru(codes)
        place = (lengths - 1)[:, None, None].expand(-1, 1, self.shape.hidden)
        state, own = states.gather(1, place)[:, 0], codes.gather(1, place)[:, 0]
        usual = (codes * inside).sum(dim=1) / inside.sum(dim=1)
        return self.head(torch.cat([state, own, own - usual], dim=1))[:, 0]

    def forward(self, sequence: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The answer in 0..1, shape (b, 1), from the columns of each item, shape (b, t, columns)."""
        mean, deviation = self.get_buffer("target_mean"), self.get_buffer("target_deviation")
        return (mean + deviation * self.standard(self.codes(sequence), lengths)).clamp(0.0, 1.0)[:, None]


def save(model: GruRegressor, folder: Path) -> None:
    """Write ``model.safetensors`` and ``model.json``; each appears whole or not at all."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with io.atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(weights, temporary)
    io.write_json(folder / CONFIG_FILE, {"kind": "gru", "shape": asdict(model.shape)})


def load(folder: Path, columns: Sequence[str] | None = None) -> GruRegressor:
    """Read what :func:`save` wrote.

    Parameters
    ----------
    folder : Path
    columns : sequence of str, optional
        Those of the matrix that it will be given.

    Raises
    ------
    ValueError
        If the model was trained on other columns.
    """
    values = dict(io.read_json(folder / CONFIG_FILE)["shape"])
    shape = Shape(**{**values, "columns": tuple(values["columns"]), "groups": tuple(values["groups"])})
    if columns is not None and shape.columns != tuple(columns):
        raise ValueError(f"{folder} was trained on other columns than it is given: train it again")
    model = GruRegressor(shape)
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return model.eval()
