"""Read the annotation files, a round each, and the rating tables: the final items, and the rejected lines.

The module streams: besides one line it holds a hash of each item id (12 to 24 bytes), and the tables of
`corpus.joins` and `corpus.ratings`. Items that several files name wait in a temporary database (rounds.py).
It needs the standard library only: the Snakefile takes the digests while it is parsed.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from perceive.corpus.aggregate import Bias, BiasFit, plurality_path
from perceive.corpus.derived import Derivations, Derived
from perceive.corpus.drafts import Draft, Drafter, Item
from perceive.corpus.ratings import RatingTables
from perceive.corpus.records import (
    CorpusError,
    MissingFileError,
    RecordFile,
    Reject,
    Rejected,
    RoundTally,
    TableTally,
    Tally,
    expand,
    file_kind,
    open_records,
    resolve,
    shown_names,
)
from perceive.corpus.rounds import Rounds, duplicate, unknown_item
from perceive.corpus.values import length_bucket
from perceive.taxonomy import Taxonomy, TaxonomyError, load_taxonomy
from perceive.variables import SCALES, VARIABLES

if TYPE_CHECKING:
    from perceive.corpus.settings import CorpusSettings

__all__ = [
    "CorpusError",
    "Derived",
    "Item",
    "MissingFileError",
    "Reject",
    "Tally",
    "annotation_files",
    "content_digests",
    "corpus_taxonomy",
    "input_files",
    "length_bucket",
    "plurality_path",
    "read_annotations",
    "read_labelled",
    "taxonomy_path",
]

_REPOSITORY = Path(__file__).resolve().parents[3]


class SeenIds:
    """A set of 64-bit hashes in one flat array: 12 to 24 bytes an id, where a set of int takes about 90.

    Two ids collide with probability n^2 / 2^65 (7e-9 for 500,000 ids); the later one would be rejected as a
    duplicate, on record.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * 1024))
        self._used = 0

    def __contains__(self, identifier: str) -> bool:
        return self._used > 0 and self._table[self._slot(self._table, self._key(identifier))] != 0

    def add(self, identifier: str) -> bool:
        """Add an id; return False if it was there."""
        key = self._key(identifier)
        if not self._insert(self._table, key):
            return False
        self._used += 1
        if 3 * self._used > 2 * len(self._table):
            old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for present in old:
                if present:
                    self._insert(self._table, present)
        return True

    @staticmethod
    def _key(identifier: str) -> int:
        return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "little") or 1

    @staticmethod
    def _slot(table: array[int], key: int) -> int:
        """Where the key is, or would be."""
        mask = len(table) - 1
        slot = key & mask
        while (present := table[slot]) and present != key:
            slot = (slot + 1) & mask
        return slot

    def _insert(self, table: array[int], key: int) -> bool:
        slot = self._slot(table, key)
        if table[slot]:
            return False
        table[slot] = key
        return True


# --------------------------------------------------------------------------- files


def annotation_files(settings: CorpusSettings, base_dir: Path | str) -> list[Path]:
    """Return the annotation files, in order.

    Raises
    ------
    MissingFileError
        If one does not exist; the message says where the corpus is to be had.
    """
    return [resolve(settings, one.file, base_dir, "annotations") for one in settings.files]


def _rating_files(settings: CorpusSettings, base_dir: Path | str) -> list[Path]:
    return [resolve(settings, table.file, base_dir, "ratings") for table in settings.ratings]


def taxonomy_path(settings: CorpusSettings, base_dir: Path | str) -> Path | None:
    """Return the taxonomy's file: below `base_dir`, or else below the repository; None: any path is allowed.

    Raises
    ------
    MissingFileError
        If it is in neither.
    """
    if settings.taxonomy is None:
        return None
    shipped = _REPOSITORY / Path(expand(settings.taxonomy)).expanduser()
    try:
        return resolve(settings, settings.taxonomy, base_dir, "taxonomy")
    except MissingFileError:
        if shipped.is_file():
            return shipped
        raise


def corpus_taxonomy(settings: CorpusSettings, base_dir: Path | str) -> Taxonomy | None:
    """Return the taxonomy of the corpus's paths; None: any path is allowed.

    Raises
    ------
    CorpusError
        If there is no such file, or it breaks a rule of taxonomies.
    """
    path = taxonomy_path(settings, base_dir)
    try:
        return None if path is None else load_taxonomy(path)
    except TaxonomyError as error:
        raise CorpusError(str(error)) from None


def input_files(settings: CorpusSettings, base_dir: Path | str) -> list[Path]:
    """Return all files that reading the corpus depends on: annotations, joined tables, ratings, taxonomy."""
    joined = [resolve(settings, join.file, base_dir, "joins") for join in settings.joins]
    taxonomy = taxonomy_path(settings, base_dir)
    files = annotation_files(settings, base_dir) + joined + _rating_files(settings, base_dir)
    return files if taxonomy is None else [*files, taxonomy]


# --------------------------------------------------------------------------- reading


def read_annotations(
    settings: CorpusSettings, base_dir: Path | str, tally: Tally | None = None
) -> Iterator[Item | Reject]:
    """Yield the items as they are after the last round, one Item each, and a Reject for each refused line.

    A line of a later file that names a known item corrects it, field by field: what it leaves out (absent,
    null, or an empty cell) stays as it was. An item that was withdrawn is not among the items. They come in
    the order of the lines of the first file, but for those that a later file names, which come last.

    Parameters
    ----------
    settings
        The `corpus` section of the configuration.
    base_dir
        Folder that relative paths start from.
    tally
        Counts, kept up to date while reading; complete when the iterator is exhausted.

    Raises
    ------
    MissingFileError
        If a file does not exist.
    CorpusError
        If a file cannot be read as configured at all (a column that it does not have, an unknown suffix).
    """
    tally = Tally() if tally is None else tally
    files, tables = annotation_files(settings, base_dir), _rating_files(settings, base_dir)
    shown = shown_names([*files, *tables])
    taxonomy = corpus_taxonomy(settings, base_dir)
    drafter = Drafter(settings, base_dir, taxonomy, tally)
    if settings.aggregation.bias_correction:
        drafter.biases = tally.biases = _fit_biases(settings, base_dir)
    if tables:
        drafter.tables = RatingTables()
        for path, wanted in zip(tables, settings.ratings, strict=True):
            tally.ratings.append(TableTally(shown[path]))
            yield from drafter.tables.read(path, wanted, taxonomy, tally.ratings[-1])
    tally.rounds.extend(RoundTally(shown[path]) for path in files)
    named_again = SeenIds()
    for number, (path, one) in enumerate(zip(files, tally.rounds, strict=True)):
        if number:
            _add_ids(named_again, path, one.file, settings, drafter, number)
    seen = SeenIds()
    with Rounds(drafter) as rounds:

        def accept(number: int, one: RoundTally, draft: Draft) -> None:
            if number or draft.item_id in named_again:
                rounds.add(number, one, draft)
                return
            # No later file can change it, so that it need not wait.
            if draft.withdrawn:
                raise unknown_item()
            drafter.needed(draft)
            if not seen.add(draft.item_id):
                raise duplicate(draft)
            one.new += 1

        for number, (path, one) in enumerate(zip(files, tally.rounds, strict=True)):
            for entry in _read_round(path, settings, drafter, one, partial(accept, number, one), number):
                if isinstance(entry, Reject):
                    yield entry
                elif number == 0 and entry.item_id not in named_again:
                    yield drafter.complete(entry)
        for draft in rounds.drafts():
            yield drafter.complete(draft)


def read_labelled(
    settings: CorpusSettings,
    base_dir: Path | str,
    tally: Tally | None = None,
    variables: Collection[str] | None = None,
) -> Iterator[Item | Reject | Derived]:
    """As `read_annotations`, and after the items the labels that formulas give to those without their own.

    Parameters
    ----------
    settings, base_dir, tally
        As of `read_annotations`.
    variables
        Those whose derived labels are wanted; None: all that have a formula.
    """
    tally = Tally() if tally is None else tally
    derivations = Derivations(settings, variables)
    for entry in read_annotations(settings, base_dir, tally):
        if derivations and type(entry) is Item:
            derivations.add(entry)
        yield entry
    yield from derivations.labels(tally.derived)


def _open_round(handle: BinaryIO, path: Path, shown: str, settings: CorpusSettings) -> RecordFile:
    return RecordFile(
        handle,
        shown,
        file_kind(path, settings.format),
        delimiter=settings.delimiter,
        quote_char=settings.quote_char,
        max_text_chars=settings.limits.max_text_chars,
        header=settings.header,
    )


def _add_ids(
    ids: SeenIds, path: Path, shown: str, settings: CorpusSettings, drafter: Drafter, number: int
) -> None:
    """Add the ids of all items that a later file names; those of lines to be rejected do no harm."""
    with open_records(path) as handle:
        records = _open_round(handle, path, shown, settings)
        for _, record in records:
            if type(record) is dict:
                with suppress(Rejected):
                    ids.add(drafter.item_id(record, records.header is not None, number))


def _read_round(
    path: Path,
    settings: CorpusSettings,
    drafter: Drafter,
    tally: RoundTally,
    accept: Callable[[Draft], None],
    number: int,
) -> Iterator[Draft | Reject]:
    """Yield what each line of round `number` says, once `accept` has taken it, or why it was refused."""
    with open_records(path) as handle:
        records = _open_round(handle, path, tally.file, settings)
        has_columns = records.header is not None
        if records.header is not None:
            drafter.check_header(records.header, tally.file, number)
        for line, record in records:
            tally.lines += 1
            if record is None:
                tally.blank += 1
                continue
            try:
                if type(record) is Rejected:
                    raise record
                draft = drafter.draft(record, has_columns, number)  # type: ignore[arg-type]
                accept(draft)
            except Rejected as rejected:
                tally.rejected += 1
                item_id = drafter.reject_id(record) if type(record) is dict else None
                yield Reject(tally.file, line, rejected.where, rejected.reason, item_id)
                continue
            tally.accepted += 1
            yield draft


def _fit_biases(settings: CorpusSettings, base_dir: Path | str) -> dict[str, Bias]:
    """Fit the biases of the annotators on each scale, in a pass of its own."""
    raw = settings.aggregation.model_copy(update={"bias_correction": False})
    fits = {name: BiasFit() for name in SCALES}
    for entry in read_annotations(settings.model_copy(update={"aggregation": raw}), base_dir):
        if isinstance(entry, Item):
            for variable, ratings in entry.ratings.items():
                if variable in fits:
                    fits[variable].add(ratings)
    return {name: bias for name, fit in fits.items() if (bias := fit.solve()).items}


# --------------------------------------------------------------------------- digests


class _SetDigests:
    """Named digests that do not depend on the order of the records: the sum of their sha256, modulo 2^256."""

    def __init__(self, names: Iterable[str]) -> None:
        self._sums = dict.fromkeys(names, 0)

    def add(self, name: str, *values: str | None) -> None:
        # No value holds \x1f or \x00 (control characters are removed or rejected), so this is unambiguous.
        payload = "\x1f".join(["\x00" if value is None else value for value in values])
        self._sums[name] += int.from_bytes(hashlib.sha256(payload.encode()).digest(), "little")

    def hexdigests(self) -> dict[str, str]:
        return {name: f"{total % (1 << 256):064x}" for name, total in self._sums.items()}


READ_COLUMNS = (
    "owner_id", "text", "timestamp", "language", "length_bucket", "category", "risk_level", "split",
)  # fmt: skip
"""Columns of the items that stages read one by one; each has a digest of its own."""


def content_digests(settings: CorpusSettings, base_dir: Path | str) -> dict[str, str]:
    """Return a sha256 for each part of the corpus that something downstream reads, in one pass.

    ====================  ================================================================================
    items                 every column of items.parquet
    items/{column}        item_id and that one, of `READ_COLUMNS`
    labels/{variable}     item_id, value, n_raters, spread, derived
    ratings/{variable}    item_id, language, category, risk_level, every rating with its annotator
    rejects               every reject and the counts of what was read (rounds, blank, cleaned, defaults,
                          items whose labels have no common ancestor, what formulas gave)
    ====================  ================================================================================

    All but `rejects` are independent of the order of the lines, as are the artifacts that depend on them, and
    of the rounds in which the items became what they are. They are taken from what was read, not from the
    bytes: a different notation of the same value, or a setting without effect on the items, changes nothing.
    """
    parts = [f"{part}/{variable}" for part in ("labels", "ratings") for variable in VARIABLES]
    of_columns = [f"items/{column}" for column in READ_COLUMNS]
    digests = _SetDigests(["items", *of_columns, *parts])
    rejects = hashlib.sha256()
    tally = Tally()
    add = digests.add
    for entry in read_labelled(settings, base_dir, tally):
        if type(entry) is Reject:
            rejects.update(json.dumps(entry.record(), sort_keys=True).encode() + b"\n")
            continue
        if type(entry) is Derived:
            value, raters, spread = entry.label
            add(f"labels/{entry.variable}", entry.item_id, repr(value), str(raters), repr(spread), "derived")
            continue
        item: Item = entry  # type: ignore[assignment]
        item_id, language, category, risk = item.item_id, item.language, item.category, item.risk_level
        columns = (
            item.owner_id,
            item.text,
            str(item.timestamp),
            language,
            item.length_bucket,
            category,
            risk,
            item.split,
        )
        for part, cell in zip(of_columns, columns, strict=True):
            add(part, item_id, cell)
        add("items", item_id, *columns, item.device, item.extra)
        for variable, (value, raters, spread) in item.labels.items():
            value_parts = (repr(value),) if type(value) is float else value
            add(f"labels/{variable}", item_id, *value_parts, str(raters), repr(spread))  # type: ignore[misc]
            ratings = item.ratings[variable]
            names = [name for name, _ in ratings]
            add(
                f"ratings/{variable}",
                item_id,
                language,
                category,
                risk,
                *names,
                repr([v for _, v in ratings]),
            )
    # The biases follow from the ratings; in which order variables were first counted is no matter.
    counts = replace(
        tally,
        biases={},
        no_common_ancestor=dict(sorted(tally.no_common_ancestor.items())),
        derived=dict(sorted(tally.derived.items())),
    )
    rejects.update(repr(counts).encode())
    return digests.hexdigests() | {"rejects": rejects.hexdigest()}
