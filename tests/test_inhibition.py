"""The cues of inhibition: their meaning on texts with a known answer, their contract on any string."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import inhibition as script
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive import io
from perceive.features.inhibition import CUES, InhibitionExtractor
from perceive.features.lexical import FEATURES, LANGUAGES, LexicalExtractor

ROOT = Path(__file__).resolve().parents[1]
LEXICONS = ROOT / "resources" / "lexicons"
EXTRACTOR = InhibitionExtractor(LEXICONS)
LEXICAL = LexicalExtractor(LEXICONS)


def cues(text: str, language: str = "en", extractor: InhibitionExtractor = EXTRACTOR) -> dict[str, float]:
    return dict(zip(CUES, extractor.transform([text], [language])[0].tolist(), strict=True))


def lexical(text: str, language: str = "en") -> dict[str, float]:
    return dict(zip(FEATURES, LEXICAL.transform([text], [language])[0].tolist(), strict=True))


# --- shape and robustness ------------------------------------------------------------------------------


def test_columns_are_those_of_the_contract():
    assert CUES == ("hedges", "negations", "emoji_against_words", "sarcasm_marks")
    result = EXTRACTOR.transform(["a", "b"], ["en", "hinglish"])
    assert result.shape == (2, 4) and result.dtype == np.float32
    assert EXTRACTOR.transform([], []).shape == (0, 4)


PARTS = (
    *("maybe", "i", "guess", "yeah", "right", "as", "if", "not", "nahi", "lagta", "hai", "wah", "haan", "so"),
    *("happy", "sad", "khush", "kind of", "thoda", "/s", "#not", "don ' t", "suuure", "mujhe lagta hai"),
    *("🙄", "🙃🙃", "😭", "😊", "🤷🏽‍♀️", "❤️", "❤", "👨‍👩‍👧", "1️⃣", "\u200d", "\ufe0f", "\ufffc", "🏽", "🇮"),
    *('"', "'", "“", "”", '"great"', ",", ".", "!", "…", "।", "\n", "/", "#", "_", "\x00", "नमस्ते", "İ"),
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.lists(st.sampled_from(PARTS), max_size=25).map(" ".join),
    st.lists(st.sampled_from(PARTS), max_size=12).map("".join),
)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(LANGUAGES))
def test_any_string_is_finite_and_within_its_scale(text, language):
    row, of_words = cues(text, language), lexical(text, language)
    assert all(np.isfinite(value) and value >= 0 for value in row.values())
    assert row["emoji_against_words"] <= 1
    assert all(row[name] == int(row[name]) for name in ("hedges", "negations", "sarcasm_marks"))
    assert row["negations"] == of_words["negations"] and row["hedges"] >= of_words["diminishers"]
    if not of_words["emoji_count"]:
        assert row["emoji_against_words"] == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(LANGUAGES)), max_size=8), st.randoms(use_true_random=False))
def test_each_row_is_a_pure_function_of_its_text_and_language(items, random):
    order = list(range(len(items)))
    random.shuffle(order)
    texts, languages = [text for text, _ in items], [language for _, language in items]
    together = EXTRACTOR.transform(texts, languages)
    shuffled = EXTRACTOR.transform([texts[i] for i in order], [languages[i] for i in order])
    np.testing.assert_array_equal(shuffled, together[order])
    for i, (text, language) in enumerate(items):
        np.testing.assert_array_equal(EXTRACTOR.transform([text], [language])[0], together[i])


def test_pandas_columns_with_any_index_are_taken():
    texts = pd.Series(["maybe", "oh great 🙄"], index=[7, 3])
    result = EXTRACTOR.transform(texts, pd.Series(["en", "en"], index=[7, 3]))
    np.testing.assert_array_equal(result, EXTRACTOR.transform(list(texts), ["en", "en"]))


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "as ",
        "haan ",
        "😂",
        "sad 😂 ",
        "👨‍👩‍👧",
        '"',
        '"a ',
        "'ok",
        "/",
        "/s ",
        "#",
        "!",
        "नमस्ते",
        "a_",
        " ' t",
        "\ufe0f",
    ],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_of_100_000_characters_is_no_trap(unit, language):
    start = time.process_time()
    row = cues((unit * 100_000)[:100_000], language)
    assert time.process_time() - start < 5  # a quadratic step takes minutes here
    assert all(np.isfinite(value) for value in row.values())


def test_an_empty_text_and_a_plain_one_have_no_cues():
    for text in ("", " \t\n", "\u2003", "We met at the station and took the train home."):
        assert not any(cues(text).values())
    assert not any(cues("aaj subah hum ghar se nikle aur office gaye", "hinglish").values())


def test_unknown_language_and_unequal_lengths_are_named():
    with pytest.raises(ValueError, match="row 1: language must be one of en, hinglish"):
        EXTRACTOR.transform(["a", "b"], ["en", "fr"])
    with pytest.raises(ValueError, match="2 texts, but 1 languages"):
        EXTRACTOR.transform(["a", "b"], ["en"])


# --- meaning -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language"), [("I'm totally fine 🙃", "en"), ("sab theek hai, yeah right", "hinglish")]
)
def test_a_masked_feeling_leaves_marks(text, language):
    assert lexical(text.replace("🙃", ""), language)["lex_valence"] > 0  # what the words say
    assert cues(text, language)["sarcasm_marks"] == 1
    assert (cues(text, language)["emoji_against_words"] > 0.1) == ("🙃" in text)


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [
        ("en", "Maybe it went well.", 1),
        ("en", "I guess it's kind of okay", 2),
        ("en", "i guess,kinda", 2),
        ("en", "I don't know, I don’t know, I don ' t know, idk", 4),
        ("en", "it's nothing really, no big deal", 2),
        ("en", "could be worse", 1),
        ("en", "It could be worse.", 1),
        ("en", "maaaaybe", 1),
        ("en", "fine 🤷🏽‍♀️🤷🏽‍♀️", 1),
        ("en", "I. Guess.", 0),
        ("en", "whatever happens, call me", 0),
        ("en", "fine, whatever", 1),
        ("en", "shayad", 0),
        ("hinglish", "shayad thoda thak gaya", 2),
        ("hinglish", "mujhe lagta hai theek hai", 1),
        ("hinglish", "Lagta hai sab khatam", 1),
        ("hinglish", "dar lagta hai", 0),
        ("hinglish", "ho sakta hai, pata nahi", 2),
        ("hinglish", "koi baat nahi, maybe kal", 2),
        ("hinglish", "rehne do", 1),
    ],
)
def test_hedges(language, text, count):
    assert cues(text, language)["hedges"] == count


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [("en", "I am not sad, never was", 2), ("en", "I can't", 1), ("hinglish", "main khush nahi hoon", 1)],
)
def test_negations(language, text, count):
    assert cues(text, language)["negations"] == count


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "I am so happy 😭"),
        ("en", "what a terrible day 😊"),
        ("en", "great😡"),
        ("en", "I am not happy 😍"),
        ("hinglish", "bahut udaas hoon 😂"),
        ("hinglish", "main khush hoon 😢"),
    ],
)
def test_emoji_contradict_words(language, text):
    assert cues(text, language)["emoji_against_words"] > 0.2


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "I am so happy 😊"),
        ("en", "what a terrible day 😭"),
        ("en", "at the station 😭"),
        ("en", "😭"),
        ("en", "😊 😭"),
        ("en", "I am so happy"),
        ("en", "happy 🧱"),
        ("en", "I am not sad 😊"),
        ("hinglish", "bahut udaas hoon 😢"),
    ],
)
def test_emoji_that_agree_or_stand_alone_contradict_nothing(language, text):
    assert cues(text, language)["emoji_against_words"] == 0


def test_a_contradiction_is_as_strong_as_its_weaker_side():
    mild, strong = (
        cues("fine 😭")["emoji_against_words"],
        cues("absolutely wonderful 😭😡")["emoji_against_words"],
    )
    assert 0 < mild < strong
    assert mild == pytest.approx(lexical("fine")["lex_valence"])
    assert cues("absolutely wonderful 😭")["emoji_against_words"] == pytest.approx(
        -lexical("😭")["lex_valence"]
    )
    assert cues("fine 😭😭😭 ok")["emoji_against_words"] == cues("fine 😭 ok")["emoji_against_words"]


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [
        ("en", "Yeah right.", 1),
        ("en", "yeah, riiiight", 1),
        ("en", "Yeah. Right there.", 0),
        ("en", "as if", 1),
        ("en", "Finish today? As if!", 1),
        ("en", "as if 🙂", 1),
        ("en", "I felt as if I could fly", 0),
        ("en", "Oh great, another meeting", 1),
        ("en", "oh 🙄 great", 2),
        ("en", "Just what I needed!! Thanks a lot.", 2),
        ("en", "love mondays /s", 1),
        ("en", "love mondays (/S)", 1),
        ("en", "his/s and and/or 3/s", 0),
        ("en", "so fun #sarcasm", 1),
        ("en", "#maybe", 0),
        ("en", "That was fun. Not.", 1),
        ("en", "That was not fun", 0),
        ("en", "🙄🙄🙄 ok 🙃", 2),
        ("en", 'my "friend" forgot me', 1),
        ("en", "some “great news” today, and a 'lovely' day", 2),
        ("en", 'my "enemy" forgot me', 0),
        ("en", 'the "station" is closed', 0),
        ("en", '"Great!" she said, "I am glad to hear of that"', 0),
        ("en", "don't love it, can't enjoy it", 0),
        ("en", "wah", 0),
        ("hinglish", "wah, phir se late", 1),
        ("hinglish", "wah wah kya baat hai", 2),
        ("hinglish", "wah kal aayega", 0),  # the pronoun
        ("hinglish", "badhiya ji", 1),
        ("hinglish", "haan haan bilkul, ho jayega", 1),
        ("hinglish", "oh great, bas yahi baaki tha 🙄", 3),
        ("hinglish", "mera “accha” dost", 1),
    ],
)
def test_sarcasm_marks(language, text, count):
    assert cues(text, language)["sarcasm_marks"] == count


def test_a_licensed_list_moves_the_valence_of_the_words(tmp_path):
    path = tmp_path / "norms.tsv"
    path.write_text("zorble\t4\n", encoding="utf-8")
    extractor = InhibitionExtractor(LEXICONS, {"lex_valence": path})
    for name in ("emoji_against_words", "sarcasm_marks"):
        assert cues('a "zorble" 😭', "en", extractor)[name] > cues('a "zorble" 😭')[name]


# --- the list ------------------------------------------------------------------------------------------


def forms() -> list[tuple[str, str, str]]:
    lines = (LEXICONS / "inhibition.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")][1:]
    return [(language, kind, form) for language, kind, cell in rows for form in cell.split()]


def test_every_form_is_found_once_in_each_language_it_serves():
    column = {"hedge": "hedges", "sarcasm": "sarcasm_marks"}
    assert len(forms()) > 300
    for language, kind, form in forms():
        for used in LANGUAGES if language == "en" else [language]:
            text = f"Ok. {form.strip('.').replace('_', ' ').capitalize()}!"
            row = cues(text, used)
            assert row[column[kind]] == 1, (form, used)
            assert row["hedges"] + row["sarcasm_marks"] == 1, (form, used)


def broken(tmp_path: Path, old: str, new: str) -> Path:
    for path in LEXICONS.glob("*.tsv"):
        text = path.read_text(encoding="utf-8")
        if path.name == "inhibition.tsv":
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("language\tkind\tforms", "language\tforms", r", line \d+: expected the header"),
        ("en\thedge\tmaybe", "en\thedge maybe", r", line \d+: expected 3 tab-separated columns, found 2"),
        ("en\thedge\tmaybe", "fr\thedge\tmaybe", r", line \d+: unknown language or kind"),
        ("en\tsarcasm\tyeah", "en\tirony\tyeah", r", line \d+: unknown language or kind"),
        ("en\thedge\t🤷 🤐", "en\thedge\t ", r", line \d+: no forms"),
        ("\tmaybe ", "\tmaybe maybe ", r", line \d+: form 'maybe' is already on line \d+"),
        ("\tshaayad ", "\tmaybe ", r", line \d+: form 'maybe' is already on line \d+"),
        ("\tmaybe ", "\tMaybe ", r", line \d+: form 'Maybe' would never be found"),
        ("i_dont_know", "i_don't_know", r", line \d+: form \"i_don't_know\" would never be found"),
        ("\tmaybe ", "\tkinda ", r", line \d+: form 'kinda' is or holds a diminisher"),
        ("\tshaayad ", "\tbas_zara_sa ", r", line \d+: form 'bas_zara_sa' is or holds a diminisher"),
    ],
)
def test_a_malformed_list_names_file_and_line(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=rf"inhibition\.tsv{message}"):
        InhibitionExtractor(broken(tmp_path, old, new))


def test_a_missing_or_emptied_list_is_named(tmp_path):
    folder = broken(tmp_path, "", "")
    path = folder / "inhibition.tsv"
    for content in ("", "language\tkind\tforms\n", "language\tkind\tforms\nen\thedge\tmaybe\n"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"inhibition\.tsv: no form for"):
            InhibitionExtractor(folder)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"inhibition\.tsv: not valid UTF-8"):
        InhibitionExtractor(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"inhibition\.tsv: lexicon file is missing"):
        InhibitionExtractor(folder)


# --- the script, and speed -----------------------------------------------------------------------------


def test_the_script_writes_a_row_an_item(tmp_path):
    texts, languages = ["I'm totally fine 🙃", "shayad", "plain"], ["en", "hinglish", "en"]
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "text": texts, "language": languages})
    columns = [tmp_path / f"{name}.parquet" for name in ("text", "language")]
    for path in columns:
        io.write_parquet(path, items[["item_id", path.stem]])
    (tmp_path / "lexical.json").write_text('{"licensed_lexicons": {}}', encoding="utf-8")
    script.main(
        SimpleNamespace(
            input=SimpleNamespace(columns=columns, settings=tmp_path / "lexical.json"),
            output=SimpleNamespace(features=tmp_path / "inhibition.parquet"),
        )
    )
    written = pd.read_parquet(tmp_path / "inhibition.parquet")
    assert list(written) == ["item_id", *CUES] and list(written["item_id"]) == ["a", "b", "c"]
    np.testing.assert_array_equal(written[list(CUES)].to_numpy(), EXTRACTOR.transform(texts, languages))


def test_speed():
    words = ["I", "was", "at", "the", "office", "and", "then", "we", "met", "again", "maybe", "yeah", "right"]
    words += ["happy", "sad", "nahi", "thoda", "bahut", "khush"]
    random = np.random.default_rng(137)
    emoji = ("", "", "", " 🙃")  # every fourth text has one
    texts = [" ".join(random.choice(words, 15)) + f".{emoji[i % 4]}" for i in range(2_000)]
    start = time.process_time()
    EXTRACTOR.transform(texts, ["hinglish"] * len(texts))
    rate = len(texts) / (time.process_time() - start)
    assert rate > 2_000  # 10,000 to 15,000 on an idle core; slack for a busy one
