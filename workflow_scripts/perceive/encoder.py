"""The sentence encoder: converted to OpenVINO once, and the same IR embeds for training and for serving."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perceive.io import atomic_path, file_sha256, read_json, write_json

if TYPE_CHECKING:
    from openvino import InferRequest

log = logging.getLogger(__name__)

MODEL_FILE, TOKENIZER_FILE, META_FILE = "model.xml", "tokenizer.json", "encoder.json"


def resolve_model(model: str) -> Path:
    """Folder of a sentence-transformers model named by path or by ``package:NAME``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or package; the message names the remedy.
    """
    if model.startswith("package:"):
        name = model.removeprefix("package:")
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"encoder package {name!r} is not installed; run `make env`")
        folder = Path(spec.origin).parent / "model"
    else:
        folder = Path(model).expanduser()
    if not (folder / "modules.json").exists():
        raise FileNotFoundError(
            f"{folder} is no sentence-transformers folder (it has no modules.json); correct encoders.*.model"
        )
    return folder


def _transformer_folder(folder: Path) -> Path:
    """Where the first module of a sentence-transformers model, its transformer, lies."""
    return folder / str(read_json(folder / "modules.json")[0]["path"])


def source_sha256(folder: Path) -> str:
    """Sha256 over all that decides a model's embeddings: weights, vocabulary and settings of every module."""
    kinds = {".json", ".safetensors", ".txt", ".model"}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in kinds)
    rows = [f"{path.relative_to(folder).as_posix()} {file_sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def check_weights(folder: Path, expected: str | None) -> str:
    """Sha256 of the folder's weights, checked against ``expected`` unless that is None.

    Raises
    ------
    FileNotFoundError
        If there are no weights in the safetensors format.
    ValueError
        If the weights are not the expected ones.
    """
    weights = _transformer_folder(folder) / "model.safetensors"
    if not weights.exists():
        raise FileNotFoundError(
            f"{weights} is missing: only weights in the safetensors format are read, since a pickled "
            "model could run code; save the model anew with sentence-transformers"
        )
    found = file_sha256(weights)
    if expected is not None and found != expected:
        raise ValueError(
            f"{weights} has sha256 {found}, but the configuration expects {expected}; "
            "reinstall the model, or correct encoders.*.sha256 if the change is meant"
        )
    return found


def convert(folder: Path, output: Path, *, max_tokens: int, weights_sha256: str) -> None:
    """Convert a sentence-transformers model (transformer, pooling, dense, normalisation) to OpenVINO IR.

    Writes ``model.xml`` and ``.bin`` (fp32; inputs ``input_ids`` and ``attention_mask`` [batch, tokens]
    int64, output ``embedding`` [batch, dimension]), ``tokenizer.json`` and ``encoder.json`` into ``output``.
    """
    import openvino as ov
    import torch
    from sentence_transformers import SentenceTransformer

    source = SentenceTransformer(str(folder), device="cpu").eval()

    class Embed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source = source

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            return self.source(features)["sentence_embedding"]

    example = torch.ones(2, 8, dtype=torch.int64)
    with torch.no_grad():
        model = ov.convert_model(Embed(), example_input={"input_ids": example, "attention_mask": example})
    model.outputs[0].tensor.set_names({"embedding"})
    dimension = int(model.outputs[0].get_partial_shape()[1].get_length())
    output.mkdir(parents=True, exist_ok=True)
    work = output / ".convert.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        ov.save_model(model, work / MODEL_FILE, compress_to_fp16=False)
        for name in ("model.bin", MODEL_FILE):
            (work / name).replace(output / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    # Not the folder's tokenizer.json: sentence-transformers adapts the tokenizer to its own settings.
    with atomic_path(output / TOKENIZER_FILE) as temporary:
        source.tokenizer.backend_tokenizer.save(str(temporary))
    limit = min(max_tokens, int(source.max_seq_length or max_tokens))
    write_json(
        output / META_FILE,
        {
            "dimension": dimension,
            "max_tokens": limit,
            "pad_id": source.tokenizer.pad_token_id or 0,
            "weights_sha256": weights_sha256,
            "source_sha256": source_sha256(folder),
        },
    )


class Encoder:
    """Embeds texts with the IR.

    Parameters
    ----------
    folder : Path
        What `convert` wrote.
    streams : int
        Threads, each on a batch of its own.
    """

    TOKENS_PER_BATCH = 512
    """Padded tokens of a batch: enough for full speed, and small enough that little is padding."""

    TEXTS_PER_BLOCK, CHARACTERS_PER_BLOCK = 2000, 2_000_000
    """Bounds of what is tokenised at once (the tokenizer takes some 35 bytes a character)."""

    def __init__(self, folder: Path, *, streams: int = 2) -> None:
        from tokenizers import Tokenizer

        meta = read_json(folder / META_FILE)
        self.dimension: int = meta["dimension"]
        self.folder = folder
        # Of all that was converted: a dense layer or a vocabulary may change where the weights do not.
        self.fingerprint = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
        self._pad_id: int = meta["pad_id"]
        self._streams = streams
        self._requests: list[InferRequest] = []
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(meta["max_tokens"])

    def _compile(self) -> list[InferRequest]:
        """Compile on first use, in fp32: the plugin's default of bf16 would cost accuracy.

        Two requests a stream, so that the next batch waits while one is computed. Not an AsyncInferQueue:
        its threads hold Python objects and let go of them after ``wait_all``, which ends in a deadlock or an
        abort when the model is freed, or Python ends, at that moment (OpenVINO 2026.4).
        """
        if not self._requests:
            import openvino as ov

            options = {
                "INFERENCE_PRECISION_HINT": "f32",
                "NUM_STREAMS": self._streams,
                "INFERENCE_NUM_THREADS": self._streams,
                # Every process would pin its threads to the same first cores.
                "ENABLE_CPU_PINNING": False,
            }
            model = ov.Core().compile_model(self.folder / MODEL_FILE, "CPU", options)
            self._requests = [model.create_infer_request() for _ in range(2 * self._streams)]
        return self._requests

    def _blocks(self, texts: Sequence[str]) -> Iterator[tuple[int, list[list[int]]]]:
        """First row and token ids of successive blocks of texts."""
        block: list[str] = []
        characters = 0
        for row, text in enumerate(texts, start=1):
            block.append(text)
            characters += len(text)
            if (
                len(block) == self.TEXTS_PER_BLOCK
                or characters >= self.CHARACTERS_PER_BLOCK
                or row == len(texts)
            ):
                yield row - len(block), [code.ids for code in self._tokenizer.encode_batch_fast(block)]
                block, characters = [], 0

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Rows, token ids and mask of successive batches, each of texts of similar length."""
        for first, ids in self._blocks(texts):
            if first:
                log.info("embedded %d of %d texts", first, len(texts))
            # Padding is work thrown away. Longest first, so that the first of a batch is its width.
            order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
            while order:
                width = max(1, len(ids[order[0]]))
                size = max(1, self.TOKENS_PER_BATCH // width)
                rows, order = order[:size], order[size:]
                tokens = np.full((len(rows), width), self._pad_id, dtype=np.int64)
                mask = np.zeros((len(rows), width), dtype=np.int64)
                for line, row in enumerate(rows):
                    tokens[line, : len(ids[row])] = ids[row]
                    mask[line, : len(ids[row])] = 1
                yield [first + row for row in rows], tokens, mask

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts (not from several threads at once).

        Returns
        -------
        ndarray of shape (len(texts), dimension), float32
            Rows in the order of ``texts``; equal texts give equal rows whatever else is in the batch, up to
            float rounding.
        """
        out = np.zeros((len(texts), self.dimension), dtype=np.float32)
        requests = self._compile() if len(texts) else []
        computed: list[list[int]] = [[] for _ in requests]

        def collect(slot: int) -> None:
            if computed[slot]:
                requests[slot].wait()
                out[computed[slot]] = requests[slot].get_output_tensor(0).data
                computed[slot] = []

        try:
            for number, (rows, tokens, mask) in enumerate(self._batches(texts)):
                slot = number % len(requests)
                collect(slot)
                requests[slot].start_async({"input_ids": tokens, "attention_mask": mask})
                computed[slot] = rows
        finally:
            for slot in range(len(requests)):
                collect(slot)
        return out


class EmbeddingCache:
    """Embeddings by content, so that only new texts are embedded, whatever happens to ``results``' artifacts.

    A SQLite file: its transactions survive a killed process. Keys are hashes: no text is stored.

    Parameters
    ----------
    path : Path
        The file; it is created where absent, and begun anew where damaged.
    encoder : Encoder
        Embeds what is missing. Embeddings of another encoder never match: its fingerprint is in the key.
    """

    TIMEOUT_S = 60.0
    """How long to wait for another process's transaction."""

    def __init__(self, path: Path, encoder: Encoder) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._encoder = encoder
        try:
            self._db = self._open(path)
        except sqlite3.OperationalError:
            raise  # locked, or the disk is full: the file itself is sound
        except sqlite3.DatabaseError:
            log.warning("%s is damaged and is begun anew; all texts are embedded again", path)
            # SQLite itself drops a journal that is left beside a new file.
            path.unlink()
            self._db = self._open(path)

    def _open(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=self.TIMEOUT_S)
        try:
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("damaged")
            db.execute("CREATE TABLE IF NOT EXISTS embedding (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
        except BaseException:
            db.close()
            raise
        return db

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(f"{self._encoder.fingerprint}\0{text}".encode()).digest()[:20]

    def embed(self, texts: Sequence[str], *, block: int = 4000) -> tuple[np.ndarray, int]:
        """Embed texts through the cache.

        Returns
        -------
        tuple of (ndarray of shape (len(texts), dimension), int)
            The embeddings, and how many distinct texts had to be embedded.
        """
        out = np.zeros((len(texts), self._encoder.dimension), dtype=np.float32)
        rows: dict[bytes, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(self._key(text), []).append(row)
        missing: list[bytes] = []
        keys = list(rows)
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            found = self._db.execute(f"SELECT key, vector FROM embedding WHERE key IN ({marks})", part)
            known = {key: np.frombuffer(vector, dtype="<f4") for key, vector in found}
            for key in part:
                vector = known.get(key)
                if vector is None or len(vector) != self._encoder.dimension:
                    missing.append(key)
                else:
                    out[rows[key]] = vector
        for start in range(0, len(missing), block):
            part = missing[start : start + block]
            vectors = self._encoder.embed([texts[rows[key][0]] for key in part])
            with self._db:
                self._db.executemany(
                    "INSERT OR REPLACE INTO embedding VALUES (?, ?)",
                    [
                        (key, vector.astype("<f4").tobytes())
                        for key, vector in zip(part, vectors, strict=True)
                    ],
                )
            for key, vector in zip(part, vectors, strict=True):
                out[rows[key]] = vector
            if len(missing) > block:
                log.info("embedded %d of %d new texts", start + len(part), len(missing))
        return out, len(missing)

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class TextTokenizer:
    """The tokenizer of a converted encoder.

    Parameters
    ----------
    folder : Path
        What :func:`convert` wrote.

    Attributes
    ----------
    pad_id : int
    meta : dict
        The contents of ``encoder.json``.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.meta: dict[str, object] = read_json(folder / META_FILE)
        self.pad_id = int(str(self.meta["pad_id"]))
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(int(str(self.meta["max_tokens"])))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut at the encoder's limit; never empty."""
        return [code.ids or [self.pad_id] for code in self._tokenizer.encode_batch_fast(list(texts))]

    def padded(self, ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids and mask, both of shape (texts, longest)."""
        width = max(map(len, ids))
        tokens = np.full((len(ids), width), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(ids), width), dtype=np.int64)
        for row, of_text in enumerate(ids):
            tokens[row, : len(of_text)] = of_text
            mask[row, : len(of_text)] = 1
        return tokens, mask
