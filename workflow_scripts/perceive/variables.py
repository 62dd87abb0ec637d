"""The seven perception variables: what kind of model each one is, and which others it reads.

This is the whole cross-variable graph: a changed label of X rebuilds X and the variables that read X.
A further kind of model joins by an entry in ``SUPPORTED_KINDS`` and the rules of its stages.
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
        ``regression`` (LightGBM), ``hierarchy`` (transformer) or ``sequence`` (GRU).
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
REGRESSIONS: tuple[str, ...] = tuple(v.name for v in VARIABLES.values() if v.kind == "regression")
HIERARCHIES: tuple[str, ...] = tuple(v.name for v in VARIABLES.values() if v.kind == "hierarchy")

CORES: tuple[str, ...] = ("Happy", "Strong", "Peaceful", "Sad", "Angry", "Fearful")
"""First level of the emotion hierarchy."""

SUPPORTED_KINDS: tuple[Kind, ...] = ("regression", "hierarchy")
"""Kinds that this version can train; labels of the other variables are validated and stored all the same."""

SUPPORTED: tuple[str, ...] = tuple(v.name for v in VARIABLES.values() if v.kind in SUPPORTED_KINDS)
