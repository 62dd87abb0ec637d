"""The anchor sentences, whose mean embeddings are what the six anchor features compare a text with."""

from __future__ import annotations

from pathlib import Path

_COLUMNS = ("core", "language", "sentence")


def load_anchors(path: Path) -> dict[str, dict[str, list[str]]]:
    """Read the anchor sentences.

    Parameters
    ----------
    path
        A tab-separated file with columns core, language and sentence; lines that begin with # are comments.

    Returns
    -------
    dict
        Language -> core (as spelled in the file) -> sentences, all in the order of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        With the file, when it is missing or malformed (and the line), or a language lacks a core.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: file of anchor sentences is missing; restore it from the repository"
        )
    anchors: dict[str, dict[str, list[str]]] = {}
    header_seen = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = tuple(cell.strip() for cell in line.split("\t"))
        if not header_seen:
            if cells != _COLUMNS:
                raise ValueError(f"{path}, line {number}: expected the header {' <tab> '.join(_COLUMNS)}")
            header_seen = True
            continue
        if len(cells) != 3 or not all(cells):
            raise ValueError(f"{path}, line {number}: expected core <tab> language <tab> sentence")
        core, language, sentence = cells
        anchors.setdefault(language, {}).setdefault(core, []).append(sentence)
    if not anchors:
        raise ValueError(f"{path}: holds no anchor sentences")
    cores = {core for by_core in anchors.values() for core in by_core}
    for language, by_core in anchors.items():
        if missing := sorted(cores - by_core.keys()):
            raise ValueError(
                f"{path}: language {language} has no sentence for {', '.join(missing)}; add some"
            )
    return anchors
