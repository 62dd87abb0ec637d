"""From reflections to the calibrated answers of all variables, by a bundle alone.

What comes in is in the format of annotations, without labels. An answer is a mapping::

    {"item_id": ..., "owner_id": ..., "valence": 0.71, ...,
     "invoked": {"path": "Sad/Lonely/Isolated", "probability": 0.6, "core": {"Sad": 0.9, ...}},
     "bundle": ID}

where ``probability`` is that of the whole path, and ``core`` has those of the first level, whatever the
taxonomy calls it. A variable that the bundle does not hold is absent. A record that cannot be answered
becomes ``{"item_id": ... or None, "error": {"field", "reason"}, "bundle": ID}``. An owner's earlier items
count: those scored before by the same scorer, or kept in its history file. An item that is older than one
that was scored before is answered by what came before it, and marked ``"late": true``, since its followers
were answered without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from perceive.corpus.drafts import Drafter, Item
from perceive.corpus.records import Record, Rejected, Tally
from perceive.corpus.settings import CorpusSettings
from perceive.corpus.values import identifier
from perceive.encoder import TextTokenizer
from perceive.export.graph import compile_exact
from perceive.features.inhibition import CUES, InhibitionExtractor
from perceive.features.lexical import FEATURES as LEXICAL
from perceive.features.lexical import LexicalExtractor
from perceive.features.matrix import ALL, EMBEDDING_DIMENSION, Projection, context_of
from perceive.features.temporal import temporal_features
from perceive.sequence.windows import GAP, LONGEST, windows
from perceive.serving.bundle import Bundle, BundleError
from perceive.serving.history import Earlier, History

Floats = NDArray[np.float32]
Answer = dict[str, Any]
Ask = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]
"""Outputs by name from inputs by name, as a graph gives them."""

TOKENS_PER_BATCH = 1024
"""Padded tokens of a batch: more pads more, fewer leave the CPU waiting."""
ITEMS_AT_ONCE = 512
"""Items that are answered together at most."""
DEVICES = ("GPU", "NPU", "CPU")
"""Devices in the order of preference."""


def device_of(core: ov.Core, device: str) -> str:
    """What to compile for: AUTO is OpenVINO's own, over the devices that there are, in our order.

    Where there is only a CPU it is named itself, so that options of the CPU hold.
    """
    if device != "AUTO":
        return device
    there = {name.split(".")[0] for name in core.available_devices}
    found = [name for name in DEVICES if name in there]
    return found[0] if len(found) == 1 else "AUTO:" + ",".join(found)


def is_native(core: ov.Core, hints: Mapping[str, str]) -> bool:
    """Whether the CPU has the arithmetic that options to compile a graph ask for.

    OpenVINO obeys on CPUs without it, too: with AVX-512 alone it emulates bf16 and takes forty times as long
    as in float32 (seen with 2026.4), and without AVX-512 it computes in float32 and does not say so.
    """
    wanted = hints.get("INFERENCE_PRECISION_HINT", "f32").upper()
    return wanted == "F32" or wanted in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _Graph:
    """A graph of the bundle, compiled when first asked: for one row apart, which takes half the time."""

    def __init__(
        self, core: ov.Core, bundle: Bundle, name: str, device: str, threads: int | None = None
    ) -> None:
        self._core, self._path, self._device, self._threads = core, bundle.graph(name), device, threads
        hints = bundle.hints(name, device)
        self._hints = hints if is_native(core, hints) else bundle.compiled_with({}).hints(name, device)
        self._requests: dict[bool, ov.InferRequest] = {}

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        single = len(next(iter(inputs.values()))) == 1
        request = self._requests.get(single)
        if request is None:
            compiled = compile_exact(
                self._core,
                self._path,
                self._device,
                batch=1 if single else None,
                threads=self._threads,
                hints=self._hints,
            )
            request = self._requests[single] = compiled.create_infer_request()
        # The arrays outlive the next call, so they are copied.
        found = request.infer(dict(inputs), share_inputs=True)
        return {port.get_any_name(): np.array(value) for port, value in found.items()}


class Perceiver:
    """A loaded bundle.

    Parameters
    ----------
    bundle : Bundle
    history : str or Path, optional
        SQLite file of what was scored before, kept up to date; by default it is forgotten with the scorer.
    device : str
        AUTO, or a device of OpenVINO's.
    threads : int, optional
        CPU threads of the encoder; by default all.
    graphs : callable, optional
        What answers instead of the bundle's graphs, by their names (a reference to measure against).
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        history: str | Path | None = None,
        device: str = "AUTO",
        threads: int | None = None,
        graphs: Callable[[str], Ask] | None = None,
    ) -> None:
        self.bundle = bundle
        manifest = bundle.manifest
        core = ov.Core()
        chosen = device_of(core, device)
        self.device = chosen

        self.graphs: dict[str, Ask] = {}
        """What answers, by the graphs' names."""

        def graph(name: str, threads: int | None = None) -> None:
            self.graphs[name] = graphs(name) if graphs else _Graph(core, bundle, name, chosen, threads)

        self._text_of: dict[str, Any] = manifest["text"]
        self._encoders: dict[str, str] = manifest["encoders"]
        self._tokenizers = {
            language: TextTokenizer(bundle.folder / "tokenizers" / language)
            for language in {self._text_of["encoder"], *self._encoders}
        }
        for name in {"text", *self._encoders.values()}:
            graph(name, threads or os.cpu_count())
        self._stages: list[dict[str, Any]] = manifest["stages"]
        for stage in self._stages:
            for name in (stage["heads"], *(gru["graph"] for gru in stage["grus"].values())):
                graph(name)
        self._variables: dict[str, dict[str, Any]] = manifest["variables"]
        self._columns: list[str] = manifest["columns"]
        self._steps: list[str] = [*ALL, *manifest["answers"]]
        self._step_index = {name: place for place, name in enumerate(self._steps)}
        lexicons = bundle.folder / "lexicons"
        licensed = {name: lexicons / file for name, file in manifest["licensed_lexicons"].items()}
        self._lexical = LexicalExtractor(lexicons, licensed)
        self._inhibition = InhibitionExtractor(lexicons, licensed, self._lexical)
        self._anchors = self._arrays("anchors")
        self._projection = Projection(self._arrays("components"), self._arrays("means"))
        self.history = History(history, bundle.id, len(self._steps))
        settings = CorpusSettings.model_validate(manifest["input"])
        self._drafter = Drafter(settings, bundle.folder, None, Tally())
        # What else a record holds, labels among it, is none of the scorer's business.
        self._read = set(self._drafter.column.values())
        if settings.order is not None:
            self._read.add(settings.order.column)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        history: str | Path | None = None,
        precision: str | None = None,
        device: str = "AUTO",
        threads: int | None = None,
    ) -> Perceiver:
        """Open a bundle and check it.

        Raises
        ------
        perceive.serving.bundle.BundleError
            If it is no bundle, or not as it was built.
        perceive.serving.history.HistoryError
            If the history is of another bundle.
        """
        return cls(Bundle.open(folder, precision), history=history, device=device, threads=threads)

    def _arrays(self, kind: str) -> dict[str, Floats]:
        folder = self.bundle.folder / "features"
        return {
            path.name.split(".")[1]: np.load(path, allow_pickle=False)
            for path in sorted(folder.glob(f"{kind}.*.npy"))
        }

    # ---- records

    def score(self, records: Iterable[Record | Rejected | None]) -> list[Answer]:
        """Answer some records, one answer for each, in their order.

        Parameters
        ----------
        records : iterable of mappings
            In the input format of the bundle; a `Rejected` or None (a blank line) is answered as an error.
        """
        answers: list[Answer | None] = []
        waiting: list[tuple[int, Item]] = []
        seen: set[tuple[str, str]] = set()

        def flush() -> None:
            of_items = self._answer([item for _, item in waiting])
            for (place, _), answer in zip(waiting, of_items, strict=True):
                answers[place] = answer
            waiting.clear()
            seen.clear()

        for record in records:
            parsed = self._parsed(record, flush)
            answers.append(parsed if isinstance(parsed, dict) else None)
            if isinstance(parsed, Item):
                key = (parsed.owner_id, parsed.item_id)
                # The same item twice is answered twice, one after the other.
                if key in seen or len(waiting) >= ITEMS_AT_ONCE:
                    flush()
                waiting.append((len(answers) - 1, parsed))
                seen.add(key)
        if waiting:
            flush()
        return [answer for answer in answers if answer is not None]

    def _parsed(self, record: Record | Rejected | None, flush: Callable[[], None]) -> Item | Answer:
        item_id = None
        try:
            if record is None:
                raise Rejected("line", "blank")
            if isinstance(record, Rejected):
                raise record
            known = {name: value for name, value in record.items() if name in self._read}
            item_id = self._drafter.reject_id(known)
            draft = self._drafter.draft(known, False, 0)
            item_id = draft.item_id
            if draft.withdrawn:
                owner = known.get(self._drafter.column["owner_id"])
                if owner is not None:
                    # What came before the withdrawal is answered as it was then.
                    flush()
                    self.history.remove(identifier("owner_id", owner), draft.item_id)
                raise Rejected("withdrawn", "withdrawn items are not scored")
            return self._drafter.complete(draft)
        except Rejected as rejected:
            return {
                "item_id": item_id,
                "error": {"field": rejected.where, "reason": rejected.reason},
                "bundle": self.bundle.id,
            }

    # ---- items

    def _answer(self, items: Sequence[Item]) -> list[Answer]:
        if not items:
            return []
        texts = [item.text for item in items]
        languages = [item.language for item in items]
        lexical = self._lexical.transform(texts, languages)
        cues = self._inhibition.transform(texts, languages, lexical)
        words = dict(zip((*CUES, *LEXICAL), np.hstack([cues, lexical]).T, strict=True))
        embedding, networks = self._read_texts(texts, languages, words)
        context = context_of([item.length_bucket for item in items], languages, lexical)

        past, late = self._past(items)
        valence = lexical[:, LEXICAL.index("lex_valence")]
        owners = [*(owner for owner, _ in past), *(item.owner_id for item in items)]
        times = np.array([*(one.time for _, one in past), *(item.timestamp for item in items)])
        times = times.astype("datetime64[us]")
        ids = [*(one.item_id for _, one in past), *(item.item_id for item in items)]
        moods = np.concatenate([[one.valence for _, one in past], valence.astype(np.float64)])
        temporal = temporal_features(owners, times, moods, item_ids=ids)[len(past) :]
        features = np.column_stack([lexical, embedding, temporal]).astype(np.float32)

        steps = np.zeros((len(items), len(self._steps)), dtype=np.float32)
        steps[:, : len(ALL)] = features
        found: dict[str, Floats] = {}
        table = dict(zip(ALL, features.T, strict=True)) | words
        matrix = np.column_stack([table[name] for name in self._columns]).astype(np.float32)
        sequences = _Sequences(self, past, owners, times, ids, steps)
        for stage in self._stages:
            for name, gru in stage["grus"].items():
                networks[name] = sequences.ask(self.graphs[gru["graph"]], gru["columns"], gru["length"])
            inputs = {"features": matrix, "context": context}
            if stage["upstream"]:
                inputs["upstream"] = np.ascontiguousarray(
                    steps[:, [self._step_index[name] for name in stage["upstream"]]]
                )
            inputs |= {f"{name}/network": networks[name] for name in stage["variables"]}
            found |= self.graphs[stage["heads"]](inputs)
            for name in stage["variables"]:
                for place, column in enumerate(self._variables[name]["answers"]):
                    steps[:, self._step_index[column]] = found[f"{name}/raw"][:, place]
        self.history.add(
            (item.owner_id, item.item_id, item.timestamp, float(mood), step)
            for item, mood, step in zip(items, valence, steps, strict=True)
        )
        return [
            {
                "item_id": item.item_id,
                "owner_id": item.owner_id,
                **{name: self._shown(name, found, row) for name in self._variables},
                **({"late": True} if late[row] else {}),
                "bundle": self.bundle.id,
            }
            for row, item in enumerate(items)
        ]

    def _shown(self, name: str, found: Mapping[str, NDArray[Any]], row: int) -> Any:
        about = self._variables[name]
        if about["kind"] != "hierarchy":
            return float(found[f"{name}/calibrated"][row, 0])
        p, codes = found[f"{name}/p"][row], found[f"{name}/path"][row]
        levels: list[list[str]] = about["labels"]
        return {
            "path": "/".join(labels[code] for labels, code in zip(levels, codes, strict=True)),
            "probability": float(p[sum(map(len, levels[:-1])) + codes[-1]]),
            "core": dict(zip(levels[0], map(float, p[: len(levels[0])]), strict=True)),
        }

    def _read_texts(
        self, texts: Sequence[str], languages: Sequence[str], words: Mapping[str, Floats]
    ) -> tuple[Floats, dict[str, Floats]]:
        """Embedding features [n, 390], and what each transformer answers."""
        networks: dict[str, dict[str, Any]] = self._text_of["networks"]
        extras = {
            of_one["input"]: np.column_stack([words[name] for name in of_one["extra"]])
            for of_one in networks.values()
            if of_one["extra"]
        }
        main = self._text_of["encoder"]
        found = self._in_batches(self.graphs["text"], self._tokenizers[main], texts, extras)
        raw = {main: found["encoder/embedding"]}
        served_by = np.array([name if name in self._encoders else "en" for name in languages], dtype=object)
        for language in (one for one in self._encoders if one != main):
            rows = np.flatnonzero(served_by == language)
            if len(rows):
                of_rows = self._in_batches(
                    self.graphs[self._encoders[language]],
                    self._tokenizers[language],
                    [texts[row] for row in rows.tolist()],
                    {},
                )["embedding"]
                raw[language] = np.zeros((len(texts), of_rows.shape[1]), dtype=np.float32)
                raw[language][rows] = of_rows
        width = max(EMBEDDING_DIMENSION, *(values.shape[1] for values in raw.values()))
        embedding = np.full((len(texts), width), np.nan, dtype=np.float32)
        similarity = np.zeros((len(texts), len(next(iter(self._anchors.values())))), dtype=np.float32)
        spoken = np.array(languages, dtype=object)
        for language in sorted(set(languages)):
            rows = np.flatnonzero(spoken == language)
            vectors = raw[served_by[rows[0]]][rows]
            embedding[rows, : vectors.shape[1]] = vectors
            norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            similarity[rows] = vectors / norms @ self._anchors[language].T
        features = np.hstack([self._projection.transform(embedding, languages), similarity])
        answers = {
            name: np.concatenate([found[output] for output in of_one["outputs"]], axis=1)
            for name, of_one in networks.items()
        }
        return features, answers

    @staticmethod
    def _in_batches(
        graph: Ask, tokenizer: TextTokenizer, texts: Sequence[str], others: Mapping[str, Floats]
    ) -> dict[str, Floats]:
        """Outputs of a graph for all texts, computed in batches of similar length."""
        ids = tokenizer.ids(texts)
        order = np.argsort([-len(of_text) for of_text in ids], kind="stable")
        result: dict[str, Floats] = {}
        first = 0
        while first < len(order):
            rows = order[first : first + max(1, TOKENS_PER_BATCH // len(ids[order[first]]))]
            first += len(rows)
            of_rows = {name: np.ascontiguousarray(values[rows]) for name, values in others.items()}
            tokens, mask = tokenizer.padded([ids[row] for row in rows])
            found = graph({"input_ids": tokens, "attention_mask": mask, **of_rows})
            for name, values in found.items():
                if name not in result:
                    result[name] = np.zeros((len(texts), *values.shape[1:]), dtype=values.dtype)
                result[name][rows] = values
        return result

    def _past(self, items: Sequence[Item]) -> tuple[list[tuple[str, Earlier]], NDArray[np.bool_]]:
        """Earlier items of all owners, and which items come after newer ones were scored."""
        of_owner: dict[str, set[str]] = {}
        for item in items:
            of_owner.setdefault(item.owner_id, set()).add(item.item_id)
        known = {owner: self.history.earlier(owner, ids) for owner, ids in of_owner.items()}
        newest = {owner: past[-1] for owner, past in known.items() if past}
        late = np.array(
            [
                item.owner_id in newest
                and (newest[item.owner_id].time, newest[item.owner_id].item_id)
                > (item.timestamp, item.item_id)
                for item in items
            ]
        )
        return [(owner, one) for owner, past in known.items() for one in past], late


class _Sequences:
    """Windows over what was scored before and what is scored now."""

    def __init__(
        self,
        perceiver: Perceiver,
        past: Sequence[tuple[str, Earlier]],
        owners: Sequence[str],
        times: NDArray[np.datetime64],
        ids: Sequence[str],
        steps: Floats,
    ) -> None:
        self._perceiver, self._past, self._steps = perceiver, past, steps
        self._timeline = (owners, times, ids)
        self._known: tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats] | None = None

    def _windows(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
        """Rows of each window in (past that is read, now), -1 beyond; lengths; the past's vectors; gaps."""
        if self._known is None:
            owners, times, ids = self._timeline
            found, gaps = windows(owners, times, item_ids=list(ids), longest=LONGEST)
            n_past = len(self._past)
            rows = found.rows[n_past:].astype(np.int64)
            needed = np.unique(rows[(rows >= 0) & (rows < n_past)])
            place = np.full(n_past + len(self._steps) + 1, -1, dtype=np.int64)
            place[needed] = np.arange(len(needed))
            place[n_past:-1] = len(needed) + np.arange(len(self._steps))
            keys = [(self._past[row][0], self._past[row][1].item_id) for row in needed.tolist()]
            vectors = self._perceiver.history.vectors(keys)
            kept = np.concatenate([gaps[needed], gaps[n_past:]])
            self._known = place[rows], found.lengths[n_past:], vectors, kept
        return self._known

    def ask(self, graph: Ask, columns: Sequence[str], length: int) -> Floats:
        """A GRU's answers [n, 1]."""
        rows, lengths, vectors, gaps = self._windows()
        read = [self._perceiver._step_index[name] for name in columns if name != GAP]
        if columns[-1] != GAP:
            raise BundleError(f"the GRU's last column is {columns[-1]}, not {GAP}; build the bundle again")
        matrix = np.column_stack([np.concatenate([vectors, self._steps])[:, read], gaps]).astype(np.float32)
        counted = np.minimum(lengths, length)
        places = np.arange(int(counted.max()))[None, :]
        inside = places < counted[:, None]
        at = np.minimum((lengths - counted)[:, None] + places, rows.shape[1] - 1)
        taken = np.take_along_axis(rows, at, axis=1)
        sequence = matrix[np.where(inside, taken, 0)]
        sequence[~inside] = 0.0
        return graph({"sequence": sequence, "lengths": counted})["gru/scale"]
