"""Putting a bundle together, and proving that it answers as the training pipeline does."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pandas as pd
from numpy.typing import NDArray

from perceive import io
from perceive.encoder import META_FILE, TOKENIZER_FILE, EmbeddingCache, Encoder
from perceive.export import PRECISIONS
from perceive.export.graph import EXACT_CONFIG, save_ir
from perceive.export.report import SAME_PATH
from perceive.features.embedding import anchor_matrix
from perceive.features.lexical import VADER_FILES, vader_folder
from perceive.features.matrix import Projection
from perceive.serving.bundle import REPOSITORY_CONFIG, Bundle, reads_text, write_manifest
from perceive.serving.scorer import Perceiver, is_native
from perceive.variables import CORES

log = logging.getLogger(__name__)


FAST: dict[str, dict[str, str]] = {
    "fp16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "int8": {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32"},
}
"""Options for the graphs that read text, in place of exact arithmetic: about twice as fast where the CPU has
bf16 or int8 products. A bundle has them where its parity holds with them; a scorer drops those that its own
CPU would have to emulate."""


class ParityError(RuntimeError):
    """The bundle does not answer as the training pipeline does."""


def lay_out(
    folder: Path,
    *,
    graphs: Path,
    encoders: Mapping[str, Path],
    lexicons: Path,
    licensed: Mapping[str, Path],
    anchors: Mapping[str, Mapping[str, list[str]]],
    projection: Projection,
    taxonomy: Path | None,
    cache: Path,
) -> dict[str, str]:
    """Copy and compute the files of a bundle, all but its manifest, into an empty folder.

    Parameters
    ----------
    folder : Path
    graphs : Path
        What :func:`perceive.export.serving.save_graphs` wrote.
    encoders : mapping of language to Path
        Folders of the converted encoders.
    lexicons : Path
        The repository's word lists.
    licensed : mapping of feature to Path
        Licensed word lists.
    anchors : mapping
        Language to core to anchor sentences.
    projection : Projection
        Fitted on train.
    taxonomy : Path or None
    cache : Path
        SQLite file of known embeddings.

    Returns
    -------
    dict of str to str
        Feature to the name of its licensed list within ``lexicons/``.
    """
    for path in sorted(graphs.glob("*/1/model.*")):
        target = folder / "models" / path.relative_to(graphs)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    lists = folder / "lexicons"
    shutil.copytree(lexicons, lists)
    for name in VADER_FILES:
        shutil.copyfile(vader_folder() / name, lists / name)
    names = {}
    for feature, path in sorted(licensed.items()):
        names[feature] = f"licensed_{feature}{path.suffix}"
        shutil.copyfile(path, lists / names[feature])
    features = folder / "features"
    features.mkdir()
    for language, of_language in sorted({**{"hinglish": anchors["en"]}, **anchors}.items()):
        encoder = Encoder(encoders.get(language, encoders["en"]), streams=1)
        store = EmbeddingCache(cache, encoder)
        vectors = {core: store.embed(of_language[core])[0] for core in CORES}
        store.close()
        np.save(features / f"anchors.{language}.npy", anchor_matrix(vectors).astype(np.float32))
    for language, matrix in sorted(projection.components.items()):
        np.save(features / f"components.{language}.npy", matrix)
        np.save(features / f"means.{language}.npy", projection.means[language])
    for language, path in sorted(encoders.items()):
        target = folder / "tokenizers" / language
        target.mkdir(parents=True)
        for name in (TOKENIZER_FILE, META_FILE):
            shutil.copyfile(path / name, target / name)
    if taxonomy is not None:
        shutil.copyfile(taxonomy, folder / "taxonomy.tsv")
    return names


def write_repository(folder: Path, options: Mapping[str, Mapping[str, str]]) -> None:
    """Write the configuration by which OpenVINO Model Server serves a bundle's graphs.

    Parameters
    ----------
    folder : Path
    options : mapping
        Of `compile_options`.
    """
    served = sorted(path.name for path in (folder / "models").iterdir())
    entries = [
        {
            "config": {
                "name": name,
                "base_path": f"models/{name}",
                "plugin_config": options.get(name, options["default"]),
            }
        }
        for name in served
    ]
    io.write_json(folder / REPOSITORY_CONFIG, {"model_config_list": entries})


def records(items: pd.DataFrame) -> list[dict[str, Any]]:
    """Items of a corpus as a scorer takes them under the default names of columns."""
    return [
        {
            "item_id": item_id,
            "owner_id": owner_id,
            "text": text,
            "language": language,
            "timestamp": timestamp.isoformat(),
        }
        for item_id, owner_id, text, language, timestamp in items[
            ["item_id", "owner_id", "text", "language", "timestamp"]
        ].itertuples(index=False)
    ]


def differences(
    answers: Sequence[Mapping[str, Any]], expected: Mapping[str, pd.DataFrame]
) -> dict[str, dict[str, float]]:
    """How far a scorer's answers are from the pipeline's.

    Parameters
    ----------
    answers : sequence of mapping
        Of :meth:`perceive.serving.scorer.Perceiver.score`.
    expected : mapping of variable to DataFrame
        ``item_id`` and ``calibrated``; of a hierarchy, the probabilities of its first level as ``p_LABEL``
        and the decoded path in ``calibrated``.

    Returns
    -------
    dict
        For each variable ``rows``, ``rmse``, ``max_abs`` and, of a hierarchy, ``same_path``.
    """
    by_id = {answer["item_id"]: answer for answer in answers}
    found = {}
    for name, frame in expected.items():
        rows = [by_id[item][name] for item in frame["item_id"]]
        labels = [column for column in frame.columns if column.startswith("p_")]
        if labels:
            ours = np.array([[row["core"][label.removeprefix("p_")] for label in labels] for row in rows])
            errors = ours - frame[labels].to_numpy(np.float64)
        else:
            errors = np.array(rows, dtype=np.float64) - frame["calibrated"].to_numpy(np.float64)
        found[name] = {
            "rows": len(rows),
            "rmse": float(np.sqrt(np.mean(errors**2))),
            "max_abs": float(np.abs(errors).max()),
        }
        if labels:
            paths = np.array([row["path"] for row in rows])
            found[name]["same_path"] = float(np.mean(paths == frame["calibrated"].astype(str)))
    return found


def comparable(items: pd.DataFrame, split: pd.Series) -> tuple[pd.DataFrame, set[str], bool]:
    """Items to score for a comparison on the test split.

    Parameters
    ----------
    items : DataFrame
    split : Series
        Of the same rows.

    Returns
    -------
    tuple of (DataFrame, set of str, bool)
        All items of the test split's owners, the test items among them, in the order of time, as a scorer
        gets them (what comes later than its successors is not answered again with it); and whether none of
        these owners trained: the windows of an owner who did hold out-of-fold answers, which a server does
        not give.
    """
    test = items[split == "test"]
    of_owners = items["owner_id"].isin(test["owner_id"].unique())
    apart = not (split[of_owners] == "train").any()
    in_time = items[of_owners].sort_values(["timestamp", "item_id"], ignore_index=True)
    return in_time, set(test["item_id"]), apart


class Proof:
    """How near a bundle's answers on the test split are to the pipeline's own.

    Parameters
    ----------
    items, split
        As for `comparable`; ``items`` with text, language, owner and time.
    expected : mapping of variable to DataFrame
        As for `differences`.
    sequences : sequence of str
        Variables whose network reads a window.
    exact_rmse, small_rmse : float
        Largest RMSE of fp32, and of a smaller precision that is to be proposed.
    """

    def __init__(
        self,
        items: pd.DataFrame,
        split: pd.Series,
        expected: Mapping[str, pd.DataFrame],
        sequences: Sequence[str],
        *,
        exact_rmse: float,
        small_rmse: float,
    ) -> None:
        rows, self._test, apart = comparable(items, split)
        self._records = records(rows)
        self.judged = [name for name in expected if apart or name not in sequences]
        self._expected = {name: frame[frame["item_id"].isin(self._test)] for name, frame in expected.items()}
        self._limits = {precision: small_rmse for precision in PRECISIONS} | {"fp32": exact_rmse}
        self._embeddings: NDArray[np.float32] | None = None

    def of(self, bundle: Bundle, arithmetic: str) -> dict[str, Any]:
        """Score the test split.

        Returns
        -------
        dict
            ``arithmetic`` (as given), whether it ``passes``, the worst ``rmse`` and ``same_path`` of the
            judged variables, for each of ``variables`` what `differences` tells, and ``cosine``: the lowest
            between a sentence's embedding and that of fp32, which must be asked first.
        """
        scorer = Perceiver(bundle, device="CPU")
        own = scorer.graphs["text"]
        parts: list[NDArray[np.float32]] = []

        def text(inputs: Mapping[str, Any]) -> dict[str, Any]:
            found = own(inputs)
            parts.append(found["encoder/embedding"])
            return found

        scorer.graphs["text"] = text
        of_each = differences(scorer.score(self._records), self._expected)
        rmse = max(of_each[name]["rmse"] for name in self.judged)
        same_path = min((of_each[name].get("same_path", 1.0) for name in self.judged), default=1.0)
        embeddings = np.concatenate(parts)
        if self._embeddings is None:
            self._embeddings = embeddings
        products = np.sum(embeddings * self._embeddings, axis=1)
        norms = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(self._embeddings, axis=1)
        log.info(
            "bundle, %s, %s arithmetic: largest RMSE %.1e, %.1f %% of the paths the same",
            bundle.precision, arithmetic, rmse, 100 * same_path,
        )  # fmt: skip
        return {
            "arithmetic": arithmetic,
            "passes": rmse <= self._limits[bundle.precision] and same_path >= SAME_PATH,
            "rmse": rmse,
            "same_path": same_path,
            "cosine": float(np.min(products / norms)),
            "variables": of_each,
        }

    def of_all(self, folder: Path, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """Score with each precision: with fast arithmetic for the texts where this CPU has it and it passes.

        Parameters
        ----------
        folder : Path
            A bundle.
        known : mapping of precision to dict
            Of :meth:`of`, where it was asked before.

        Returns
        -------
        dict
            ``rows``, ``judged``, ``precisions`` (each of :meth:`of`) and the ``smallest`` that passes.

        Raises
        ------
        ParityError
            If fp32 does not pass.
        """
        found = dict(known)
        for precision in PRECISIONS:
            bundle = Bundle.open(folder, precision)
            fast = precision in FAST and is_native(ov.Core(), FAST[precision])
            if fast and precision not in found:
                found[precision] = self.of(bundle.compiled_with(FAST[precision]), "fast")
            if precision not in found or not found[precision]["passes"]:
                found[precision] = self.of(bundle.compiled_with({}), "exact")
        exact = found["fp32"]
        if not exact["passes"]:
            raise ParityError(
                f"the bundle differs from the training pipeline by an RMSE of {exact['rmse']:.1e} on the "
                f"test split (at most {self._limits['fp32']}), {exact['same_path']:.2%} of the paths the same"
            )
        smallest = [precision for precision in PRECISIONS if found[precision]["passes"]][-1]
        return {
            "rows": len(self._test),
            "judged": self.judged,
            "precisions": {precision: found[precision] for precision in PRECISIONS},
            "smallest": smallest,
        }


def quantize_fully(
    folder: Path, content: Mapping[str, Any], proof: Proof, calibration: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Put NNCF's post-training quantisation in place of the int8 graph for the texts, if it passes.

    Its activations are int8, too, which needs a sample of what they are; the graph stays as it was otherwise.

    Parameters
    ----------
    folder : Path
        A bundle.
    content : mapping
        Of its manifest.
    proof : Proof
    calibration : sequence of dict
        Reflections of the train split.

    Returns
    -------
    dict
        ``{"int8": ...}`` of :meth:`Proof.of` where it passes, else nothing.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    exact = Perceiver.load(folder, precision="fp32", device="CPU")
    text, inputs = exact.graphs["text"], []

    def recording(given: Mapping[str, Any]) -> dict[str, Any]:
        inputs.append({name: np.array(value) for name, value in given.items()})
        return text(given)

    exact.graphs["text"] = recording
    for record in calibration:
        exact.score([record])
    with contextlib.redirect_stdout(None):  # its progress bar
        quantized = nncf.quantize(
            ov.Core().read_model(exact.bundle.graph("text")),
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(inputs),
        )
    path = Bundle.open(folder, "int8").graph("text")
    before = {part: part.read_bytes() for part in (path, path.with_suffix(".bin"))}
    save_ir(quantized, path)
    write_manifest(folder, content)
    found = proof.of(Bundle.open(folder, "int8").compiled_with(FAST["int8"]), "full")
    if found["passes"]:
        return {"int8": found}
    for part, data in before.items():
        part.write_bytes(data)
    write_manifest(folder, content)
    return {}


def compile_options(graphs: Iterable[str], parity: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Options to compile the graphs of a bundle with: the fast ones for the texts where they are proven.

    Parameters
    ----------
    graphs : iterable of str
        ``NAME_PRECISION``.
    parity : mapping
        Of :meth:`Proof.of_all`.
    """
    fast = {name for name, of_one in parity["precisions"].items() if of_one["arithmetic"] != "exact"}
    split = [name.rsplit("_", 1) for name in graphs]
    return {
        "default": EXACT_CONFIG,
        **{f"{name}_{one}": FAST[one] for name, one in split if one in fast and reads_text(name)},
    }
