"""Token states of the encoder's frozen lower layers, computed once for each text and depth.

A *depth* is a number of layers passed: the states of depth ``d`` enter layer ``d``; depth 0 is the output of
the embeddings. They lie on disk in half precision, in chunks that appear whole or not at all, so that a
killed run goes on where it was and new texts cost only themselves. A chunk is a folder with ``keys.npy``
[texts, 20] (hashes; no text and no token is stored), ``lengths.npy`` [texts] and one ``depth-D.npy``
[tokens, width] for each depth.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from perceive import io
from perceive.encoder import TextTokenizer
from perceive.torch_runs import torch_threads
from perceive.transformer.backbone import Backbone, additive_mask

log = logging.getLogger(__name__)

KEY_BYTES = 20


@dataclass(frozen=True)
class TokenStates:
    """Token states of n texts at one depth, memory-mapped.

    Attributes
    ----------
    depth, width : int
    lengths : ndarray of shape (n,), int32
        Tokens of each text.
    """

    depth: int
    width: int
    lengths: NDArray[np.int32]
    _chunks: Sequence[NDArray[np.float16]]
    _chunk: NDArray[np.int32]
    _start: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """States of some texts.

        Returns
        -------
        tuple of (ndarray of shape (rows, longest, width), ndarray of shape (rows, longest))
            The states, zero at padding, and a mask that is True at tokens.
        """
        lengths = self.lengths[rows]
        longest = int(lengths.max(initial=1))
        states = np.zeros((len(rows), longest, self.width), dtype=np.float16)
        for line, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            start = self._start[row]
            states[line, :length] = self._chunks[self._chunk[row]][start : start + length]
        return states, np.arange(longest) < lengths[:, None]


class StateStore:
    """Token states by content; several processes may share one.

    Parameters
    ----------
    folder : Path
        Where the chunks lie, in a subfolder for each encoder.
    backbone : Backbone
        Computes what is missing.
    tokenizer : TextTokenizer
    threads : int
        Threads of that computation.

    Raises
    ------
    ValueError
        If the tokenizer was converted from another encoder than the backbone.
    """

    TEXTS_PER_CHUNK = 512
    TOKENS_PER_BATCH = 2048
    """Padded tokens that go through the layers at once."""

    def __init__(self, folder: Path, backbone: Backbone, tokenizer: TextTokenizer, *, threads: int) -> None:
        if tokenizer.meta.get("source_sha256") != backbone.sha256:
            raise ValueError(
                "the converted encoder was made from another model than the one to train; "
                "delete the encoder's folder under results/ and run again"
            )
        self._backbone = backbone
        self._tokenizer = tokenizer
        self._threads = threads
        self._salt = f"{backbone.sha256}\0{tokenizer.meta['max_tokens']}"
        self._folder = folder / hashlib.sha256(self._salt.encode()).hexdigest()[:16]

    @property
    def depth(self) -> int:
        """Layers of the encoder: the states of this depth are its output."""
        return len(self._backbone.layers)

    def prepare(self, texts: Sequence[str], depths: Sequence[int]) -> int:
        """Compute the states that are missing.

        Returns
        -------
        int
            How many distinct texts had to be computed.
        """
        wanted = sorted(set(depths))
        if not wanted or wanted[0] < 0 or wanted[-1] > self.depth:
            raise ValueError(f"depths must lie in 0..{self.depth}, not {wanted}")
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            for leftover in self._folder.glob(".*.tmp"):
                shutil.rmtree(leftover)
            known = [set(self._index(depth)[0]) for depth in wanted]
            missing: dict[bytes, str] = {}
            for text in texts:
                key = self._key(text)
                if key not in missing and not all(key in of_depth for of_depth in known):
                    missing[key] = text
            keys = list(missing)
            for start in range(0, len(keys), self.TEXTS_PER_CHUNK):
                part = keys[start : start + self.TEXTS_PER_CHUNK]
                self._write_chunk(part, [missing[key] for key in part], wanted)
                log.info("token states: %d of %d new texts", start + len(part), len(keys))
        return len(missing)

    def states(self, texts: Sequence[str], depth: int) -> TokenStates:
        """The states of texts that :meth:`prepare` has computed, rows as in ``texts``.

        Raises
        ------
        KeyError
            If a text is not there.
        """
        index, chunks = self._index(depth)
        try:
            places = [index[self._key(text)] for text in texts]
        except KeyError:
            raise KeyError(
                f"a text has no states of depth {depth}: prepare the same texts and depths first"
            ) from None
        chunk, start, length = np.array(places, dtype=np.int64).reshape(-1, 3).T
        return TokenStates(
            depth, self._backbone.width, length.astype(np.int32), chunks, chunk.astype(np.int32), start
        )

    def _key(self, text: str) -> bytes:
        content = f"{self._salt}\0{text}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).digest()[:KEY_BYTES]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A lock that vanishes with its process."""
        with open(self._folder / "lock", "ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _index(self, depth: int) -> tuple[dict[bytes, tuple[int, int, int]], list[NDArray[np.float16]]]:
        """Chunk, first token and number of tokens by key; and the chunks."""
        index: dict[bytes, tuple[int, int, int]] = {}
        chunks: list[NDArray[np.float16]] = []
        for folder in sorted(self._folder.glob("chunk-*")):
            path = folder / f"depth-{depth}.npy"
            if not path.exists():
                continue
            try:
                keys, lengths = io.read_npy(folder / "keys.npy"), io.read_npy(folder / "lengths.npy")
                tokens = np.load(path, mmap_mode="r", allow_pickle=False)
                if len(tokens) != lengths.sum() or len(keys) != len(lengths):
                    raise ValueError("its files do not fit each other")
            except (ValueError, EOFError, FileNotFoundError) as error:
                log.warning("%s is damaged and is computed again (%s)", folder, error)
                shutil.rmtree(folder)
                continue
            starts = np.cumsum(lengths, dtype=np.int64) - lengths
            for key, start, length in zip(keys, starts.tolist(), lengths.tolist(), strict=True):
                index.setdefault(key.tobytes(), (len(chunks), start, length))
            chunks.append(tokens)
        return index, chunks

    def _write_chunk(self, keys: Sequence[bytes], texts: Sequence[str], depths: Sequence[int]) -> None:
        lengths, states = self._compute(texts, depths)
        temporary = self._folder / f".{uuid.uuid4().hex}.tmp"
        temporary.mkdir()
        io.write_npy(
            temporary / "keys.npy", np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
        )
        io.write_npy(temporary / "lengths.npy", lengths)
        for depth, of_depth in states.items():
            io.write_npy(temporary / f"depth-{depth}.npy", of_depth)
        # Numbered, so that chunks are read in the order in which they were computed.
        number = 1 + max(
            (int(path.name.partition("-")[2]) for path in self._folder.glob("chunk-*")), default=-1
        )
        os.replace(temporary, self._folder / f"chunk-{number:06d}")

    def _compute(
        self, texts: Sequence[str], depths: Sequence[int]
    ) -> tuple[NDArray[np.int32], dict[int, NDArray[np.float16]]]:
        """Lengths, and states of all tokens by depth, texts in the given order."""
        ids = self._tokenizer.ids(texts)
        lengths = np.array([len(of_text) for of_text in ids], dtype=np.int32)
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        states = {
            depth: np.empty((int(lengths.sum()), self._backbone.width), dtype=np.float16) for depth in depths
        }
        order = np.argsort(-lengths, kind="stable")
        with torch.inference_mode(), torch_threads(self._threads):
            while len(order):
                size = max(1, self.TOKENS_PER_BATCH // int(lengths[order[0]]))
                rows, order = order[:size], order[size:]
                tokens, mask = map(torch.from_numpy, self._tokenizer.padded([ids[row] for row in rows]))
                hidden, attention = self._backbone.embeddings(tokens), additive_mask(mask)
                for depth in range(max(depths) + 1):
                    if depth:
                        hidden = self._backbone.layers[depth - 1](hidden, attention)
                    if depth in states:
                        half = hidden.half().numpy()
                        for line, row in enumerate(rows):
                            first, length = starts[row], lengths[row]
                            states[depth][first : first + length] = half[line, :length]
        return lengths, states
