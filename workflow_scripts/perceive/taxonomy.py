"""The hierarchy of emotions as data: a table of paths, one row each, from the coarsest level to the finest.

The table's columns are the levels (one to three of them), in order, and optionally ``tier`` (A, B or C: how
common the emotion is). Every path is of full depth; a label may stop early, at any prefix of a path.

Rules of the names: a name stands for one node, so it may neither have two parents at its level nor stand at
two levels (that would be a cycle); a different case does not make a different name. The one exception is a
name directly below itself: GoEmotions has neutral/neutral/neutral, and joy/amusement beside joy/joy.

Standard library only: the Snakefile reads the taxonomy while it is parsed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath

TIERS = ("A", "B", "C")
MAX_LEVELS = 3

Path = tuple[str, ...]


class TaxonomyError(ValueError):
    """A taxonomy that cannot be used; the message names the file, the line and the remedy."""


@dataclass(frozen=True)
class Taxonomy:
    """Valid paths of one to three levels.

    Attributes
    ----------
    levels
        Names of the levels, the coarsest first.
    paths
        Paths of full depth, in the order of the file.
    tiers
        Tier of each of these paths; empty without tiers.
    """

    levels: tuple[str, ...]
    paths: tuple[Path, ...]
    tiers: Mapping[Path, str] = field(default_factory=dict, hash=False)
    _labels: tuple[tuple[Path, ...], ...] = field(init=False, repr=False, compare=False)
    _children: Mapping[Path, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        labels = [dict.fromkeys(path[: depth + 1] for path in self.paths) for depth in range(self.depth)]
        children: dict[Path, list[str]] = {(): []}
        for of_level in labels:
            for label in of_level:
                children[label] = []
                children[label[:-1]].append(label[-1])
        object.__setattr__(self, "_labels", tuple(tuple(of_level) for of_level in labels))
        object.__setattr__(self, "_children", {label: tuple(names) for label, names in children.items()})

    @property
    def depth(self) -> int:
        """Number of levels."""
        return len(self.levels)

    def labels(self, level: int) -> tuple[Path, ...]:
        """All labels of a level (0: the coarsest), each with its ancestors, in the order of the file."""
        return self._labels[level]

    def children(self, prefix: Sequence[str]) -> tuple[str, ...]:
        """Names below a label, in the order of the file; below ``()`` those of the coarsest level.

        Raises
        ------
        KeyError
            If there is no such label.
        """
        return self._children[tuple(prefix)]

    def is_valid(self, path: Sequence[str]) -> bool:
        """Whether this is a label: a path, or one that stops early; not the empty one."""
        return bool(path) and tuple(path) in self._children

    def ancestors(self, path: Sequence[str]) -> tuple[Path, ...]:
        """The label's own prefixes, the coarsest first, itself included (as in Kiritchenko et al., 2006)."""
        return tuple(tuple(path[: depth + 1]) for depth in range(len(path)))

    def tier(self, path: Sequence[str]) -> str | None:
        """Tier of a path; None for a label that stops early, and where the taxonomy has no tiers."""
        return self.tiers.get(tuple(path))

    def parse(self, text: str) -> Path:
        """The label that ``Sad/Lonely`` stands for; white space around the names is ignored.

        Raises
        ------
        ValueError
            Naming the first level whose name is unknown, and what is allowed there (never what stood there).
        """
        path: Path = ()
        for level, name in enumerate(text.split("/")):
            if level >= self.depth:
                raise ValueError(f"a path has at most {self.depth} levels ({'/'.join(self.levels)})")
            deeper = (*path, name.strip())
            if deeper not in self._children:
                below = f" below {'/'.join(path)}" if path else ""
                raise ValueError(f"unknown {self.levels[level]}{below}: {', '.join(self._children[path])}")
            path = deeper
        return path


def load_taxonomy(path: str | os.PathLike[str]) -> Taxonomy:
    """Read a taxonomy: tab-separated, a header, and one path of full depth a line.

    Raises
    ------
    TaxonomyError
        If the file does not exist, is not UTF-8, or breaks a rule of the module; the message names the line.
    """
    path = FilePath(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise TaxonomyError(f"taxonomy {path} does not exist; correct corpus.taxonomy") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TaxonomyError(f"taxonomy {path}, line {line}: not UTF-8; save it as UTF-8") from None
    # Not splitlines: it also breaks at characters that an editor does not count as the end of a line.
    rows = [[cell.strip() for cell in line.split("\t")] for line in text.rstrip().split("\n")]
    header = rows[0]
    if not any(header):
        raise TaxonomyError(
            f"taxonomy {path}: empty; line 1 names the levels, for example core, nuance, micro"
        )
    levels = tuple(name for name in header if name != "tier")
    tiered = "tier" in header
    if tiered and header[-1] != "tier":
        raise TaxonomyError(f"taxonomy {path}, line 1: tier must be the last column")
    if not 1 <= len(levels) <= MAX_LEVELS or len(set(header)) != len(header) or not all(header):
        raise TaxonomyError(
            f"taxonomy {path}, line 1: {len(levels)} levels; it must name one to {MAX_LEVELS} different "
            "levels, and optionally tier"
        )
    below = {name for row in rows[1:] for name in row[: len(levels)]}
    if below.intersection(levels):
        raise TaxonomyError(
            f"taxonomy {path}, line 1: its names stand in the lines below too; name the levels there, for "
            "example core, nuance, micro"
        )
    check = _Names(path)
    paths: dict[Path, int] = {}
    tiers: dict[Path, str] = {}
    for number, cells in enumerate(rows[1:], start=2):
        where = f"taxonomy {path}, line {number}"
        if len(cells) != len(header):
            raise TaxonomyError(f"{where}: {len(cells)} columns instead of {len(header)}")
        names = tuple(cells[: len(levels)])
        for level, name in zip(levels, names, strict=True):
            if not name:
                raise TaxonomyError(f"{where}: no {level}; every path goes down to {levels[-1]}")
            if "/" in name or not name.isprintable():
                raise TaxonomyError(
                    f"{where}: {level} has a slash, which divides the parts of a path, or a control "
                    "character; remove it"
                )
        if names in paths:
            raise TaxonomyError(f"{where}: the path of line {paths[names]} again; delete one of them")
        check.add(names, number)
        paths[names] = number
        if tiered:
            if cells[-1] not in TIERS:
                raise TaxonomyError(f"{where}: tier must be one of {', '.join(TIERS)}")
            tiers[names] = cells[-1]
    if not paths:
        raise TaxonomyError(f"taxonomy {path}: no path; add one line a path")
    return Taxonomy(levels, tuple(paths), tiers)


class _Names:
    """Checks that each name is one node."""

    def __init__(self, path: FilePath) -> None:
        self._path = path
        self._nodes: dict[str, tuple[Path, int]] = {}

    def add(self, names: Path, line: int) -> None:
        for level, name in enumerate(names):
            if level and name == names[level - 1]:
                continue  # a chain of equal names is one node
            node = names[: level + 1]
            known, first = self._nodes.setdefault(name.casefold(), (node, line))
            if known == node:
                continue
            where = f"taxonomy {self._path}, line {line}"
            if known[-1] != name:
                raise TaxonomyError(
                    f"{where}: {name!r} is {known[-1]!r} in line {first}; write both alike, or rename one"
                )
            if len(known) != len(node):
                raise TaxonomyError(
                    f"{where}: {name!r} stands at another level in line {first}, which would be a cycle; "
                    "rename one"
                )
            raise TaxonomyError(
                f"{where}: {name!r} stands below {'/'.join(known[:-1])!r} in line {first}; a name has one "
                "parent, rename one"
            )


def from_mappings(
    fine: Iterable[str], *coarser: Mapping[str, Sequence[str]], undivided: Iterable[str] = ()
) -> list[Path]:
    """Paths from lists of members, as GoEmotions publishes its levels (``ekman_mapping.json`` and so on).

    Parameters
    ----------
    fine
        Names of the finest level, in the order that the paths shall have.
    coarser
        For each coarser level, the coarsest first: name to the *finest* names in it.
    undivided
        Finest names that no mapping lists, and that stand for themselves at all levels.

    Raises
    ------
    TaxonomyError
        If a name is in no group of a level, or in two, or not one of ``fine``.
    """
    fine, alone = list(fine), set(undivided)
    unknown = alone.union(*(members for groups in coarser for members in groups.values())).difference(fine)
    if unknown:
        raise TaxonomyError(f"no names of the finest level: {', '.join(sorted(unknown))}; correct the groups")
    paths = []
    for name in fine:
        above = []
        for level, groups in enumerate(coarser):
            owners = [group for group, members in groups.items() if name in members]
            if not owners and name in alone:
                owners = [name]
            if len(owners) != 1:
                found = "no group" if not owners else f"the groups {', '.join(owners)}"
                raise TaxonomyError(f"{name!r} is in {found} of level {level + 1}; it must be in one")
            above += owners
        paths.append((*above, name))
    return sorted(paths, key=lambda path: [_first(paths, path[: depth + 1]) for depth in range(len(path))])


def _first(paths: Sequence[Path], prefix: Path) -> int:
    return next(place for place, path in enumerate(paths) if path[: len(prefix)] == prefix)


def taxonomy_text(levels: Sequence[str], paths: Iterable[Path]) -> str:
    """The file that `load_taxonomy` reads, without tiers."""
    return "".join("\t".join(row) + "\n" for row in (tuple(levels), *paths))
