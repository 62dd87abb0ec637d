"""Training on cached token states, and prediction from them.

The same examples, rows, seed, threads and machine give the same weights. On a CPU with bf16 arithmetic, and
on a GPU, the layers compute in bf16 (autocast); means, head, loss and weights stay in float32.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from perceive.torch_runs import reproducible, torch_threads
from perceive.transformer.backbone import Backbone
from perceive.transformer.losses import HierarchyLoss, ScalesLoss, class_weights
from perceive.transformer.model import Hierarchy, Output, Shape, TopTransformer
from perceive.transformer.states import TokenStates

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]

BATCHES_PER_BUCKET = 20
"""Batches whose rows are sorted by length together: little padding, and still mixed."""
TOKENS_PER_BATCH = 2048
"""Padded tokens of a batch at most; bounds the memory of long texts."""
ATTENTION_DROPOUT = ("attention.self.dropout", "attention.dropout")
"""Ends of the names of the modules that drop attention weights (BERT and its kin, DistilBERT)."""


@dataclass(frozen=True)
class Hyperparameters:
    """How a model is trained.

    Attributes
    ----------
    top_layers : int
        Layers that are trained, 0 to all.
    learning_rate : float
        Of the topmost layer, at its peak.
    layer_decay : float
        Each layer learns at this share of the rate of the layer above it.
    head_factor : float
        Rate of the head by that of the topmost layer.
    dropout : float
        Of the states in the trained layers, and before the head.
    epochs : int
    warmup : float
        Share of the steps in which the rates rise; then they fall to zero, linearly.
    gamma : float
        Of the focal loss; 0 is cross entropy. (Hierarchies only, as are the next three.)
    level_ratio : float
        Weight of a level in the loss by that of the level above.
    class_power, class_bound : float
        See :func:`perceive.transformer.losses.class_weights`.
    batch_rows : int
    weight_decay : float
        Of the weight matrices.
    """

    top_layers: int = 1
    learning_rate: float = 4e-4
    layer_decay: float = 0.8
    head_factor: float = 20.0
    dropout: float = 0.3
    epochs: int = 8
    warmup: float = 0.1
    gamma: float = 2.0
    level_ratio: float = 0.7
    class_power: float = 0.5
    class_bound: float = 4.0
    batch_rows: int = 32
    weight_decay: float = 0.01


Precision = Literal["auto", "bf16", "f32"]


@dataclass(frozen=True)
class Machine:
    """Where and how to compute.

    Attributes
    ----------
    threads : int
        CPU threads.
    precision : 'auto', 'bf16' or 'f32'
        auto: bf16 where the hardware has it.
    device : str
        auto: CUDA where there is one.
    """

    threads: int
    precision: Precision = "auto"
    device: str = "auto"

    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def bf16(self) -> bool:
        """Whether the layers compute in bf16."""
        if self.precision != "auto":
            return self.precision == "bf16"
        if self.torch_device().type == "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@dataclass(frozen=True)
class Examples:
    """What models learn from; all rows agree.

    Attributes
    ----------
    states : callable
        Depth to the token states of all rows (for example ``partial(store.states, texts)``).
    depth : int
        Layers of the encoder.
    targets : sequence of ndarray
        A hierarchy: one array per level, shape (n, labels), rows of zeros where nothing is known
        (:func:`perceive.transformer.losses.one_hot`; shares, where annotators differ). Scales: one array of
        shape (n, scales), NaN where a label lacks.
    output : Hierarchy or Scales
    extra : ndarray of shape (n, extra inputs), float32
    extra_names : tuple of str
    """

    states: Callable[[int], TokenStates]
    depth: int
    targets: Sequence[NDArray[np.float32]]
    output: Output
    extra: NDArray[np.float32]
    extra_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shapes = [target.shape for target in self.targets]
        expected = [(len(self.extra), size) for size in self.output.sizes]
        if shapes != expected:
            raise ValueError(f"the targets have the shapes {shapes}, not {expected}")
        if self.extra.shape[1] != len(self.extra_names):
            raise ValueError(f"{self.extra.shape[1]} extra inputs have {len(self.extra_names)} names")
        if not np.isfinite(self.extra).all():
            raise ValueError("an extra input is not finite; build the features again")

    def labelled(self) -> NDArray[np.bool_]:
        """Rows with any label, shape (n,)."""
        first = self.targets[0]
        known = first > 0 if isinstance(self.output, Hierarchy) else ~np.isnan(first)
        return np.asarray(known.any(axis=1))


def fit(
    examples: Examples,
    rows: Rows,
    backbone: Backbone,
    parameters: Hyperparameters,
    machine: Machine,
    *,
    seed: int,
    on_epoch: Callable[[int, float], bool] | None = None,
) -> TopTransformer:
    """Train a model.

    AdamW (Loshchilov and Hutter, ICLR 2019) with layer-wise decay of the learning rate (Howard and Ruder,
    ACL 2018), linear warm-up and linear decay.

    Parameters
    ----------
    examples : Examples
    rows : ndarray of int
        The rows to learn from; those without a label are left out. Extra inputs and scales are standardised
        on these rows.
    backbone : Backbone
    parameters : Hyperparameters
    machine : Machine
    seed : int
    on_epoch : callable, optional
        Called after each epoch with its number (from 1) and mean loss; true stops the training.

    Raises
    ------
    ValueError
        If no row has a label.
    """
    rows = rows[examples.labelled()[rows]]
    if not len(rows):
        raise ValueError(
            "no labelled training rows: at least one owner with labels must lie in the training part"
        )
    device, bf16 = machine.torch_device(), machine.bf16()
    states = examples.states(examples.depth - parameters.top_layers)
    rng = np.random.default_rng(seed)
    with reproducible(seed, machine.threads):
        model = _new_model(examples, rows, backbone, parameters).to(device)
        loss_of = _loss(examples, rows, model, parameters, device)
        batches = [
            _batches(states.lengths[rows], parameters.batch_rows, rng) for _ in range(parameters.epochs)
        ]
        optimizer, schedule = _optimizer(model, parameters, steps=sum(map(len, batches)))
        for epoch, of_epoch in enumerate(batches, start=1):
            started = time.monotonic()
            model.train()
            # Summed where it is computed: reading it at every step would make a GPU wait.
            total = torch.zeros((), device=device)
            for places in of_epoch:
                batch = rows[places]
                features = _features(model, states, examples.extra, batch, device, bf16)
                targets = [torch.from_numpy(target[batch]).to(device) for target in examples.targets]
                loss = loss_of(model.head(features), targets)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += loss.detach() * len(batch)
            mean = float(total) / len(rows)
            log.info(
                "epoch %d of %d: loss %.4f (%d rows, %.1f s)",
                epoch,
                parameters.epochs,
                mean,
                len(rows),
                time.monotonic() - started,
            )
            model.eval()
            if on_epoch is not None and on_epoch(epoch, mean):
                break
    return model.to("cpu").eval()


def predict(
    model: TopTransformer, examples: Examples, rows: Rows, machine: Machine
) -> list[NDArray[np.float32]]:
    """The model's answers for some rows.

    Returns
    -------
    list of ndarray, float32
        A hierarchy: joint probabilities, one array per level, shape (rows, labels). Scales: one array of
        shape (rows, scales), in 0..1.
    """
    device, bf16 = machine.torch_device(), machine.bf16()
    states = examples.states(examples.depth - model.shape.top_layers)
    result = [np.zeros((len(rows), size), dtype=np.float32) for size in model.shape.output.sizes]
    order = np.argsort(-states.lengths[rows], kind="stable")
    model = model.to(device).eval()
    with torch.inference_mode(), torch_threads(machine.threads):
        while len(order):
            size = max(1, TOKENS_PER_BATCH // int(states.lengths[rows[order[0]]]))
            places, order = order[:size], order[size:]
            features = _features(model, states, examples.extra, rows[places], device, bf16)
            for level, answer in enumerate(model.head.answer(features)):
                result[level][places] = answer.cpu().numpy()
    model.to("cpu")
    return result


def _features(
    model: TopTransformer,
    states: TokenStates,
    extra: NDArray[np.float32],
    rows: Rows,
    device: torch.device,
    bf16: bool,
) -> torch.Tensor:
    of_tokens, mask = states.batch(rows)
    hidden = torch.from_numpy(of_tokens).to(device).float()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        return model.features(
            hidden, torch.from_numpy(mask).to(device), torch.from_numpy(extra[rows]).to(device)
        )


def _new_model(
    examples: Examples, rows: Rows, backbone: Backbone, parameters: Hyperparameters
) -> TopTransformer:
    shape = Shape(examples.output, parameters.top_layers, backbone.width, examples.extra_names)
    model = TopTransformer(shape, backbone)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            # Not on the attention weights: drawing a number for each pair of tokens took a tenth of a step.
            module.p = 0.0 if name.endswith(ATTENTION_DROPOUT) else parameters.dropout
    model.get_buffer("extra_mean").copy_(torch.from_numpy(examples.extra[rows].mean(axis=0)))
    deviation = examples.extra[rows].std(axis=0)
    model.get_buffer("extra_deviation").copy_(torch.from_numpy(np.where(deviation > 0, deviation, 1)))
    return model


def _loss(
    examples: Examples, rows: Rows, model: TopTransformer, parameters: Hyperparameters, device: torch.device
) -> HierarchyLoss | ScalesLoss:
    targets = [target[rows] for target in examples.targets]
    if isinstance(examples.output, Hierarchy):
        weights = class_weights(targets, power=parameters.class_power, bound=parameters.class_bound)
        level_weights = [parameters.level_ratio**level for level in range(len(targets))]
        return HierarchyLoss(weights, level_weights, parameters.gamma, device)
    known = ~np.isnan(targets[0])
    lacking = [
        name for name, of_scale in zip(examples.output.names, known.T, strict=True) if not of_scale.any()
    ]
    if lacking:
        raise ValueError(f"no training row has a label of {', '.join(lacking)}; label some, or leave it out")
    deviation = np.nanstd(targets[0], axis=0)
    mean, deviation = np.nanmean(targets[0], axis=0), np.where(deviation > 0, deviation, 1)
    model.head.get_buffer("mean").copy_(torch.from_numpy(mean))
    model.head.get_buffer("deviation").copy_(torch.from_numpy(deviation))
    return ScalesLoss(model.head.get_buffer("mean"), model.head.get_buffer("deviation"))


def _optimizer(
    model: TopTransformer, parameters: Hyperparameters, *, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    groups = []
    rate = parameters.learning_rate
    modules: list[torch.nn.Module] = list(model.layers)
    for module, module_rate in [
        (model.head, rate * parameters.head_factor),
        *((layer, rate * parameters.layer_decay**below) for below, layer in enumerate(reversed(modules))),
    ]:
        # Biases and the gains of normalisations are not pulled towards zero.
        matrices = [p for p in module.parameters() if p.ndim > 1]
        others = [p for p in module.parameters() if p.ndim <= 1]
        groups.append({"params": matrices, "lr": module_rate, "weight_decay": parameters.weight_decay})
        groups.append({"params": others, "lr": module_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, fused=True)
    rising = max(1, round(parameters.warmup * steps))

    def factor(step: int) -> float:
        return min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _batches(lengths: NDArray[np.int32], batch_rows: int, rng: np.random.Generator) -> list[Rows]:
    """An epoch's batches in random order, each of rows of similar length."""
    batches = []
    order = rng.permutation(len(lengths))
    bucket = batch_rows * BATCHES_PER_BUCKET
    for start in range(0, len(order), bucket):
        rows = order[start : start + bucket]
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        while len(rows):
            size = min(batch_rows, max(1, TOKENS_PER_BATCH // int(lengths[rows[0]])))
            batches.append(rows[:size])
            rows = rows[size:]
    return [batches[place] for place in rng.permutation(len(batches))]
