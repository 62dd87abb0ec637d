"""The data card, as Croissant (https://docs.mlcommons.org/croissant/docs/croissant-spec.html) and RAI.

It lies beside the files that it describes, so that ``mlcroissant.Dataset(path)`` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlcroissant as mlc
import pyarrow.parquet as pq

from perceive.io import file_sha256

ABOUT = {
    "item_id": "The item's name.",
    "owner_id": "Whose reflection it is; items of one owner never cross splits.",
    "text": "The reflection: personal, and not to be published.",
    "timestamp": "When it was written, UTC.",
    "language": "en or hinglish (romanised Hindi with English).",
    "length_bucket": "SHORT, MEDIUM or LONG, by words.",
    "category": "What the annotators' guideline calls the kind of text.",
    "risk_level": "LOW, MEDIUM or HIGH.",
    "device": "What it was written on.",
    "split": "The split that the publisher gave it, where there is one.",
    "extra": "Further fields of the annotation, as JSON.",
    "value": "The label: the mean of the ratings, from 0 to 1.",
    "core": "First level of the path that the ratings agree on.",
    "nuance": "Second level.",
    "micro": "Third level.",
    "n_raters": "Ratings behind the label.",
    "spread": "How far the ratings lie apart.",
    "derived": "Whether the label was computed from others instead of rated.",
}
_TYPES = {
    "string": "TEXT",
    "large_string": "TEXT",
    "double": "FLOAT",
    "int32": "INTEGER",
    "int64": "INTEGER",
    "bool": "BOOL",
}


def _type(name: str) -> Any:
    return getattr(mlc.DataType, _TYPES.get(name, "DATETIME" if name.startswith("timestamp") else "TEXT"))


def _table(name: str, file: Path, folder: Path, about: str) -> tuple[Any, Any]:
    """A file and its records."""
    address = file.relative_to(folder).as_posix()
    distribution = mlc.FileObject(
        id=address,
        name=address,
        description=about,
        content_url=address,
        encoding_formats=["application/x-parquet"],
        sha256=file_sha256(file),
    )
    fields = [
        mlc.Field(
            id=f"{name}/{column.name}",
            name=column.name,
            description=ABOUT.get(column.name, column.name),
            data_types=[_type(str(column.type))],
            source=mlc.Source(file_object=address, extract=mlc.Extract(column=column.name)),
        )
        for column in pq.read_schema(file)
    ]
    return distribution, mlc.RecordSet(id=name, name=name, description=about, fields=fields)


def data_card(
    items: Path, labels: Mapping[str, Path], summary: Mapping[str, Any], source: Mapping[str, Any]
) -> dict[str, Any]:
    """Croissant metadata of the accepted items and their labels.

    Parameters
    ----------
    items : path
        Parquet; the card is to lie beside it.
    labels : mapping
        Variable to its Parquet, below the folder of `items`.
    summary : mapping
        ``corpus/summary.json``.
    source : mapping
        ``name`` of the corpus, and its ``licence``, ``url``, ``citation`` or None.

    Returns
    -------
    dict
        JSON-LD.

    Raises
    ------
    mlcroissant.ValidationError
        If it is no valid Croissant.
    """
    folder = items.parent
    tables = [_table("items", items, folder, "Accepted reflections.")]
    tables += [_table(name, path, folder, f"Labels of {name}.") for name, path in labels.items()]
    # A corpus may have no label at all of a variable that is not built.
    raters = {name: summary["labels"][name]["ratings"] for name in labels}
    first, last = summary["time_span"]
    card = mlc.Metadata(
        name=_named(str(source["name"])),
        description=(
            f"Personal reflections with human annotations: {summary['items']} items of {summary['owners']} "
            f"owners, labelled for {', '.join(labels)}."
        ),
        license=[str(source.get("licence") or "not stated by the configuration (corpus.source.licence)")],
        url=source.get("url") or "https://example.org/not-published",
        cite_as=source.get("citation") or "not stated by the configuration (corpus.source.citation)",
        version="1.0.0",
        date_published=_day(last),
        in_language=_languages(summary),
        distribution=[table for table, _ in tables],
        record_sets=[records for _, records in tables],
        data_collection="Reflections that their owners wrote, as the annotation files gave them.",
        data_collection_timeframe=[_day(first), _day(last)],
        data_annotation_protocol=(
            "Several raters for each item where the annotations name them; a label of a scale is the mean of "
            "its ratings, a path the one that most raters share. Ratings: "
            + ", ".join(f"{name} {count}" for name, count in raters.items())
        ),
        data_preprocessing_protocol=[
            "Lines that break the schema are rejected with a reason; the latest correction of an item holds; "
            "withdrawn items are gone."
        ],
        data_use_cases=["Training and judging models that estimate how annotators would rate such texts."],
        data_limitations=[
            "Labels are opinions of few raters, not states of mind.",
            "Not for the diagnosis, the selection or the surveillance of people.",
        ],
        data_biases=[
            "Owners, languages and categories are those of the annotation round, not of a population."
        ],
        personal_sensitive_information=[
            "The texts are intimate, and owners are named by an id: keep the files where the consent allows."
        ],
    )
    found = card.to_json()
    problems: Sequence[Any] = sorted(card.issues.errors)
    if problems:
        raise mlc.ValidationError("; ".join(map(str, problems)))
    assert isinstance(found, dict)
    return found


def _named(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)


def _day(moment: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(moment)


def _languages(summary: Mapping[str, Any]) -> list[str]:
    codes = {"en": "en", "hinglish": "hi-Latn"}
    return [codes.get(name, name) for name, n in (summary["items_by"].get("language") or {}).items() if n]
