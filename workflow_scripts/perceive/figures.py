"""Figures at print quality, in colours that colour-blind readers can tell apart.

The format follows the suffix (``.png`` at 150 dpi, ``.svg``, ``.pdf``). Files are written atomically, and
equal input gives equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from perceive.io import atomic_path

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, SKY, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#8C8C8C", "#222222"
YELLOW, PINK = "#E69F00", "#CC79A7"

DPI = 150
COLUMN_LABELS = {
    "length_bucket": "length",
    "language": "language",
    "category": "category",
    "risk_level": "risk",
}

PathLike = str | os.PathLike[str]


@contextmanager
def new_figure(path: PathLike, width: float, height: float) -> Iterator[Figure]:
    """A figure (inches) without pyplot's global state; written when the block ends without an error."""
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titleweight": "bold",
        "svg.hashsalt": "perceive",
        "svg.fonttype": "none",
    }
    with matplotlib.rc_context(), sns.axes_style("ticks"), sns.plotting_context("paper", font_scale=1.1):
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        dated = {"Date": None} if Path(path).suffix == ".svg" else {}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=DPI, metadata=dated, facecolor="white")


def shown(name: str, limit: int = 28) -> str:
    """A name from the data, short enough for an axis; ``$`` would start mathematics."""
    text = str(name).replace("_", " ").replace("$", r"\$")
    return text if len(text) <= limit else text[: limit - 1] + "…"
