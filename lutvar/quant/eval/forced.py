# SPDX-License-Identifier: Apache-2.0
"""What a method changes when all tokens are given: logits of each scale, output of each linear.

The tokens are samples of the unquantized model. The model runs scale by scale with its cache, as
when it generates, so that methods for the cache and for single scales take part.

Source: teacher forcing in quantization work on VAR, for example PTQ4ARVG and FPQVAR
(arXiv:2505.16335), which compare layer outputs on given tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.quant.golden.backend import GoldenBackend
from lutvar.quant.golden.distance import EnergySums, SiteProbe, kl_divergence, token_agreement
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.ptq.model import QuantizedModel
from lutvar.quant.ptq.transformer import QuantizedTransformer
from lutvar.quant.var import Var
from lutvar.quant.var.forcing import forced_logits
from lutvar.quant.var.sites import FloatLinear, LinearBackend, LinearSite

from .subject import Subject, golden_logits

#: Images at a time: outputs of all linears of the unquantized model are kept for them.
_BATCH = 20
_NAME = "method"


@dataclass(frozen=True)
class ForcedFigures:
    """How far a method's logits and layers are from the unquantized ones.

    Attributes:
        kl_nats: mean KL divergence of a token's distribution from the unquantized model's.
        top1: share of tokens whose most likely value is the same.
        kl_nats_of_scale, top1_of_scale: the same for each scale.
        logits_snr_db: signal to noise ratio of the logits.
        through_snr_db: linear -> that of its output, errors of earlier layers included.
        own_snr_db: linear -> that of its output when it alone is quantized.
        images: how many images' tokens were given.
    """

    kl_nats: float
    top1: float
    kl_nats_of_scale: tuple[float, ...]
    top1_of_scale: tuple[float, ...]
    logits_snr_db: float
    through_snr_db: dict[str, float]
    own_snr_db: dict[str, float]
    images: int


class _Outputs:
    """Outputs of all linears of one pass, in order; those of a second pass are compared."""

    def __init__(self, sums: EnergySums) -> None:
        self._sums = sums
        self._outputs: list[tuple[LinearSite, Tensor]] = []
        self._compared = 0

    def keep(self, backend: LinearBackend) -> LinearBackend:
        """The backend, its outputs kept."""

        def call(
            site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
        ) -> Tensor:
            y_BLO = backend(site, x_BLC, weight_OI, bias_O)
            self._outputs.append((site, y_BLO))
            return y_BLO

        return call

    def compare(self, backend: LinearBackend) -> LinearBackend:
        """The backend, its outputs compared with the kept ones."""

        def call(
            site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
        ) -> Tensor:
            y_BLO = backend(site, x_BLC, weight_OI, bias_O)
            before, exact = self._outputs[self._compared]
            assert before == site, f"{site} ran where the unquantized model ran {before}"
            self._compared += 1
            self._sums.add(str(site), exact, y_BLO)
            return y_BLO

        return call

    def trace(self, name: str, value: NDArray[Any]) -> None:
        """The trace of a golden model, its outputs compared; AdaLN it has from tables."""
        site = name.removesuffix(".y")
        if site == name:
            return
        while str(self._outputs[self._compared][0]) != site:
            self._compared += 1
        exact = self._outputs[self._compared][1]
        self._compared += 1
        self._sums.add(site, exact, torch.from_numpy(value).view_as(exact))


class _Codes:
    """The linears of a golden model as a backend of the float model.

    Factors and shifts, which are part of its AdaLN vectors, are applied here.
    """

    def __init__(self, model: QuantizedTransformer) -> None:
        self._model = model
        self._backend = GoldenBackend(QuantizedModel(model.config, model.layers))

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        if site not in self._model.layers:
            return FloatLinear()(site, x_BLC, weight_OI, bias_O)
        if site in self._model.factors:
            x_BLC = x_BLC * torch.from_numpy(self._model.factors[site])
        if site in self._model.shifts:
            x_BLC = x_BLC + torch.from_numpy(self._model.shifts[site])
        return self._backend(site, x_BLC, weight_OI, bias_O)


@contextmanager
def _wrapped(var: Var, wrap: Callable[[LinearBackend], LinearBackend]) -> Iterator[None]:
    """Both backends of linears replaced by what `wrap` makes of them."""
    holder = var.backends
    before = holder.backend, holder.other
    holder.backend, holder.other = wrap(before[0]), wrap(before[1])
    try:
        yield
    finally:
        holder.backend, holder.other = before


def force(
    subject: Subject,
    labels_N: Tensor,
    tokens_NL: Tensor,
    progress: Callable[[int, int], None] | None = None,
    counted_L: Tensor | None = None,
) -> ForcedFigures:
    """Compare a subject with the unquantized model on given tokens.

    The figures of single linears suppose that a method leaves a linear's weight and input as they
    are in the model and does what it does inside the backend.

    Args:
        subject: what to compare.
        labels_N, tokens_NL: classes and tokens of images.
        progress: called as progress(images done, images).
        counted_L: True for each token whose logits count; default: all. A scale without any has
            figures of 0.
    """
    vqvae, sides = subject.model.vqvae, subject.model.var.config.patch_nums
    counts = [p * p for p in sides]
    if counted_L is None:
        counted_L = torch.ones(sum(counts), dtype=torch.bool)
    counted = counted_L.to(tokens_NL.device).split(counts)
    counts = [int(part.sum()) for part in counted]
    kl, top1 = [0.0] * len(sides), [0.0] * len(sides)
    through, local, whole = EnergySums(), EnergySums(), EnergySums()
    images, done = len(tokens_NL), 0
    codes = None if subject.golden is None else _Codes(subject.golden)

    def alone(backend: LinearBackend) -> LinearBackend:
        return SiteProbe({_NAME: codes or backend}, {_NAME: local})

    for labels, tokens in zip(labels_N.split(_BATCH), tokens_NL.split(_BATCH), strict=True):
        outputs = _Outputs(through)
        with subject.model_in_use() as var, _wrapped(var, outputs.keep):
            exact = forced_logits(var, vqvae, labels, tokens)
        if subject.golden is None:
            with subject.installed() as var, _wrapped(var, outputs.compare):
                value = forced_logits(var, vqvae, labels, tokens)
        else:
            golden = GoldenTransformer(subject.golden, outputs.trace)
            value = golden_logits(subject, golden, labels, tokens)
        with subject.installed() as var, _wrapped(var, alone):
            forced_logits(var, vqvae, labels, tokens)
        share = len(tokens) / images
        for i, pair in enumerate(zip(exact, value, strict=True)):
            a, b = (x[:, counted[i]] for x in pair)
            if not counts[i]:
                continue
            kl[i] += share * kl_divergence(a, b)
            top1[i] += share * token_agreement(a, b)
            whole.add("logits", a, b)
        done += len(tokens)
        if progress is not None:
            progress(done, images)
    total = sum(counts)
    return ForcedFigures(
        kl_nats=sum(n * v for n, v in zip(counts, kl, strict=True)) / total,
        top1=sum(n * v for n, v in zip(counts, top1, strict=True)) / total,
        kl_nats_of_scale=tuple(kl),
        top1_of_scale=tuple(top1),
        logits_snr_db=whole.snr_db()["logits"],
        through_snr_db=through.snr_db(),
        own_snr_db=local.snr_db(),
        images=images,
    )
