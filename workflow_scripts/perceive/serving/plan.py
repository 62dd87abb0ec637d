"""In which order the variables are answered, and by which graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from perceive.variables import Kind


@dataclass(frozen=True)
class Stage:
    """Variables whose heads are one graph.

    Attributes
    ----------
    number : int
        From 1.
    variables : tuple of str
        All of them.
    sequences : tuple of str
        Those whose network reads a window: what its steps hold of other variables, earlier stages answered.
    """

    number: int
    variables: tuple[str, ...]
    sequences: tuple[str, ...]

    @property
    def heads(self) -> str:
        """Name of the graph."""
        return f"heads_{self.number}"


def stages(
    variables: Sequence[str], kinds: Mapping[str, Kind], reads: Callable[[str], Sequence[str]]
) -> list[Stage]:
    """Group variables so that everything is known when it is read, in as few stages as possible.

    Parameters
    ----------
    variables : sequence of str
    kinds : mapping of str to str
    reads : callable
        Variables whose answers are inputs of a variable.

    Raises
    ------
    ValueError
        If variables read each other in a circle.
    """
    found: list[Stage] = []
    left, done = list(variables), set[str]()
    while left:
        taken = [name for name in left if kinds[name] == "sequence" and done.issuperset(reads(name))]
        sequences = tuple(taken)
        while more := [
            name
            for name in left
            if name not in taken and kinds[name] != "sequence" and (done | set(taken)).issuperset(reads(name))
        ]:
            taken += more
        if not taken:
            raise ValueError(f"{', '.join(left)} read each other in a circle")
        found.append(Stage(len(found) + 1, tuple(name for name in left if name in taken), sequences))
        done |= set(taken)
        left = [name for name in left if name not in done]
    return found


def graphs(found: Sequence[Stage], own_encoders: Sequence[str] = ()) -> list[str]:
    """Names of the graphs of a bundle.

    Parameters
    ----------
    found : sequence of Stage
    own_encoders : sequence of str
        Languages with an encoder beside that of the transformers.
    """
    return [
        "text",
        *(f"encoder_{language}" for language in own_encoders),
        *(name for stage in found for name in (*(f"gru_{one}" for one in stage.sequences), stage.heads)),
    ]
