"""Owners into train, val and test, and into the folds of train; copies of a text kept apart.

Owners are dealt stratified, balanced in items, and sticky: an owner that the ledger (:mod:`perceive.ledger`)
holds keeps its split and fold, and only new owners are dealt. Items follow their owner, or are excluded:

- in the mode ``grouped_temporal``, items on the wrong side of one boundary in time, and those in the embargo
  before it. Val stands on the side of train: the calibration is part of what is tested, so on the day of the
  boundary it must exist already, and a map fitted on the test period would carry that period's own drift.
- copies and near-copies (:mod:`perceive.near_duplicates`) of a text in a split of higher priority. An item is
  judged by its own neighbours, not by a group that chains of neighbours make: in a large corpus of one style
  these grow without bound, and would take texts out that resemble no test item at all.

All results depend on the set of items and the seed alone, never on the order of the rows.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pandas as pd

from perceive.ledger import SPLITS, as_boundary, owner_key
from perceive.near_duplicates import MIN_SHINGLES, THRESHOLD, adjacency, near_pairs

logger = logging.getLogger(__name__)

EXCLUDED = "excluded"
Published = Literal["honour", "ignore"]

# Of several copies of a text in different splits, those in the first of these splits are kept: a test item is
# worth more than a training item, and taking it out of test would let a corpus choose its own test set.
DUPLICATE_PRIORITY = ("test", "val", "train")

AFTER_BOUNDARY, BEFORE_BOUNDARY, EMBARGO = PURGE_REASONS = ("after_boundary", "before_boundary", "embargo")
COPY_REASONS = tuple(
    f"{kind}_text_in_{split}" for kind in ("duplicate", "near_duplicate") for split in DUPLICATE_PRIORITY[:-1]
)
OWNER_REASONS = ("owner_in_published_test", *(f"owner_in_{split}" for split in SPLITS))
EMBARGO_DAYS = 7
MAX_FOLDS = 31  # the bits of barred_folds

_MAX_SWAPS = 1000
_TOLERATED_GAP = 0.002  # of all items: nearer to the shares the parts need not come

_APOSTROPHES = frozenset("'’ʼ‘`´")
_HAS_WORD = re.compile(r"[^\W_]")


# --- texts ------------------------------


class _Stripping(dict[int, str | None]):
    """A lazily filled table for str.translate: characters that do not tell two texts apart."""

    def __missing__(self, code: int) -> str | None:
        char = chr(code)
        category = unicodedata.category(char)
        replacement: str | None = char
        if char in _APOSTROPHES or category == "Cf" or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF:
            replacement = (
                None  # apostrophes, joiners, soft hyphens, variation selectors: nothing in their place
            )
        elif category[0] in "PSZC" or category == "Me":
            replacement = " "
        self[code] = replacement
        return replacement


_STRIPPING = _Stripping()


def normalise_text(text: str) -> str:
    """Return the form in which two texts count as the same one.

    Compatibility forms, case, white space, punctuation, symbols and emoji are ignored (Unicode NFKC and case
    folding); letters, digits and combining marks of every script are kept. A text without any letter or digit
    (only emoji, say) is returned as it is, with its white space collapsed.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    stripped = unicodedata.normalize("NFKC", folded.translate(_STRIPPING))
    if not _HAS_WORD.search(stripped):
        return " ".join(text.split())
    return " ".join(stripped.split())


# --- strata ------------------------------


def owner_profile(items: pd.DataFrame, labels: pd.DataFrame | None = None) -> pd.DataFrame:
    """Describe each owner by the columns that the strata are made of.

    Parameters
    ----------
    items
        item_id, owner_id, and any of language, length_bucket, category, risk_level.
    labels
        item_id and any of core, tier, valence (0..1), one row an item; None without labels.

    Returns
    -------
    pandas.DataFrame
        One row an owner (index owner_id, sorted): n_items, then the stratum columns, the most important
        first: primary_core (the owner's most frequent core; without cores the tercile of the owner's mean
        valence), language, length_bucket (the most frequent ones), tier (the most frequent one; without
        tiers category, without categories risk_level). Columns without any value are left out; unknown
        values are ``"?"``.
    """
    # Sorting first makes the floating-point means, and with them the terciles, independent of the row order.
    frame = items.sort_values(["owner_id", "item_id"], kind="stable", ignore_index=True)
    if labels is not None:
        frame = frame.merge(labels, on="item_id", how="left", suffixes=("", "_label"), validate="one_to_one")
    profile = frame.groupby("owner_id", sort=True).size().rename("n_items").to_frame()
    if _known(frame, "core"):
        profile["primary_core"] = _dominant(frame, "core")
    elif _known(frame, "valence"):
        profile["primary_core"] = _tercile(frame.groupby("owner_id")["valence"].mean())
    for column in ("language", "length_bucket"):
        if _known(frame, column):
            profile[column] = _dominant(frame, column)
    for column in ("tier", "category", "risk_level"):
        if _known(frame, column):
            profile["tier"] = _dominant(frame, column)
            break
    strata = [column for column in profile.columns if column != "n_items"]
    profile[strata] = profile[strata].astype(object).where(profile[strata].notna(), "?")
    return profile


def stratify(profile: pd.DataFrame, min_size: int = 7) -> tuple[pd.Series, dict[str, Any]]:
    """Give each owner its stratum; merge those too small to be dealt in the shares.

    A stratum of fewer than `min_size` owners loses its last column, and joins the other small ones that agree
    in the remaining columns; what is still too small loses the next column, until one pool is left.

    Parameters
    ----------
    profile
        What :func:`owner_profile` returns.
    min_size
        The number of owners from which on a stratum stands alone.

    Returns
    -------
    strata : pandas.Series
        The stratum of each owner, the columns' values joined by ``|``; a dropped column is ``*``.
    report : dict
        columns, n_owners, n_strata, min_size, n_merged_owners, and merged: each merged stratum with its
        owners' number.
    """
    columns = [column for column in profile.columns if column != "n_items"]
    values = [tuple(map(str, row)) for row in profile[columns].itertuples(index=False, name=None)]
    names = [""] * len(profile)
    merged: Counter[str] = Counter()
    pending = list(range(len(profile)))
    for depth in range(len(columns), -1, -1):
        for row in pending:
            names[row] = "|".join([*values[row][:depth], *["*"] * (len(columns) - depth)])
        sizes = Counter(names[row] for row in pending)
        settled = {name for name, size in sizes.items() if size >= min_size or depth == 0}
        if depth < len(columns):
            merged.update({name: sizes[name] for name in settled})
        pending = [row for row in pending if names[row] not in settled]
    strata = pd.Series(names, index=profile.index, dtype=object)
    report = {
        "columns": columns,
        "n_owners": len(profile),
        "n_strata": int(strata.nunique()),
        "min_size": min_size,
        "n_merged_owners": merged.total(),
        "merged": dict(sorted(merged.items())),
    }
    return strata, report


def _known(frame: pd.DataFrame, column: str) -> bool:
    return column in frame.columns and bool(frame[column].notna().any())


def _dominant(frame: pd.DataFrame, column: str) -> pd.Series:
    counts = frame.groupby(["owner_id", column], observed=True).size().rename("n").reset_index()
    counts[column] = counts[column].astype(str)
    # Ties go to the alphabetically first value.
    counts = counts.sort_values(["owner_id", "n", column], ascending=[True, False, True])
    return counts.drop_duplicates("owner_id").set_index("owner_id")[column]


def _tercile(means: pd.Series) -> pd.Series:
    known = means.dropna()
    cuts = np.quantile(known, [1 / 3, 2 / 3])
    names = np.array(["low", "middle", "high"], dtype=object)
    return pd.Series(names[np.searchsorted(cuts, known, side="left")], index=known.index)


# --- owners ------------------------------


def largest_remainder(n: int, shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """Divide `n` into whole numbers as near to the shares as can be (Hamilton's method; ties: the first)."""
    exact = n * np.asarray(shares, dtype=float) / sum(shares)
    counts = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(-np.round(exact - counts, 9), kind="stable")
    counts[order[: n - counts.sum()]] += 1
    return counts


def assign_owners(
    items: pd.DataFrame,
    strata_labels: pd.DataFrame | None,
    previous: pd.DataFrame,
    *,
    salt: str,
    shares: Sequence[float] = (0.70, 0.15, 0.15),
    n_folds: int = 5,
    seed: int = 137,
    published: Published = "honour",
    allow_owner_overlap: bool = False,
) -> pd.DataFrame:
    """Assign every owner of `items` to a split, and those of train to a fold.

    Owners in `previous` keep what they have. New ones are dealt stratum by stratum towards the shares of the
    owners present; in the first round the numbers are exact (largest remainder). Within a stratum owners go,
    the largest first, to the split that lacks items the most, as far as the stratum's places in it last.
    Labels serve the strata of new owners only, so a corrected label moves nobody.

    A corpus's own split is honoured at item level (see :func:`split_items`): its test items are test, and the
    owners of the other items are divided between train and val alone, in the proportion of their shares.

    Parameters
    ----------
    items
        item_id, owner_id; language, length_bucket, category, risk_level and split where there are any.
    strata_labels
        item_id and any of core, tier, valence; or None (see :func:`owner_profile`).
    previous
        The ledger: owner_key, split, fold.
    salt
        The salt of the ledger's keys.
    shares
        Train, val and test.
    n_folds, seed
        The number of folds in train; the seed of the order in which owners are dealt.
    published
        ``"honour"``: use the split that the corpus was published with, where `items` has one; ``"ignore"``.
    allow_owner_overlap
        With a published split: whether an owner may have items both in its test and in train or val. If not,
        every owner of a published test item is a test owner.

    Returns
    -------
    pandas.DataFrame
        owner_id, split, fold (Int8; missing outside train), sorted by owner_id.

    Raises
    ------
    ValueError
        For shares that are no shares, fewer than two folds, a published split without a test item, or owners
        so few that a split or fold would have none.
    """
    parts = np.asarray(shares, dtype=float)
    if parts.shape != (3,) or (parts <= 0).any() or abs(parts.sum() - 1) > 1e-6:
        raise ValueError("shares must be three positive numbers for train, val and test, with the sum 1")
    if not 2 <= n_folds <= MAX_FOLDS:
        raise ValueError(f"n_folds must lie in 2..{MAX_FOLDS}, not {n_folds}")
    listed = published_test(items, published)
    held = {
        key: (split, fold)
        for key, split, fold in zip(previous["owner_key"], previous["split"], previous["fold"], strict=True)
    }
    owner_ids = sorted(items["owner_id"].unique())
    split: dict[str, str] = {}
    fold: dict[str, int] = {}
    for owner in owner_ids:
        if (key := owner_key(owner, salt)) in held:
            split[owner] = held[key][0]
            if held[key][0] == "train":
                fold[owner] = int(held[key][1])
    dealt = items
    if listed is not None:
        parts = np.array([parts[0], parts[1], 0.0])
        test_owners = set(items.loc[listed, "owner_id"])
        if allow_owner_overlap:
            test_owners -= set(items.loc[~listed, "owner_id"])
        for owner in sorted(test_owners - split.keys()):
            split[owner] = "test"
        dealt = items[~listed]
    dealt = dealt[~dealt["owner_id"].isin(split.keys())]
    if len(dealt):
        profile = owner_profile(dealt, _labels_of(dealt, strata_labels))
        min_size = math.ceil(1 / parts[parts > 0].min() * parts.sum() - 1e-9)
        strata, report = stratify(profile, max(min_size, 2))
        logger.info(
            "%d new owner(s) in %d strata of %s; %d of them in merged strata",
            *(report["n_owners"], report["n_strata"], report["columns"], report["n_merged_owners"]),
        )
        table = _dealing_order(profile["n_items"], strata, seed)
        # With a published split the test owners are given, and only train and val have places to fill.
        dealing = SPLITS if listed is None else SPLITS[:2]
        present = [sum(split[owner] == name for owner in split) for name in dealing]
        codes = _deal(table, _places(present, len(table), parts[: len(dealing)]))
        split |= {owner: dealing[code] for owner, code in zip(table["owner_id"], codes, strict=True)}
        table = table[[split[owner] == "train" for owner in table["owner_id"]]].reset_index(drop=True)
        present = np.bincount(list(fold.values()), minlength=n_folds).tolist()
        codes = _deal(table, _places(present, len(table), np.full(n_folds, 1 / n_folds)))
        fold |= {owner: int(code) for owner, code in zip(table["owner_id"], codes, strict=True)}
    _check_owners(split, fold, n_folds, parts)
    return pd.DataFrame(
        {
            "owner_id": pd.Series(owner_ids, dtype="str"),
            "split": pd.Series([split[owner] for owner in owner_ids], dtype="str"),
            "fold": pd.array([fold.get(owner) for owner in owner_ids], dtype="Int8"),
        }
    )


def published_test(items: pd.DataFrame, published: Published) -> np.ndarray | None:
    """Return which items the corpus itself put into test, or None where no published split is to be honoured.

    Raises
    ------
    ValueError
        For an unknown value in the column split, or a published split without a test item.
    """
    if published == "ignore" or "split" not in items.columns or not items["split"].notna().any():
        return None
    unknown = int((~items["split"].dropna().isin(SPLITS)).sum())
    if unknown:
        raise ValueError(
            f"split: {unknown} item(s) with a published split that is none of {', '.join(SPLITS)}; map "
            "the corpus's names to these in the column map"
        )
    listed = (items["split"] == "test").to_numpy(dtype=bool, na_value=False)
    if not listed.any():
        raise ValueError(
            "split: the published split has no test item; map one of its parts to test, or ignore it"
        )
    return listed


def _check_owners(split: dict[str, str], fold: dict[str, int], n_folds: int, parts: np.ndarray) -> None:
    sizes, folds = Counter(split.values()), Counter(fold.values())
    empty = [name for name, share in zip(SPLITS, parts, strict=True) if share and not sizes[name]]
    empty += [f"fold {number}" for number in range(n_folds) if not folds[number]]
    if empty:
        smallest = np.where(parts > 0, [n_folds, 1, 1], 0)
        enough = smallest.sum()
        while (largest_remainder(enough, parts) < smallest).any():
            enough += 1
        raise ValueError(
            f"too few owners: of {len(split)} owner(s) {sizes['train']} are in train, {sizes['val']} in val "
            f"and {sizes['test']} in test, so that {', '.join(empty)} would have none. These shares and "
            f"{n_folds} folds need at least {enough} owners: bring more owners, or set fewer splits.folds or "
            "other shares (splits.train, val, test) before the first round"
        )


def _labels_of(items: pd.DataFrame, labels: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if labels is None else labels[labels["item_id"].isin(items["item_id"])]


def _dealing_order(n_items: pd.Series, strata: pd.Series, seed: int) -> pd.DataFrame:
    """Sort owners by stratum, then from many items to few, at random among neighbours of similar size."""

    def rank(text: str) -> str:
        return hashlib.blake2b(f"{seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    table = pd.DataFrame(
        {"owner_id": n_items.index, "n_items": n_items.to_numpy(), "stratum": strata.to_numpy()}
    )
    table["rank"] = table["owner_id"].map(rank)
    table["stratum_rank"] = table["stratum"].map({name: rank(name) for name in table["stratum"].unique()})
    table = table.sort_values(["stratum_rank", "n_items", "rank"], ascending=[True, False, True])
    # Without this the owner with the most items would be dealt first, thus to train, whatever the seed.
    table["block"] = table.groupby("stratum_rank").cumcount() // 8
    return table.sort_values(["stratum_rank", "block", "rank"], ignore_index=True)


def _places(present: Sequence[int], n_new: int, shares: np.ndarray) -> np.ndarray:
    """Return how many of `n_new` owners go to each part, so that all come as near to the shares as they
    can."""
    lacking = largest_remainder(sum(present) + n_new, shares) - np.asarray(present, dtype=int)
    places = np.zeros_like(lacking)
    # One by one to the part that lacks most: where some part holds more than its share already, the others
    # bear
    # the shortage evenly; in the first round this gives each exactly what it lacks.
    for _ in range(n_new):
        places[np.argmax(lacking - places)] += 1
    return places


def _deal(table: pd.DataFrame, places: np.ndarray) -> np.ndarray:
    """Deal owners (in dealing order) into parts with the given numbers of places; return the part of each."""
    parts = np.full(len(table), -1)
    if not len(table):
        return parts
    fractions = places / places.sum()
    filled = np.zeros(len(places), dtype=int)
    items_in = np.zeros(len(places))
    items_dealt = 0
    weights = table["n_items"].to_numpy()
    for rows in table.groupby("stratum_rank", sort=False).indices.values():
        # How many places of each part this stratum fills: the running shortage carries over from stratum to
        # stratum, so each is within about one owner of its shares and the total is exact.
        open_here = np.zeros(len(places), dtype=int)
        for _ in rows:
            shortage = fractions * (filled.sum() + 1) - filled
            part = _first_largest(shortage, filled < places)
            filled[part] += 1
            open_here[part] += 1
        for row in rows:
            items_dealt += weights[row]
            part = _first_largest(fractions * items_dealt - items_in, open_here > 0)
            items_in[part] += weights[row]
            open_here[part] -= 1
            parts[row] = part
    return _even_out(parts, weights, table["stratum_rank"].to_numpy(), fractions)


def _even_out(
    parts: np.ndarray, weights: np.ndarray, strata: np.ndarray, fractions: np.ndarray
) -> np.ndarray:
    """Swap owners of one stratum between parts until the parts hold items in their shares, as far as may be.

    Needed where a few owners have most of the items. The numbers of owners stay as they are.
    """
    parts = parts.copy()
    total = weights.sum()
    for _ in range(_MAX_SWAPS):
        surplus = np.bincount(parts, weights=weights, minlength=len(fractions)) - fractions * total
        gaps = [(surplus[a] - surplus[b], a, b) for a in range(len(surplus)) for b in range(len(surplus))]
        for gap, over, under in sorted(gaps, key=lambda entry: (-round(entry[0], 6), *entry[1:])):
            if gap <= _TOLERATED_GAP * total:
                return parts
            pair = _best_swap(parts, weights, strata, over, under, gap)
            if pair is not None:
                parts[list(pair)] = under, over
                break
        else:
            return parts
    return parts


def _best_swap(
    parts: np.ndarray, weights: np.ndarray, strata: np.ndarray, over: int, under: int, gap: float
) -> tuple[int, int] | None:
    """Return the rows of one stratum whose swap halves the gap best, or None where every swap would widen
    it."""
    best: tuple[float, int, int] | None = None
    for stratum in np.unique(strata[parts == over]):
        givers = np.flatnonzero((parts == over) & (strata == stratum))
        takers = np.flatnonzero((parts == under) & (strata == stratum))
        if not len(takers):
            continue
        takers = takers[np.argsort(weights[takers], kind="stable")]
        wanted = np.searchsorted(weights[takers], weights[givers] - gap / 2)
        for near in (np.maximum(wanted - 1, 0), np.minimum(wanted, len(takers) - 1)):
            moved = weights[givers] - weights[takers[near]]
            missed = np.where((moved > 0) & (moved < gap), np.round(np.abs(moved - gap / 2), 6), np.inf)
            row = int(np.argmin(missed))
            if np.isfinite(missed[row]) and (best is None or missed[row] < best[0]):
                best = (missed[row], int(givers[row]), int(takers[near[row]]))
    return None if best is None else best[1:]


def _first_largest(values: np.ndarray, allowed: np.ndarray) -> int:
    # Rounding, so that mathematically equal values are ties on every machine.
    return int(np.argmax(np.where(allowed, np.round(values, 9), -np.inf)))


# --- items ------------------------------


def time_boundary(
    items: pd.DataFrame,
    share: float,
    *,
    configured: str | datetime | None = None,
    held: datetime | None = None,
) -> pd.Timestamp:
    """Return where in time test begins, for the mode ``grouped_temporal``.

    Parameters
    ----------
    items
        timestamp (with a time zone).
    share
        The share of train: without a boundary given, this share of the items lies before it, up to the
        rounding to a whole day (UTC).
    configured
        The configured boundary (ISO 8601; UTC where it names no zone), or None.
    held
        The boundary of earlier rounds (:func:`perceive.ledger.read_boundary`, which refuses a configured one
        that differs). It goes first: a boundary that moved with the items would move what is tested.

    Raises
    ------
    ValueError
        Where the configured one is no time.
    """
    if held is not None or configured is not None:
        return as_boundary(configured if held is None else held)  # type: ignore[arg-type]
    times = np.sort(items["timestamp"].to_numpy(dtype="datetime64[us]"))
    rank = min(max(math.ceil(share * len(times) - 1e-9), 1), len(times))
    return as_boundary(pd.Timestamp(times[rank - 1]).round("D"))


def split_items(
    items: pd.DataFrame,
    owners: pd.DataFrame,
    *,
    published: Published = "honour",
    allow_owner_overlap: bool = False,
    threshold: float = THRESHOLD,
    min_shingles: int = MIN_SHINGLES,
    boundary: datetime | None = None,
    embargo_days: float = EMBARGO_DAYS,
) -> pd.DataFrame:
    """Give every item its split and fold, or the reason why it is in none.

    Copies (:func:`normalise_text`) and near-copies of one text in different splits are a leak: those in the
    split of the highest priority stay (test, then val, then train), the others are excluded. Copies in
    different folds of train stay; :func:`training_rows` keeps them apart where it matters.

    Parameters
    ----------
    items
        item_id, owner_id, text; timestamp (with a time zone) for a boundary; split where the corpus has a
        published one.
    owners
        What :func:`assign_owners` returns, with the same settings.
    published, allow_owner_overlap
        As in :func:`assign_owners`.
    threshold, min_shingles
        Which texts are near-copies: see :func:`perceive.near_duplicates.near_pairs`.
    boundary
        Mode ``grouped_temporal``: items of train and val from this time on, and items of test before it, are
        excluded (:func:`time_boundary`). None: mode ``grouped``.
    embargo_days
        With a boundary: items of train and val in so many days before it are excluded, too.

    Returns
    -------
    pandas.DataFrame
        item_id, split (train, val, test, excluded), fold (Int8; train only), reason (excluded only),
        barred_folds (int32); rows as in `items`. Bit k of barred_folds says that fold k, not the item's own,
        holds a copy or near-copy of its text.
        Reasons: ``after_boundary``, ``before_boundary``, ``embargo``; ``duplicate_text_in_test``,
        ``duplicate_text_in_val``, ``near_duplicate_text_in_test``, ``near_duplicate_text_in_val``; with a
        published split ``owner_in_published_test`` (an item outside it, of an owner inside it),
        ``owner_in_test``, ``owner_in_train``, ``owner_in_val`` (the ledger contradicts the published
        split).

    Raises
    ------
    ValueError
        Where `owners` lacks an owner of `items`, a published split is to be honoured together with a
        boundary, a split or fold is left without items, or near-duplicates cannot be searched for.
    """
    table = owners.set_index("owner_id")
    owner_split = items["owner_id"].map(table["split"]).to_numpy(dtype=object)
    if pd.isna(owner_split).any():
        missing = items.loc[pd.isna(owner_split), "owner_id"].nunique()
        raise ValueError(
            f"owners: {missing} owner(s) of the items are not assigned; assign owners from the same items"
        )
    split = owner_split.copy()
    reason = np.full(len(items), None, dtype=object)
    listed = published_test(items, published)
    if listed is not None:
        if boundary is not None:
            raise ValueError(
                "splits.mode grouped_temporal would purge the corpus's published test items, so that figures "
                "could not be compared with published ones; set splits.mode: grouped, or splits.published: "
                "ignore"
            )
        split[listed] = "test"
        outside = ~listed & (owner_split == "test")
        known = items["owner_id"].isin(items.loc[listed, "owner_id"]).to_numpy()
        reason[outside] = np.where(known[outside], "owner_in_published_test", "owner_in_test")
        if not allow_owner_overlap:
            contradicted = listed & (owner_split != "test")
            reason[contradicted] = "owner_in_" + owner_split[contradicted]
    if boundary is not None:
        times = items["timestamp"].to_numpy(dtype="datetime64[us]")
        edge = as_boundary(boundary).to_numpy()
        late, near = times >= edge, times >= edge - pd.Timedelta(days=embargo_days).to_numpy()
        test = split == "test"
        reason[~test & near] = EMBARGO
        reason[~test & late] = AFTER_BOUNDARY
        reason[test & ~late] = BEFORE_BOUNDARY
    normal = pd.Series([normalise_text(text) for text in items["text"]], dtype=object)
    codes, texts = pd.factorize(normal, sort=True)
    # A text and its near-copies; a product with it counts those among given texts.
    alike = adjacency(near_pairs(texts.tolist(), threshold=threshold, min_shingles=min_shingles), len(texts))
    for position, winner in enumerate(DUPLICATE_PRIORITY[:-1]):
        kept = pd.isna(reason)
        held = np.bincount(codes[kept & (split == winner)], minlength=len(texts))
        rivals = kept & np.isin(split, DUPLICATE_PRIORITY[position + 1 :])
        reason[rivals & ((alike @ held) > 0)[codes]] = f"near_duplicate_text_in_{winner}"
        reason[rivals & (held > 0)[codes]] = f"duplicate_text_in_{winner}"
    split[~pd.isna(reason)] = EXCLUDED
    fold = items["owner_id"].map(table["fold"]).astype("Int8").array.copy()
    fold[split != "train"] = pd.NA
    result = pd.DataFrame(
        {
            "item_id": items["item_id"].astype("str").array,
            "split": pd.array(split, dtype="str"),
            "fold": fold,
            "reason": pd.array(reason, dtype="str"),
            "barred_folds": np.int32(0),
        }
    )
    numbers = sorted(table["fold"].dropna().unique())
    for number in numbers:
        _, inside = _fold_masks(result, number)
        present = np.bincount(codes[inside], minlength=len(texts))
        barred = (split == "train") & ~inside & ((alike @ present) > 0)[codes]
        result.loc[barred, "barred_folds"] |= np.int32(1 << int(number))
    _check_items(result, numbers, boundary)
    return result


def _check_items(split_items: pd.DataFrame, folds: Collection[int], boundary: datetime | None) -> None:
    sizes = split_items["split"].value_counts()
    filled = set(split_items["fold"].dropna())
    empty = [name for name in SPLITS if name not in sizes]
    empty += [f"fold {number}" for number in folds if number not in filled]
    if empty:
        reasons = split_items["reason"].value_counts().sort_index()
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        remedy = "bring more items or owners, or set fewer splits.folds before the first round"
        if boundary is not None:
            remedy += (
                f"; or set another splits.boundary (it is {as_boundary(boundary).isoformat()}) before the "
                "first round, or splits.mode: grouped"
            )
        raise ValueError(
            f"of {len(split_items)} items none is left in {', '.join(empty)} "
            f"(excluded: {why or 'none'}); {remedy}"
        )


def purged(split_items: pd.DataFrame, items: pd.DataFrame, owners: pd.DataFrame) -> pd.DataFrame:
    """List the items that the boundary in time and its embargo took out.

    Parameters
    ----------
    split_items, owners
        What :func:`split_items` and :func:`assign_owners` returned.
    items
        item_id, owner_id, timestamp; rows as in `split_items`.

    Returns
    -------
    pandas.DataFrame
        item_id, split (its owner's), reason (after_boundary, before_boundary, embargo), timestamp; by time,
        then item_id. Empty in the mode ``grouped``.
    """
    rows = split_items["reason"].isin(PURGE_REASONS).to_numpy()
    split = items["owner_id"].map(owners.set_index("owner_id")["split"])
    # Without a boundary there is nothing to list, and no times are needed.
    times = items["timestamp"] if rows.any() else pd.Series(pd.NaT, index=items.index)
    listed = pd.DataFrame(
        {
            "item_id": split_items.loc[rows, "item_id"].array,
            "split": split[rows].astype("str").array,
            "reason": split_items.loc[rows, "reason"].array,
            "timestamp": times[rows].array,
        }
    )
    return listed.sort_values(["timestamp", "item_id"], ignore_index=True)


def training_rows(split_items: pd.DataFrame, fold: int) -> np.ndarray:
    """Return which rows the model of a fold may be trained on.

    All of train outside the fold, less the copies and near-copies of texts that the fold holds: the model
    must not have read the texts that it is to predict.

    Parameters
    ----------
    split_items
        What :func:`split_items` returns.
    fold
        The fold to be predicted.

    Returns
    -------
    numpy.ndarray
        Booleans, shape (rows,).
    """
    train, inside = _fold_masks(split_items, fold)
    barred = (split_items["barred_folds"].to_numpy() >> fold) & 1 == 1
    return train & ~inside & ~barred


def fold_members(split_items: pd.DataFrame, fold: int) -> tuple[list[str], list[str]]:
    """Return the item ids that a fold's model is trained on, and those that it predicts, in row order."""
    _, inside = _fold_masks(split_items, fold)
    ids = split_items["item_id"]
    return ids[training_rows(split_items, fold)].tolist(), ids[inside].tolist()


def _fold_masks(split_items: pd.DataFrame, fold: int) -> tuple[np.ndarray, np.ndarray]:
    train = (split_items["split"] == "train").to_numpy(dtype=bool)
    return train, train & (split_items["fold"] == fold).to_numpy(dtype=bool, na_value=False)


def sample_owners(owners: pd.Series, usable: np.ndarray, most: int, *, seed: int) -> np.ndarray:
    """Rows of randomly chosen owners: about ``most``, or all usable rows where there are no more.

    Parameters
    ----------
    owners : Series of shape (n,)
    usable : ndarray of shape (n,)
    most : int
        No owner is begun after so many rows.

    Returns
    -------
    ndarray of int
        In ascending order.
    """
    rows = np.flatnonzero(usable)
    codes, names = pd.factorize(owners.iloc[rows], sort=True)
    if len(rows) <= most:
        return rows
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = np.bincount(codes, minlength=len(names))[order]
    taken = order[np.cumsum(sizes) - sizes < most]
    logger.info("the search works on a sample: %d of %d owners", len(taken), len(names))
    return rows[np.isin(codes, taken)]
