"""The audit passes on clean splits and predictions, and names the check for each planted leak."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive import audit, ledger, splits

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
    options: dict[str, Any] = field(default_factory=dict)

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
        )

    def rows(self, split: str, fold: int | None = None) -> pd.Index:
        """Rows of a split, in the order of the items."""
        chosen = self.split_items["split"] == split
        if fold is not None:
            chosen &= self.split_items["fold"] == fold
        return self.split_items.index[chosen]

    def ids(self, split: str, fold: int | None = None) -> list[str]:
        return self.split_items.loc[self.rows(split, fold), "item_id"].tolist()


def build(seed: int = 0, n_owners: int = 60, n_texts: int = 400, *, publish: bool = False) -> World:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n_owners), rng.integers(2, 10, n_owners))
    n = len(owner)
    items = pd.DataFrame(
        {
            "item_id": [f"item-{i:04d}" for i in range(n)],
            "owner_id": [f"owner-{o:03d}" for o in owner],
            "text": [f"secret diary entry {k}" for k in rng.integers(0, n_texts, n)],
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
    split_items = splits.split_items(items, owners, salt=SALT, **options)
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
    world = World(items, owners, split_items, oof, trained_on, features, labels, {}, options)
    train = world.ids("train")
    world.records = {
        "training/full": train,
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


@given(st.integers(0, 10_000), st.integers(30, 80), st.sampled_from([300, 2000, 100_000]))
@settings(max_examples=15, deadline=None)
def test_clean_runs_pass(seed, n_owners, n_texts):
    world = build(seed, n_owners, n_texts)
    for report in (world.splits(), world.variable(), world.variable("arousal")):
        assert report.ok, failed(report)
        report.raise_if_failed()


def test_every_check_is_listed_and_json_ready():
    world = build()
    assert list(verdicts(world.splits()).items()) == [
        ("owner_in_two_splits", "pass"),
        ("owner_in_two_folds", "pass"),
        ("text_in_two_splits", "pass"),
        ("text_keys", "pass"),
        ("coverage", "pass"),
        ("embargo_7_days", "pass"),
        ("sticky_owners", "pass"),
        ("splits_not_empty", "pass"),
        ("owner_shares", "pass"),
    ]
    assert verdicts(world.variable()).keys() == {
        "oof_complete",
        "oof_in_fold_prediction",
        "text_trained_and_predicted",
        "label_among_features_by_name",
        "label_among_features_by_value",
        "test_untouched",
        "training_on_train_only",
        "tuning_on_train_only",
        "blend_on_train_only",
        "calibration_on_val_only",
        "evaluation_on_test_only",
        "blend_on_oof_only",
    }
    for report in (world.splits(), world.variable()):
        assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["ok"]
    embargo = next(check for check in world.splits().checks if check.name == "embargo_7_days")
    assert "nothing to purge" in embargo.explanation


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
    world.split_items.loc[row, "text_key"] = splits.text_key(text, SALT)


def duplicate_let_in(world: World) -> None:
    row = world.split_items.index[world.split_items["reason"] == "duplicate_text_in_test"][0]
    state = world.owners.set_index("owner_id").loc[world.items.loc[row, "owner_id"]]
    world.split_items.loc[row, ["split", "fold", "reason"]] = [state["split"], state["fold"], None]


def forged_text_key(world: World) -> None:
    world.split_items.loc[world.rows("train")[0], "text_key"] = "0" * 16


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


SPLIT_LEAKS: list[tuple[Callable[[World], None], set[str]]] = [
    (owner_in_two_splits, {"owner_in_two_splits", "embargo_7_days"}),
    (owner_table_in_two_splits, {"owner_in_two_splits", "embargo_7_days"}),
    (owner_twice_in_the_table, {"owner_in_two_splits", "embargo_7_days"}),
    (owner_in_two_folds, {"owner_in_two_folds"}),
    (owner_table_in_two_folds, {"owner_in_two_folds"}),
    (same_text_in_train_and_test, {"text_in_two_splits"}),
    (duplicate_let_in, {"text_in_two_splits"}),
    (forged_text_key, {"text_keys"}),
    (item_lost, {"coverage"}),
    (item_twice, {"coverage"}),
    (item_invented, {"coverage"}),
    (excluded_without_reason, {"coverage"}),
    (fold_outside_train, {"coverage"}),
    (train_without_fold, {"coverage"}),
    (unknown_split, {"coverage", "owner_in_two_splits", "splits_not_empty", "embargo_7_days"}),
    (rows_shuffled, {"coverage"}),
    (empty_fold, {"splits_not_empty"}),
    (lopsided, {"owner_shares"}),
]


@pytest.mark.parametrize(("plant", "expected"), SPLIT_LEAKS, ids=lambda value: getattr(value, "__name__", ""))
def test_planted_split_leaks(plant, expected):
    world = build(n_texts=100_000 if plant is lopsided else 400)  # no copies where many items move
    plant(world)
    report = world.splits()
    assert failed(report) == expected
    with pytest.raises(audit.LeakError) as error:
        report.raise_if_failed()
    for check in report.failed:
        assert check.count > 0 and check.remedy and check.name in str(error.value)
    assert_private(world, report, str(error.value))


def test_a_moved_owner_is_caught():
    world = build()
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
    world = build(n_texts=100_000)
    held = pd.DataFrame({"owner_key": ["0" * 16], "split": ["test"], "fold": pd.array([None], dtype="Int8")})
    lopsided(world)
    report = world.splits(ledger=held)
    assert report.ok and verdicts(report)["owner_shares"] == "waived"


def test_published_overlap_is_waived_never_passed():
    world = build(publish=True)
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
    world = build(publish=True)
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


VARIABLE_LEAKS: list[tuple[Callable[[World], None], set[str]]] = [
    (predicted_in_fold, {"oof_in_fold_prediction"}),
    (trained_on_itself, {"oof_in_fold_prediction"}),
    (trained_on_its_owner, {"oof_in_fold_prediction"}),
    (unrecorded_model, {"oof_in_fold_prediction"}),
    (unknown_item_trained_on, {"oof_in_fold_prediction", "training_on_train_only"}),
    (one_base_leaks, {"oof_in_fold_prediction"}),
    (copies_not_dropped, {"text_trained_and_predicted"}),
    (not_predicted, {"oof_complete"}),
    (base_missing, {"oof_complete", "blend_on_oof_only"}),
    (predicted_twice, {"oof_complete"}),
    (held_out_item_predicted, {"oof_complete"}),
    (label_by_name, {"label_among_features_by_name"}),
    (label_of_another_variable_by_name, {"label_among_features_by_name"}),
    (annotation_by_name, {"label_among_features_by_name"}),
    (label_by_value, {"label_among_features_by_value"}),
    (label_scaled, {"label_among_features_by_value"}),
    (label_squared, {"label_among_features_by_value"}),
    (label_of_another_variable_by_value, {"label_among_features_by_value"}),
    (label_in_half_of_the_rows, {"label_among_features_by_value"}),
    (core_as_number, {"label_among_features_by_value"}),
    (blend_on_val, {"blend_on_train_only", "blend_on_oof_only"}),
    (calibration_on_train, {"calibration_on_val_only"}),
    (calibration_on_test, {"calibration_on_val_only", "test_untouched"}),
    (tuning_on_test, {"tuning_on_train_only", "test_untouched"}),
    (tuning_on_excluded, {"tuning_on_train_only"}),
    (held_out_item_in_a_fold_model, {"training_on_train_only", "test_untouched"}),
    (evaluation_on_train, {"evaluation_on_test_only"}),
]


@pytest.mark.parametrize(
    ("plant", "expected"), VARIABLE_LEAKS, ids=lambda value: getattr(value, "__name__", "")
)
def test_planted_variable_leaks(plant, expected):
    world = build()
    plant(world)
    report = world.variable()
    assert expected <= failed(report)
    # A planted row may share its text with the fold by chance; nothing else may fail besides.
    assert failed(report) - expected <= {"text_trained_and_predicted"}
    with pytest.raises(audit.LeakError) as error:
        report.raise_if_failed()
    assert_private(world, report, str(error.value))


def test_a_leak_of_one_base_is_counted_in_that_base_alone():
    world = build()
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
    world = build()
    blank = pd.DataFrame(0.0, index=world.features.index, columns=names)
    world.features = pd.concat([world.features[["item_id"]], blank], axis=1)
    assert verdicts(world.variable())["label_among_features_by_name"] == "pass"


def test_few_rows_do_not_look_like_a_label():
    """Three labelled items correlate with anything; that is no leak."""
    world = build()
    few = world.ids("train")[:2]
    world.labels["arousal"] = pd.DataFrame({"item_id": few, "value": [0.1, 0.9]})
    assert verdicts(world.variable())["label_among_features_by_value"] == "pass"


def test_unknown_stage():
    world = build()
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
    for check in report.checks:
        assert len(check.examples) <= 5
        assert set(check.examples) <= known | columns
