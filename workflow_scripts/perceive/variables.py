"""The seven perception variables: what kind of model each one is, and which others it reads.

This is the whole cross-variable graph: a changed label of X rebuilds X and the variables that read X.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["regression", "hierarchy", "sequence"]


@dataclass(frozen=True)
class Variable:
    """One perception variable.

    Attributes
    ----------
    name : str
        As it stands in ``perception_labels`` and in every artifact's path.
    kind : str
        ``regression`` (LightGBM and a transformer), ``hierarchy`` (transformer) or ``sequence`` (GRU).
        The configuration can make a regression a sequence, or the reverse.
    reads : tuple of str
        Variables whose out-of-fold predictions are inputs of this one.
    """

    name: str
    kind: Kind
    reads: tuple[str, ...] = ()


VARIABLES: dict[str, Variable] = {
    v.name: v
    for v in (
        Variable("valence", "regression"),
        Variable("arousal", "regression"),
        Variable("willingness", "regression", ("invoked", "expressed")),
        Variable("invoked", "hierarchy"),
        Variable("expressed", "hierarchy"),
        Variable("congruence", "sequence", ("invoked", "expressed", "valence", "arousal")),
        Variable("comparator", "sequence", ("valence", "arousal")),
    )
}

SCALES: tuple[str, ...] = tuple(v.name for v in VARIABLES.values() if v.kind != "hierarchy")
HIERARCHIES: tuple[str, ...] = tuple(v.name for v in VARIABLES.values() if v.kind == "hierarchy")

CORES: tuple[str, ...] = ("Happy", "Strong", "Peaceful", "Sad", "Angry", "Fearful")
"""First level of the emotion hierarchy."""
