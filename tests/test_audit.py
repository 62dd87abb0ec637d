"""The audit passes on clean splits and predictions, and names the check for each planted leak."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive import audit, ledger, splits
from perceive.features.temporal import FEATURES as TEMPORAL
from perceive.features.temporal import temporal_features

SALT = "pepper"
BASES = ["lx", "eb", "tm", "full"]
N_FOLDS = 5


@dataclass
class World:
    """All that the audit reads, made by the real splitting code; tests plant leaks in it."""

    items: pd.DataFrame
    owners: pd.DataFrame
    split_items: pd.DataFrame
    oof: pd.DataFrame
    trained_on: pd.DataFrame
    features: pd.DataFrame
    labels: dict[str, pd.DataFrame]
    records: dict[str, list[str]]
    timeline: pd.DataFrame
    options: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, pd.DataFrame] | None = None

    def splits(self, **more) -> audit.AuditReport:
        options = self.options | more
        return audit.audit_splits(self.items, self.split_items, self.owners, salt=SALT, **options)

    def variable(self, variable: str = "valence") -> audit.AuditReport:
        return audit.audit_variable(
            variable,
            items=self.items,
            split_items=self.split_items,
            oof_records=self.oof,
            trained_on=self.trained_on,
            labels=self.labels,
            salt=SALT,
            bases=BASES,
            feature_columns=[column for column in self.features.columns if column != "item_id"],
            features=self.features,
            records=self.records,
            upstream=self.upstream,
        )

    def timelines(self, **more) -> audit.AuditReport:
        lexical = self.features[["item_id", "lex_valence"]]
        return audit.audit_timeline(self.items, lexical, self.timeline, salt=SALT, **more)

    def rows(self, split: str, fold: int | None = None) -> pd.Index:
        """Rows of a split, in the order of the items."""
        chosen = self.split_items["split"] == split
        if fold is not None:
            chosen &= self.split_items["fold"] == fold
        return self.split_items.index[chosen]

    def ids(self, split: str, fold: int | None = None) -> list[str]:
        return self.split_items.loc[self.rows(split, fold), "item_id"].tolist()


def entry(number: int) -> str:
    """A text unlike any other: two of these share little more than how they begin."""
    words = hashlib.sha256(str(number).encode()).hexdigest()
    return "secret diary " + " ".join(words[start : start + 9] for start in range(0, 63, 9))


def timeline_of(items: pd.DataFrame, valence: pd.Series) -> pd.DataFrame:
    values = temporal_features(items["owner_id"], items["timestamp"], valence, item_ids=items["item_id"])
    return pd.DataFrame(values, columns=list(TEMPORAL)).assign(item_id=items["item_id"])


def build(
    seed: int = 0,
    n_owners: int = 60,
    n_texts: int = 400,
    *,
    near: float = 0.0,
    publish: bool = False,
    temporal: bool = False,
) -> World:
    """A clean world; of its texts there are `n_texts`, and a share `near` are slight edits of these."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n_owners), rng.integers(2, 10, n_owners))
    n = len(owner)
    items = pd.DataFrame(
        {
            "item_id": [f"item-{i:04d}" for i in range(n)],
            "owner_id": [f"owner-{o:03d}" for o in owner],
            "text": [
                entry(number) + (" " + "lol"[:more] if more else "")
                for number, more in zip(
                    rng.integers(0, n_texts, n), rng.integers(1, 4, n) * (rng.random(n) < near), strict=True
                )
            ],
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC")
            + pd.to_timedelta(rng.integers(0, 9000, n), "h"),
            "language": "en",
            "split": pd.array(
                rng.choice(["test", "train"], n, p=[0.1, 0.9]) if publish else [None] * n, dtype="str"
            ),
        }
    )
    options = {"allow_owner_overlap": publish}
    owners = splits.assign_owners(items, None, ledger.empty_ledger(), salt=SALT, **options)
    times: dict[str, Any] = {}
    if temporal:
        times = {"boundary": splits.time_boundary(items, 0.7), "embargo_days": 30}
    split_items = splits.split_items(items, owners, **options, **times)
    if temporal:
        options |= {**times, "mode": "grouped_temporal", "purged": splits.purged(split_items, items, owners)}
    members = {fold: splits.fold_members(split_items, fold) for fold in range(N_FOLDS)}
    oof = pd.concat(
        pd.DataFrame({"item_id": val, "base": base, "fold_predicted": fold})
        for base in BASES
        for fold, (_, val) in members.items()
    ).reset_index(drop=True)
    trained_on = pd.concat(
        pd.DataFrame({"fold": fold, "item_id": train}) for fold, (train, _) in members.items()
    ).reset_index(drop=True)
    value = rng.random(n)
    core = rng.choice(["Sad", "Happy", "Angry"], n)
    labels = {
        "valence": pd.DataFrame(
            {"item_id": items["item_id"], "value": value, "n_raters": 1, "spread": np.nan}
        ),
        "arousal": pd.DataFrame({"item_id": items["item_id"], "value": rng.random(n)}).sample(
            frac=0.7, random_state=1
        ),
        "invoked": pd.DataFrame({"item_id": items["item_id"], "core": core, "nuance": None, "micro": None}),
    }
    features = pd.DataFrame(
        {
            "item_id": items["item_id"],
            "lex_valence": value + rng.normal(0, 0.2, n),
            "emb_000": rng.normal(0, 1, n),
            "anchor_sad": (core == "Sad") + rng.normal(0, 0.3, n),
            "ema_valence_smooth": np.where(rng.random(n) < 0.1, np.nan, rng.random(n)),
            "profanity_score": 0.0,
        }
    ).astype({"lex_valence": "float32", "emb_000": "float32"})
    timeline = timeline_of(items, features["lex_valence"])
    world = World(items, owners, split_items, oof, trained_on, features, labels, {}, timeline, options)
    train = world.ids("train")
    world.records = {
        "training/full": train,
        "projection": train,
        **{f"projection/fold{fold}": members[fold][0] for fold in range(N_FOLDS)},
        **{f"tuning/fold{fold}": members[fold][0] for fold in range(N_FOLDS)},
        "tuning": train,
        "blend": train,
        "calibration": world.ids("val"),
        "evaluation": world.ids("test"),
    }
    return world


def failed(report: audit.AuditReport) -> set[str]:
    return {check.name for check in report.failed}


def verdicts(report: audit.AuditReport) -> dict[str, str]:
    return {check.name: check.verdict for check in report.checks}


@given(
    st.integers(0, 10_000),
    st.integers(30, 80),
    st.sampled_from([300, 2000, 100_000]),
    st.sampled_from([0.0, 0.3]),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_clean_runs_pass(seed, n_owners, n_texts, near, temporal):
    world = build(seed, n_owners, n_texts, near=near, temporal=temporal)
    for report in (world.splits(), world.timelines(), world.variable(), world.variable("arousal")):
        assert report.ok, failed(report)
        report.raise_if_failed()


def test_every_check_is_listed_and_json_ready():
    world = build()
    world.upstream = {}
    assert list(verdicts(world.splits()).items()) == [
        ("owner_in_two_splits", "pass"),
        ("owner_in_two_folds", "pass"),
        ("text_in_two_splits", "pass"),
        ("near_text_in_two_splits", "pass"),
        ("text_in_training_rows", "pass"),
        ("excluded_copies", "pass"),
        ("coverage", "pass"),
        ("embargo_7_days", "pass"),
        ("purge_list", "pass"),
        ("sticky_owners", "pass"),
        ("splits_not_empty", "pass"),
        ("owner_shares", "pass"),
    ]
    assert verdicts(world.variable()).keys() == {
        "oof_complete",
        "oof_in_fold_prediction",
        "text_trained_and_predicted",
        "near_text_trained_and_predicted",
        "label_among_features_by_name",
        "label_among_features_by_value",
        "upstream_in_graph",
        "upstream_out_of_fold",
        "learned_inside_training_folds",
        "test_untouched",
        "projection_on_train_only",
        "training_on_train_only",
        "tuning_on_train_only",
        "blend_on_train_only",
        "calibration_on_val_only",
        "evaluation_on_test_only",
        "blend_on_oof_only",
    }
    assert list(verdicts(world.timelines())) == ["timeline_rows", "timeline_causal"]
    for report in (world.splits(), world.variable(), world.timelines(), build(temporal=True).splits()):
        assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["ok"]
    embargo = next(check for check in world.splits().checks if check.name == "embargo_7_days")
    assert "nothing to purge" in embargo.explanation
    temporal = verdicts(build(temporal=True).splits())
    added = {"temporal_boundary", "sticky_boundary", "embargo_30_days"}
    assert temporal.keys() - verdicts(world.splits()).keys() == added


# --- planted leaks in the splits ------------------------------


def owner_in_two_splits(world: World) -> None:
    row = world.rows("test")[0]
    world.split_items.loc[row, "split"] = "val"


def owner_table_in_two_splits(world: World) -> None:
    row = world.owners.index[world.owners["split"] == "test"][0]
    world.owners.loc[row, "split"] = "val"


def owner_twice_in_the_table(world: World) -> None:
    row = world.owners[world.owners["split"] == "test"].iloc[[0]]
    world.owners = pd.concat([world.owners, row.assign(split="val")], ignore_index=True)


def owner_in_two_folds(world: World) -> None:
    row = world.rows("train", 1)[0]
    world.split_items.loc[row, "fold"] = 2


def owner_table_in_two_folds(world: World) -> None:
    row = world.owners.index[world.owners["fold"] == 1][0]
    world.owners.loc[row, "fold"] = 2


def same_text_in_train_and_test(world: World) -> None:
    text = world.items.loc[world.rows("test")[0], "text"]
    row = world.rows("train")[0]
    world.items.loc[row, "text"] = f"  {text.upper()}!! 😀"


def duplicate_let_in(world: World) -> None:
    row = world.split_items.index[world.split_items["reason"] == "duplicate_text_in_test"][0]
    state = world.owners.set_index("owner_id").loc[world.items.loc[row, "owner_id"]]
    world.split_items.loc[row, ["split", "fold", "reason"]] = [state["split"], state["fold"], None]


def item_lost(world: World) -> None:
    world.split_items = world.split_items.drop(index=world.rows("train")[0])


def item_twice(world: World) -> None:
    world.split_items = pd.concat([world.split_items, world.split_items.iloc[[0]]])


def item_invented(world: World) -> None:
    extra = world.split_items.iloc[[0]].assign(item_id="ghost")
    world.split_items = pd.concat([world.split_items, extra])


def excluded_without_reason(world: World) -> None:
    row = world.split_items.index[world.split_items["split"] == splits.EXCLUDED][0]
    world.split_items.loc[row, "reason"] = None


def fold_outside_train(world: World) -> None:
    world.split_items.loc[world.rows("test")[0], "fold"] = 1


def train_without_fold(world: World) -> None:
    owner = world.items.loc[world.rows("train")[0], "owner_id"]
    world.split_items.loc[(world.items["owner_id"] == owner).to_numpy(), "fold"] = pd.NA
    world.owners.loc[world.owners["owner_id"] == owner, "fold"] = pd.NA


def unknown_split(world: World) -> None:
    world.split_items.loc[world.rows("val"), "split"] = "dev"


def rows_shuffled(world: World) -> None:
    world.split_items = world.split_items.iloc[::-1]


def empty_fold(world: World) -> None:
    world.split_items.loc[world.rows("train", 4), "fold"] = 3
    world.owners.loc[world.owners["fold"] == 4, "fold"] = 3


def lopsided(world: World) -> None:
    moved = world.owners.index[world.owners["split"] == "train"][:5]
    names = world.owners.loc[moved, "owner_id"]
    world.owners.loc[moved, ["split", "fold"]] = ["val", pd.NA]
    rows = world.items["owner_id"].isin(names).to_numpy() & (world.split_items["split"] == "train").to_numpy()
    world.split_items.loc[rows, ["split", "fold"]] = ["val", pd.NA]


def excluded_for_no_known_reason(world: World) -> None:
    row = world.split_items.index[world.split_items["split"] == splits.EXCLUDED][0]
    world.split_items.loc[row, "reason"] = "disliked"


def near_copy_in_train_and_test(world: World) -> None:
    text = world.items.loc[world.rows("test")[0], "text"] + " ok"
    row = world.rows("train")[0]
    world.items.loc[row, "text"] = text


def near_copy_in_val_and_test(world: World) -> None:
    text = "hm " + world.items.loc[world.rows("test")[3], "text"]
    row = world.rows("val")[2]
    world.items.loc[row, "text"] = text


def near_duplicate_let_in(world: World) -> None:
    row = world.split_items.index[world.split_items["reason"] == "near_duplicate_text_in_test"][0]
    state = world.owners.set_index("owner_id").loc[world.items.loc[row, "owner_id"]]
    world.split_items.loc[row, ["split", "fold", "reason"]] = [state["split"], state["fold"], None]
    # In the training rows of no fold, which is another leak.
    world.split_items.loc[row, "barred_folds"] = np.int32((1 << N_FOLDS) - 1)


def copies_not_barred(world: World) -> None:
    world.split_items["barred_folds"] = np.int32(0)


def one_near_copy_not_barred(world: World) -> None:
    train = world.rows("train")
    rows = train[world.split_items.loc[train, "barred_folds"] > 0]
    texts = world.items["text"]
    alone = rows[~texts[rows].duplicated(keep=False) & ~texts[rows].isin(texts[train.difference(rows)])]
    world.split_items.loc[alone[0], "barred_folds"] = np.int32(0)


def excluded_as_a_copy_of_nothing(world: World) -> None:
    row = world.rows("train")[0]
    world.split_items.loc[row, ["split", "fold", "reason"]] = ["excluded", pd.NA, "duplicate_text_in_test"]


def excluded_as_a_near_copy_of_nothing(world: World) -> None:
    row = world.rows("train")[0]
    world.split_items.loc[row, ["split", "fold", "reason"]] = [
        "excluded",
        pd.NA,
        "near_duplicate_text_in_val",
    ]


def excluded_for_the_wrong_split(world: World) -> None:
    reasons = world.split_items["reason"]
    world.split_items.loc[reasons == "duplicate_text_in_test", "reason"] = "duplicate_text_in_val"


def near_copy_called_a_copy(world: World) -> None:
    reasons = world.split_items["reason"]
    row = world.split_items.index[reasons == "near_duplicate_text_in_test"][0]
    assert world.items.loc[row, "text"] not in set(world.items.loc[world.rows("test"), "text"])
    world.split_items.loc[row, "reason"] = "duplicate_text_in_test"


def purged_in_grouped(world: World) -> None:
    row = world.rows("train")[0]
    world.split_items.loc[row, ["split", "fold", "reason"]] = ["excluded", pd.NA, "embargo"]


@dataclass
class Plant:
    """A leak, the checks that must fail, and the world that it is planted in."""

    leak: Callable[[World], None]
    fails: set[str]
    world: dict[str, Any] = field(default_factory=dict)


UNIQUE = {"n_texts": 100_000}  # no copies, where items move that would meet theirs
NEAR = {"n_texts": 300, "near": 0.4}

SPLIT_LEAKS = [
    Plant(owner_in_two_splits, {"owner_in_two_splits", "embargo_7_days"}, UNIQUE),
    Plant(owner_table_in_two_splits, {"owner_in_two_splits", "embargo_7_days"}),
    Plant(owner_twice_in_the_table, {"owner_in_two_splits", "embargo_7_days"}),
    Plant(owner_in_two_folds, {"owner_in_two_folds"}, UNIQUE),
    Plant(owner_table_in_two_folds, {"owner_in_two_folds"}),
    Plant(same_text_in_train_and_test, {"text_in_two_splits"}),
    Plant(duplicate_let_in, {"text_in_two_splits"}),
    Plant(near_copy_in_train_and_test, {"near_text_in_two_splits"}, UNIQUE),
    Plant(near_copy_in_val_and_test, {"near_text_in_two_splits"}, UNIQUE),
    Plant(near_duplicate_let_in, {"near_text_in_two_splits"}, NEAR),
    Plant(copies_not_barred, {"text_in_training_rows"}),
    Plant(one_near_copy_not_barred, {"text_in_training_rows"}, NEAR),
    Plant(excluded_as_a_copy_of_nothing, {"excluded_copies"}, UNIQUE),
    Plant(excluded_as_a_near_copy_of_nothing, {"excluded_copies"}, UNIQUE),
    Plant(excluded_for_the_wrong_split, {"excluded_copies"}),
    Plant(near_copy_called_a_copy, {"excluded_copies"}, NEAR),
    Plant(purged_in_grouped, {"purge_list"}, UNIQUE),
    Plant(item_lost, {"coverage"}),
    Plant(item_twice, {"coverage"}),
    Plant(item_invented, {"coverage"}),
    Plant(excluded_without_reason, {"coverage"}),
    Plant(excluded_for_no_known_reason, {"coverage"}),
    Plant(fold_outside_train, {"coverage"}),
    Plant(train_without_fold, {"coverage"}, UNIQUE),
    Plant(unknown_split, {"coverage", "owner_in_two_splits", "splits_not_empty", "embargo_7_days"}, UNIQUE),
    Plant(rows_shuffled, {"coverage"}),
    Plant(empty_fold, {"splits_not_empty"}, UNIQUE),
    Plant(lopsided, {"owner_shares"}, UNIQUE),
]


@functools.cache
def audited(**how) -> World:
    world = build(**how)
    for report in (world.splits(), world.timelines(), world.variable()):
        assert report.ok, failed(report)
    return world


def clean(**how) -> World:
    """A world of one's own that has passed all audits."""
    return copy.deepcopy(audited(**how))


def name_of(value: object) -> str:
    return getattr(getattr(value, "leak", value), "__name__", "")


@pytest.mark.parametrize("plant", SPLIT_LEAKS, ids=name_of)
def test_planted_split_leaks(plant):
    world = clean(**plant.world)
    plant.leak(world)
    assert_found(world, world.splits(), plant.fails)


def test_of_many_texts_a_sample_is_compared_with_all(monkeypatch):
    world = clean(**NEAR)
    assert (world.split_items["reason"] == "near_duplicate_text_in_test").any()
    exact = {check.name: check.explanation for check in world.splits().checks}
    assert not [name for name, words in exact.items() if "by lot" in words]
    monkeypatch.setattr(audit, "EXACT_TEXTS", 60)
    reports = [world.splits(), world.variable()]
    assert [failed(report) for report in reports] == [
        set(),
        set(),
    ]  # copies that were kept out are not missed
    said = {check.name for report in reports for check in report.checks if "by lot" in check.explanation}
    assert said == {
        "near_text_in_two_splits",
        "text_in_training_rows",
        "near_text_trained_and_predicted",
        "learned_inside_training_folds",
    }
    n_texts = world.items["text"].map(splits.normalise_text).nunique()
    words = next(check.explanation for check in reports[0].checks if check.name == "near_text_in_two_splits")
    assert re.search(rf"; \d+ of {n_texts} texts, drawn by lot, were compared with all\)", words)


def test_a_sample_finds_what_its_share_promises(monkeypatch):
    monkeypatch.setattr(audit, "EXACT_TEXTS", 200)
    world = clean(**UNIQUE)
    assert world.splits().ok
    test = world.items["text"].iloc[world.rows("test")[:20]]
    world.items.loc[world.rows("train")[: len(test)], "text"] = [f"{text} ok" for text in test]
    found = next(check for check in world.splits().checks if check.name == "near_text_in_two_splits")
    share = 1 - (1 - 200 / len(world.items)) ** 2  # a pair is found by either of its texts
    assert found.verdict == "fail"
    assert abs(found.count / (2 * len(test)) - share) < 0.3


def assert_found(world: World, report: audit.AuditReport, fails: set[str]) -> None:
    assert failed(report) == fails
    with pytest.raises(audit.LeakError) as error:
        report.raise_if_failed()
    for check in report.failed:
        assert check.count > 0 and check.remedy and check.name in str(error.value)
    assert_private(world, report, str(error.value))


# --- planted leaks in time ------------------------------


def let_in(world: World, reason: str, split: str) -> None:
    """Take the first item that was purged for a reason back into its owner's split."""
    state = world.items["owner_id"].map(world.owners.set_index("owner_id")["split"])
    row = world.split_items.index[(world.split_items["reason"] == reason) & (state == split)][0]
    owner = world.owners.set_index("owner_id").loc[world.items.loc[row, "owner_id"]]
    world.split_items.loc[row, ["split", "fold", "reason"]] = [split, owner["fold"], None]


def train_after_boundary(world: World) -> None:
    let_in(world, "after_boundary", "train")


def val_after_boundary(world: World) -> None:
    let_in(world, "after_boundary", "val")


def early_item_in_test(world: World) -> None:
    let_in(world, "before_boundary", "test")


def train_in_embargo(world: World) -> None:
    let_in(world, "embargo", "train")


def val_in_embargo(world: World) -> None:
    let_in(world, "embargo", "val")


def train_at_the_edge_of_the_embargo(world: World) -> None:
    world.items.loc[world.rows("train")[0], "timestamp"] = world.options["boundary"] - pd.Timedelta(days=30)


def val_at_the_boundary(world: World) -> None:
    world.items.loc[world.rows("val")[0], "timestamp"] = world.options["boundary"]


def embargo_forgotten(world: World) -> None:
    """All the items were split without an embargo."""
    world.split_items = splits.split_items(
        world.items, world.owners, boundary=world.options["boundary"], embargo_days=0
    )


def purged_without_cause(world: World) -> None:
    row = world.rows("train")[0]
    world.split_items.loc[row, ["split", "fold", "reason"]] = ["excluded", pd.NA, "embargo"]


def purged_for_another_reason(world: World) -> None:
    row = world.split_items.index[world.split_items["reason"] == "after_boundary"][0]
    world.split_items.loc[row, "reason"] = "embargo"


def missing_in_the_list(world: World) -> None:
    world.options["purged"] = world.options["purged"].iloc[1:]


def twice_in_the_list(world: World) -> None:
    world.options["purged"] = world.options["purged"].iloc[[0, *range(len(world.options["purged"]))]]


def listed_without_cause(world: World) -> None:
    extra = world.options["purged"].iloc[[0]].assign(item_id=world.ids("train")[0])
    world.options["purged"] = pd.concat([world.options["purged"], extra])


def listed_for_another_reason(world: World) -> None:
    world.options["purged"] = world.options["purged"].assign(reason="embargo")


def timestamp_corrected_after_the_split(world: World) -> None:
    row = world.rows("train")[0]
    world.items.loc[row, "timestamp"] = pd.Timestamp("2026-01-01", tz="UTC")


def boundary_moved(world: World) -> None:
    world.options["held_boundary"] = world.options["boundary"] + pd.Timedelta(days=1)


def boundary_not_the_configured(world: World) -> None:
    world.options["configured_boundary"] = "2024-01-02T03:00:00"


def boundary_from_nowhere(world: World) -> None:
    """The items were split at another day than the rule gives."""
    moved = world.options["boundary"] - pd.Timedelta(days=20)
    world.split_items = splits.split_items(world.items, world.owners, boundary=moved, embargo_days=30)
    world.options |= {
        "boundary": moved,
        "purged": splits.purged(world.split_items, world.items, world.owners),
    }


def boundary_within_a_day(world: World) -> None:
    """Near the quantile, but no whole day; no item lies between."""
    world.options["boundary"] += pd.Timedelta(microseconds=1)


TIME_LEAKS = [
    Plant(train_after_boundary, {"temporal_boundary", "purge_list"}),
    Plant(val_after_boundary, {"temporal_boundary", "purge_list"}),
    Plant(early_item_in_test, {"temporal_boundary", "purge_list"}),
    Plant(train_in_embargo, {"embargo_30_days", "purge_list"}),
    Plant(val_in_embargo, {"embargo_30_days", "purge_list"}),
    Plant(train_at_the_edge_of_the_embargo, {"embargo_30_days", "purge_list"}),
    Plant(val_at_the_boundary, {"temporal_boundary", "purge_list"}),
    Plant(embargo_forgotten, {"embargo_30_days", "purge_list"}),
    Plant(purged_without_cause, {"purge_list"}),
    Plant(purged_for_another_reason, {"purge_list"}),
    Plant(missing_in_the_list, {"purge_list"}),
    Plant(twice_in_the_list, {"purge_list"}),
    Plant(listed_without_cause, {"purge_list"}),
    Plant(listed_for_another_reason, {"purge_list"}),
    Plant(timestamp_corrected_after_the_split, {"temporal_boundary", "purge_list"}),
    Plant(boundary_moved, {"sticky_boundary"}),
    Plant(boundary_not_the_configured, {"sticky_boundary"}),
    Plant(boundary_from_nowhere, {"sticky_boundary"}),
    Plant(boundary_within_a_day, {"sticky_boundary"}),
]


@pytest.mark.parametrize("plant", TIME_LEAKS, ids=name_of)
def test_planted_leaks_in_time(plant):
    world = clean(n_texts=100_000, temporal=True)
    plant.leak(world)
    assert_found(world, world.splits(), plant.fails)


def test_a_kept_and_a_configured_boundary_pass():
    world = clean(n_texts=100_000, temporal=True)
    boundary = world.options["boundary"]
    for held, configured in ((boundary, None), (None, boundary.isoformat()), (boundary, boundary)):
        report = world.splits(held_boundary=held, configured_boundary=configured)
        assert report.ok and verdicts(report)["sticky_boundary"] == "pass"
    with pytest.raises(ValueError, match="needs the boundary"):
        world.splits(boundary=None)


# --- planted leaks in the timeline ------------------------------


def reads_the_future(world: World) -> None:
    """The average of the whole timeline, smoothed from its end."""
    backwards = world.items.assign(
        timestamp=pd.Timestamp("2030-01-01", tz="UTC")
        - (world.items["timestamp"] - world.items["timestamp"].min())
    )
    later = timeline_of(backwards, world.features["lex_valence"])
    world.timeline["ema_valence_smooth"] = later["ema_valence_smooth"]


def counts_the_whole_timeline(world: World) -> None:
    sizes = world.items.groupby("owner_id")["item_id"].transform("size")
    world.timeline["timeline_density"] = sizes.to_numpy(dtype=np.float32)


def sees_other_owners(world: World) -> None:
    together = timeline_of(world.items.assign(owner_id="all"), world.features["lex_valence"])
    world.timeline["variance_7d"] = together["variance_7d"]


def reads_labels(world: World) -> None:
    world.timeline = timeline_of(world.items, world.labels["valence"]["value"])


def feature_of_old_times(world: World) -> None:
    """A corrected timestamp, after which the features were not computed again."""
    world.items.loc[5, "timestamp"] += pd.Timedelta(hours=5)


def one_value_differs(world: World) -> None:
    world.timeline.loc[7, "max_gap_hours"] += 0.01


def value_missing(world: World) -> None:
    world.timeline.loc[7, "week_cos"] = np.nan


def timeline_row_lost(world: World) -> None:
    world.timeline = world.timeline.iloc[1:]


def timeline_row_twice(world: World) -> None:
    world.timeline = pd.concat([world.timeline, world.timeline.iloc[[3]]])


def timeline_row_invented(world: World) -> None:
    world.timeline = pd.concat([world.timeline, world.timeline.iloc[[3]].assign(item_id="ghost")])


def timeline_feature_lost(world: World) -> None:
    world.timeline = world.timeline.drop(columns="volatility_7d")


TIMELINE_LEAKS = [
    Plant(reads_the_future, {"timeline_causal"}),
    Plant(counts_the_whole_timeline, {"timeline_causal"}),
    Plant(sees_other_owners, {"timeline_causal"}),
    Plant(reads_labels, {"timeline_causal"}),
    Plant(feature_of_old_times, {"timeline_causal"}),
    Plant(one_value_differs, {"timeline_causal"}),
    Plant(value_missing, {"timeline_causal"}),
    Plant(timeline_row_lost, {"timeline_rows"}),
    Plant(timeline_row_twice, {"timeline_rows"}),
    Plant(timeline_row_invented, {"timeline_rows"}),
    Plant(timeline_feature_lost, {"timeline_rows"}),
]


@pytest.mark.parametrize("plant", TIMELINE_LEAKS, ids=name_of)
def test_planted_timeline_leaks(plant):
    world = clean()
    plant.leak(world)
    assert_found(world, world.timelines(), plant.fails)


def test_a_long_history_is_sampled_and_the_sample_is_the_same_in_any_order():
    world = clean()
    sizes = world.items.groupby("owner_id").cumcount() + 1
    assert (
        f"of {len(world.items)} of {len(world.items)} items"
        in world.timelines(max_rows=sizes.sum()).checks[1].explanation
    )
    shown = world.timelines(max_rows=200).checks[1].explanation
    n = int(shown.split(" of ")[1])
    assert 20 < n < len(world.items)
    sees_other_owners(world)
    found = world.timelines(max_rows=200).failed[0]
    order = world.items.sample(frac=1, random_state=1).index
    world.items, world.features = world.items.loc[order], world.features.loc[order]
    again = world.timelines(max_rows=200).failed[0]
    assert again == found and 0 < found.count <= n
    assert "of 1 of" in build().timelines(max_rows=1).checks[1].explanation


def test_a_moved_owner_is_caught():
    world = clean()
    held = pd.DataFrame(
        {
            "owner_key": [ledger.owner_key(owner, SALT) for owner in world.owners["owner_id"]],
            "split": world.owners["split"],
            "fold": world.owners["fold"],
        }
    )
    assert world.splits(ledger=held.iloc[:40]).ok
    for column, value, split in (("split", "test", "val"), ("fold", 4, "train")):
        drifted = held.copy()
        row = held.index[(held["split"] == split) & (held["fold"] != 4).fillna(True)][0]
        drifted.loc[row, column] = value
        report = world.splits(ledger=drifted)
        assert failed(report) == {"sticky_owners"}
        assert next(check for check in report.failed).examples == (held.loc[row, "owner_key"],)


def test_shares_of_later_rounds_are_reported_but_not_enforced():
    world = clean(n_texts=100_000)
    held = pd.DataFrame({"owner_key": ["0" * 16], "split": ["test"], "fold": pd.array([None], dtype="Int8")})
    lopsided(world)
    report = world.splits(ledger=held)
    assert report.ok and verdicts(report)["owner_shares"] == "waived"


def test_published_overlap_is_waived_never_passed():
    world = clean(publish=True)
    report = world.splits()
    found = verdicts(report)
    assert report.ok and found["owner_in_two_splits"] == found["embargo_7_days"] == "waived"
    overlap = report.checks[0]
    rows = world.split_items.assign(owner=world.items["owner_id"])
    rows = rows[rows["split"] != splits.EXCLUDED]
    assert overlap.count == (rows.groupby("owner")["split"].nunique() > 1).sum() > 0
    assert report.to_dict()["verdicts"]["fail"] == 0
    assert_private(world, report, "")
    # The waiver is for what the publisher did, and only if the settings allow it.
    assert failed(world.splits(allow_owner_overlap=False)) == {"owner_in_two_splits", "embargo_7_days"}
    row = world.rows("train")[0]
    world.split_items.loc[row, ["split", "fold"]] = ["test", pd.NA]
    assert "owner_in_two_splits" in failed(world.splits())


def test_published_overlap_between_train_and_val_is_not_waived():
    world = clean(publish=True)
    world.split_items.loc[world.rows("train")[0], ["split", "fold"]] = ["val", pd.NA]
    assert "owner_in_two_splits" in failed(world.splits())


# --- planted leaks of a variable ------------------------------


def predicted_in_fold(world: World) -> None:
    """One row was predicted by the model of another fold, which was trained on it."""
    row = world.oof.index[(world.oof["base"] == "eb") & (world.oof["fold_predicted"] == 0)][0]
    world.oof.loc[row, "fold_predicted"] = 1


def trained_on_itself(world: World) -> None:
    item = world.ids("train", 2)[0]
    world.trained_on = pd.concat([world.trained_on, pd.DataFrame({"fold": [2], "item_id": [item]})])


def trained_on_its_owner(world: World) -> None:
    """An item of an owner of the fold that is itself not predicted (its label is missing, say)."""
    rows = world.rows("train", 2)
    owner = world.items.loc[rows, "owner_id"].value_counts().index[0]
    item = world.items.loc[rows[world.items.loc[rows, "owner_id"] == owner], "item_id"].iloc[0]
    world.oof = world.oof[world.oof["item_id"] != item]
    world.labels["valence"] = world.labels["valence"][world.labels["valence"]["item_id"] != item]
    world.records["blend"] = [known for known in world.records["blend"] if known != item]
    world.trained_on = pd.concat([world.trained_on, pd.DataFrame({"fold": [2], "item_id": [item]})])


def unrecorded_model(world: World) -> None:
    world.trained_on = world.trained_on[world.trained_on["fold"] != 3]


def unknown_item_trained_on(world: World) -> None:
    world.trained_on = pd.concat([world.trained_on, pd.DataFrame({"fold": [2], "item_id": ["ghost"]})])


def one_base_leaks(world: World) -> None:
    """With records of each base, the leak of one base is found in that base."""
    world.trained_on = pd.concat(world.trained_on.assign(base=base) for base in BASES)
    item = world.ids("train", 2)[0]
    world.trained_on = pd.concat(
        [world.trained_on, pd.DataFrame({"fold": [2], "item_id": [item], "base": ["tm"]})]
    )


def copies_not_dropped(world: World) -> None:
    """The training rows of each fold are simply all other folds, copies of the fold's texts included."""
    train = world.split_items[world.split_items["split"] == "train"]
    world.trained_on = pd.concat(
        pd.DataFrame({"fold": fold, "item_id": train.loc[train["fold"] != fold, "item_id"]})
        for fold in range(5)
    )


def not_predicted(world: World) -> None:
    world.oof = world.oof.drop(index=world.oof.index[0])
    world.records["blend"] = world.records["blend"][:0]


def base_missing(world: World) -> None:
    world.oof = world.oof[world.oof["base"] != "tm"]


def predicted_twice(world: World) -> None:
    world.oof = pd.concat([world.oof, world.oof.iloc[[0]]])


def held_out_item_predicted(world: World) -> None:
    world.oof = pd.concat([world.oof, world.oof.iloc[[0]].assign(item_id=world.ids("test")[0])])


def label_by_name(world: World) -> None:
    world.features["valence"] = world.features["emb_000"]


def label_of_another_variable_by_name(world: World) -> None:
    world.features["arousal_value"] = world.features["emb_000"]


def annotation_by_name(world: World) -> None:
    world.features["perception_labels.x"] = world.features["emb_000"]


def label_by_value(world: World) -> None:
    world.features["emb_001"] = world.labels["valence"]["value"].astype("float32")


def label_scaled(world: World) -> None:
    world.features["emb_001"] = (4 - 3 * world.labels["valence"]["value"]).astype("float32")


def label_squared(world: World) -> None:
    world.features["emb_001"] = world.labels["valence"]["value"] ** 4


def label_of_another_variable_by_value(world: World) -> None:
    """Known for 70 % of the items only: the rest of the feature is NaN."""
    values = world.labels["arousal"].set_index("item_id")["value"]
    world.features["emb_001"] = world.features["item_id"].map(values)


def label_in_half_of_the_rows(world: World) -> None:
    label_by_value(world)
    world.features.loc[::2, "emb_001"] = np.nan


def core_as_number(world: World) -> None:
    world.features["emb_001"] = world.labels["invoked"]["core"].map({"Sad": 3.0, "Happy": 1.0, "Angry": 2.0})


def blend_on_val(world: World) -> None:
    world.records["blend"] = world.records["blend"] + world.ids("val")[:3]


def calibration_on_train(world: World) -> None:
    world.records["calibration"] = world.ids("train")[:3]


def calibration_on_test(world: World) -> None:
    world.records["calibration"] = world.records["calibration"] + world.ids("test")[:1]


def tuning_on_test(world: World) -> None:
    world.records["tuning"] = world.records["tuning"] + world.ids("test")[:1]


def tuning_on_excluded(world: World) -> None:
    world.records["tuning"] = world.records["tuning"] + world.ids(splits.EXCLUDED)[:1]


def held_out_item_in_a_fold_model(world: World) -> None:
    extra = pd.DataFrame({"fold": [0], "item_id": [world.ids("test")[0]]})
    world.trained_on = pd.concat([world.trained_on, extra])


def evaluation_on_train(world: World) -> None:
    world.records["evaluation"] = world.ids("train")[:2]


def near_copies_not_dropped(world: World) -> None:
    """Of the copies of the fold's texts only the equal ones were dropped."""
    train = world.split_items[world.split_items["split"] == "train"]
    folds = []
    for fold in range(N_FOLDS):
        texts = world.items.loc[train.index, "text"]
        inside = train["fold"] == fold
        rows = train[~inside & ~texts.isin(texts[inside])]
        folds.append(pd.DataFrame({"fold": fold, "item_id": rows["item_id"]}))
    world.trained_on = pd.concat(folds)


def tuned_on_the_fold(world: World) -> None:
    world.records["tuning/fold3"] = world.records["tuning/fold3"] + world.ids("train", 3)[:1]


def tuned_on_an_owner_of_the_fold(world: World) -> None:
    """By an item that is itself in no fold, since its text is in test."""
    fold_of = world.items["owner_id"].map(world.owners.set_index("owner_id")["fold"])
    excluded = world.split_items["split"] == splits.EXCLUDED
    row = world.items.index[excluded & fold_of.notna()][0]
    stage = f"tuning/fold{fold_of[row]}"
    world.records[stage] = [*world.records[stage], world.items.loc[row, "item_id"]]


def projected_from_the_fold(world: World) -> None:
    world.records["projection/fold0"] = world.ids("train")


def projected_from_near_copies(world: World) -> None:
    for fold in range(N_FOLDS):
        owners = set(world.items["owner_id"][world.rows("train", fold)])
        rows = world.rows("train")
        outside = rows[~world.items.loc[rows, "owner_id"].isin(owners)]
        world.records[f"projection/fold{fold}"] = world.items.loc[outside, "item_id"].tolist()


def projected_from_everything(world: World) -> None:
    world.records["projection"] = world.items["item_id"].tolist()


def upstream_of_the_full_model(world: World) -> None:
    """Predictions of the model that was trained on all of train stand where the out-of-fold ones belong."""
    features = world.features.assign(oof_invoked_sad=np.random.default_rng(1).random(len(world.features)))
    world.upstream = {"invoked": features[["item_id", "oof_invoked_sad"]].copy()}
    row = world.rows("train")[4]
    features.loc[row, "oof_invoked_sad"] += 0.01
    world.features = features


def upstream_without_a_record(world: World) -> None:
    upstream_of_the_full_model(world)
    world.features["oof_invoked_sad"] = world.upstream["invoked"]["oof_invoked_sad"]
    item = world.ids("train")[0]
    world.upstream["invoked"] = world.upstream["invoked"][lambda frame: frame["item_id"] != item]


def upstream_not_in_the_graph(world: World) -> None:
    upstream_of_the_full_model(world)
    world.features["oof_invoked_sad"] = world.upstream["invoked"]["oof_invoked_sad"]
    world.upstream["congruence"] = world.upstream.pop("invoked")


VARIABLE_LEAKS = [
    Plant(predicted_in_fold, {"oof_in_fold_prediction", "text_trained_and_predicted"}, UNIQUE),
    Plant(trained_on_itself, {"oof_in_fold_prediction", "text_trained_and_predicted"}, UNIQUE),
    Plant(trained_on_its_owner, {"oof_in_fold_prediction"}, UNIQUE),
    Plant(unrecorded_model, {"oof_in_fold_prediction"}),
    Plant(unknown_item_trained_on, {"oof_in_fold_prediction", "training_on_train_only"}),
    Plant(one_base_leaks, {"oof_in_fold_prediction", "text_trained_and_predicted"}, UNIQUE),
    Plant(copies_not_dropped, {"text_trained_and_predicted"}),
    Plant(near_copies_not_dropped, {"near_text_trained_and_predicted"}, NEAR),
    Plant(not_predicted, {"oof_complete"}),
    Plant(base_missing, {"oof_complete", "blend_on_oof_only"}),
    Plant(predicted_twice, {"oof_complete"}),
    Plant(held_out_item_predicted, {"oof_complete"}),
    Plant(label_by_name, {"label_among_features_by_name"}),
    Plant(label_of_another_variable_by_name, {"label_among_features_by_name"}),
    Plant(annotation_by_name, {"label_among_features_by_name"}),
    Plant(label_by_value, {"label_among_features_by_value"}),
    Plant(label_scaled, {"label_among_features_by_value"}),
    Plant(label_squared, {"label_among_features_by_value"}),
    Plant(label_of_another_variable_by_value, {"label_among_features_by_value"}),
    Plant(label_in_half_of_the_rows, {"label_among_features_by_value"}),
    Plant(core_as_number, {"label_among_features_by_value"}),
    Plant(blend_on_val, {"blend_on_train_only", "blend_on_oof_only"}),
    Plant(calibration_on_train, {"calibration_on_val_only"}),
    Plant(calibration_on_test, {"calibration_on_val_only", "test_untouched"}),
    Plant(tuning_on_test, {"tuning_on_train_only", "test_untouched"}),
    Plant(tuning_on_excluded, {"tuning_on_train_only"}),
    Plant(tuned_on_the_fold, {"learned_inside_training_folds"}),
    Plant(tuned_on_an_owner_of_the_fold, {"learned_inside_training_folds", "tuning_on_train_only"}),
    Plant(projected_from_the_fold, {"learned_inside_training_folds"}),
    Plant(projected_from_near_copies, {"learned_inside_training_folds"}, NEAR),
    Plant(projected_from_everything, {"projection_on_train_only", "test_untouched"}),
    Plant(held_out_item_in_a_fold_model, {"training_on_train_only", "test_untouched"}),
    Plant(evaluation_on_train, {"evaluation_on_test_only"}),
]

UPSTREAM_LEAKS = [
    Plant(upstream_of_the_full_model, {"upstream_out_of_fold"}),
    Plant(upstream_without_a_record, {"upstream_out_of_fold"}),
    Plant(upstream_not_in_the_graph, {"upstream_in_graph"}),
]


@pytest.mark.parametrize("plant", VARIABLE_LEAKS, ids=name_of)
def test_planted_variable_leaks(plant):
    world = clean(**plant.world)
    plant.leak(world)
    assert_found(world, world.variable(), plant.fails)


@pytest.mark.parametrize("plant", UPSTREAM_LEAKS, ids=name_of)
def test_planted_leaks_between_variables(plant):
    world = clean()
    world.labels["willingness"] = world.labels["valence"].assign(
        value=np.random.default_rng(9).random(len(world.items))
    )
    plant.leak(world)
    assert_found(world, world.variable("willingness"), plant.fails)


def test_out_of_fold_predictions_of_another_variable_pass():
    world = clean()
    world.labels["willingness"] = world.labels["valence"].assign(
        value=np.random.default_rng(9).random(len(world.items))
    )
    upstream_of_the_full_model(world)
    train = world.rows("train")
    recorded = world.upstream["invoked"].set_index("item_id")["oof_invoked_sad"]
    # Val and test rows hold what the final model says, which nobody recorded out of fold.
    world.upstream["invoked"] = recorded[world.ids("train")].reset_index()
    world.features.loc[train, "oof_invoked_sad"] = recorded[world.ids("train")].to_numpy(dtype=np.float32)
    report = world.variable("willingness")
    assert report.ok and verdicts(report)["upstream_out_of_fold"] == "pass"


def test_a_leak_of_one_base_is_counted_in_that_base_alone():
    world = clean()
    one_base_leaks(world)
    leaky = next(check for check in world.variable().failed if check.name == "oof_in_fold_prediction")
    world.oof = world.oof[world.oof["base"] != "tm"]
    assert leaky.count >= 1 and "oof_in_fold_prediction" not in failed(world.variable())


def test_the_contracts_features_are_not_taken_for_labels():
    names = [f"emb_{i:03d}" for i in range(384)]
    names += [
        "lex_valence",
        "lex_arousal",
        "joy",
        "sadness",
        "anger",
        "fear",
        "trust",
        "surprise",
        "intensifiers",
        "negations",
    ]
    names += [
        "anchor_happy",
        "anchor_sad",
        "ema_valence_smooth",
        "ema_valence_reactive",
        "variance_7d",
        "hour_sin",
    ]
    names += [
        "len_short",
        "lang_en",
        "profanity_score",
        "word_count",
        "oof_invoked_sad",
        "oof_expressed_angry",
    ]
    world = clean()
    blank = pd.DataFrame(0.0, index=world.features.index, columns=names)
    world.features = pd.concat([world.features[["item_id"]], blank], axis=1)
    assert verdicts(world.variable())["label_among_features_by_name"] == "pass"


def test_few_rows_do_not_look_like_a_label():
    """Three labelled items correlate with anything; that is no leak."""
    world = clean()
    few = world.ids("train")[:2]
    world.labels["arousal"] = pd.DataFrame({"item_id": few, "value": [0.1, 0.9]})
    assert verdicts(world.variable())["label_among_features_by_value"] == "pass"


def test_unknown_stage():
    world = clean()
    world.records["cooking"] = []
    with pytest.raises(ValueError, match="unknown stage 'cooking'"):
        world.variable()


def assert_private(world: World, report: audit.AuditReport, message: str) -> None:
    """No owner, item or text in what is written or logged."""
    said = json.dumps(report.to_dict()) + message
    assert "owner-" not in said and "item-" not in said and "secret diary" not in said
    known = {ledger.owner_key(owner, SALT) for owner in world.items["owner_id"]}
    known |= {ledger.salted_key("item", item, SALT) for item in [*world.items["item_id"], "ghost"]}
    columns = set(world.features.columns) | {f"fold {fold}" for fold in range(N_FOLDS)} | set(splits.SPLITS)
    columns |= {*TEMPORAL, "congruence", str(world.options.get("boundary", "")).replace(" ", "T")}
    for check in report.checks:
        assert len(check.examples) <= 5
        assert set(check.examples) <= known | columns
