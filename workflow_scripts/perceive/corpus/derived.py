"""Labels that a formula of the configuration gives to items that have none of their own.

Only numbers are kept of the items: about 40 bytes each, and 8 for each value that a formula reads.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perceive.corpus.aggregate import Label
from perceive.corpus.formulas import Formula
from perceive.corpus.records import DerivedTally
from perceive.variables import SCALES

if TYPE_CHECKING:
    from perceive.corpus.drafts import Item
    from perceive.corpus.settings import CorpusSettings


@dataclass(slots=True, frozen=True)
class Derived:
    """The label that a formula gave to an item."""

    item_id: str
    variable: str
    value: float

    @property
    def label(self) -> Label:
        """Value, number of raters (none), and spread (NaN)."""
        return self.value, 0, math.nan


class Derivations:
    """Collects what the formulas read of each item, and derives the labels once all items are known.

    Parameters
    ----------
    settings
        The `corpus` section of the configuration.
    variables
        The variables that are wanted; None: all that have a formula.
    """

    def __init__(self, settings: CorpusSettings, variables: Collection[str] | None = None) -> None:
        self._ids = bytearray()
        self._ends = array("Q")
        self._owners = array("Q")
        self._times = array("q")
        self._parts: list[_Part] = []
        first = 0
        for variable, wanted in settings.derived.items():
            places = {name: first + place for place, name in enumerate(wanted.columns)}
            first += len(places)
            if variables is None or variable in variables:
                self._parts.append(_Part(variable, Formula(wanted.formula, [*places, *SCALES]), places))

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, item: Item) -> None:
        """Take in one item; each once, in any order."""
        self._ids += item.item_id.encode()
        self._ends.append(len(self._ids))
        # 64 bits: two of 500,000 owners collide with probability 7e-9, and would share a timeline.
        owner = hashlib.blake2b(item.owner_id.encode(), digest_size=8).digest()
        self._owners.append(int.from_bytes(owner, "little"))
        self._times.append(item.timestamp)
        for part in self._parts:
            part.add(item)

    def labels(self, tallies: dict[str, DerivedTally]) -> Iterator[Derived]:
        """Yield the labels of the items without one of their own, and count them in `tallies`."""
        for part in self._parts:
            tally = tallies[part.variable] = DerivedTally()
            values = part.formula.evaluate(part.columns, self._owners, self._times)
            for item, value in enumerate(values):
                if part.own[item]:
                    tally.own += 1
                elif value != value:
                    tally.without += 1
                else:
                    tally.items += 1
                    if not 0.0 <= value <= 1.0:
                        tally.clipped += 1
                    begin = self._ends[item - 1] if item else 0
                    item_id = self._ids[begin : self._ends[item]].decode()
                    # Adding zero makes a zero of a negative sign the other.
                    yield Derived(item_id, part.variable, min(1.0, max(0.0, value)) + 0.0)


class _Part:
    """What one formula reads: its columns lie at `places` of an item's inputs, the other names are labels."""

    def __init__(self, variable: str, formula: Formula, places: dict[str, int]) -> None:
        self.variable = variable
        self.formula = formula
        self.columns = [array("d") for _ in formula.names]
        self.own = bytearray()
        self._reads = [(places.get(name), name) for name in formula.names]

    def add(self, item: Item) -> None:
        self.own.append(self.variable in item.ratings)
        for column, (place, name) in zip(self.columns, self._reads, strict=True):
            found: float | None = None
            if place is not None:
                found = item.inputs[place]
            elif name in item.ratings:
                found = item.labels[name][0]  # type: ignore[assignment]
            column.append(math.nan if found is None else found)
