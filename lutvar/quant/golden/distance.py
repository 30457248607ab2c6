# SPDX-License-Identifier: Apache-2.0
"""How far quantized computations are from the unquantized model, and from each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lutvar.quant.var.sites import FloatLinear, LinearBackend, LinearSite


class TeacherForced(Protocol):
    """What `compare_backends` needs of a model: `lutvar.quant.var.Var` has it."""

    linear_backend: LinearBackend

    def __call__(self, labels_B: Tensor, x_BLZ: Tensor) -> Tensor: ...


def relative_error(reference: Tensor, value: Tensor) -> float:
    """`|value - reference| / |reference|` in the 2-norm; 0 when both are all zero."""
    signal, noise = energies(reference, value)
    return math.sqrt(noise / signal) if signal else (math.inf if noise else 0.0)


def snr_db(reference: Tensor, value: Tensor) -> float:
    """Signal to noise ratio in dB; infinite when equal."""
    return decibels(*energies(reference, value))


def kl_divergence(reference_logits: Tensor, logits: Tensor) -> float:
    """Mean over tokens of KL(reference || value) in nats; logits [..., V]."""
    p = torch.log_softmax(reference_logits.double(), -1)
    q = torch.log_softmax(logits.double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def token_agreement(reference_logits: Tensor, logits: Tensor) -> float:
    """Share of tokens whose most likely value is the same; logits [..., V]."""
    return float((reference_logits.argmax(-1) == logits.argmax(-1)).double().mean())


@dataclass(frozen=True)
class LogitDistance:
    """Logits of one backend against the unquantized ones, all scales under teacher forcing."""

    relative_error: float
    snr_db: float
    kl_nats: float
    token_agreement: float


class EnergySums:
    """Signal and noise energies by name, added up over calls."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, reference: Tensor, value: Tensor) -> None:
        """Count one more part of a signal. Raises ValueError for different shapes."""
        signal, noise = self._sums.get(name, (0.0, 0.0))
        more_signal, more_noise = energies(reference, value)
        self._sums[name] = signal + more_signal, noise + more_noise

    def snr_db(self) -> dict[str, float]:
        """Name -> signal to noise ratio in dB."""
        return {name: decibels(*sums) for name, sums in self._sums.items()}


@dataclass
class SiteProbe:
    """A backend that computes in float and asks others for the same output on the same input.

    The model continues with the float result, so each site is measured alone. Energies add up over
    calls, in `sums` by backend.
    """

    backends: Mapping[str, LinearBackend]
    sums: dict[str, EnergySums] = field(default_factory=dict)

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        exact = FloatLinear()(site, x_BLC, weight_OI, bias_O)
        for name, backend in self.backends.items():
            value = backend(site, x_BLC, weight_OI, bias_O)
            self.sums.setdefault(name, EnergySums()).add(str(site), exact, value)
        return exact

    def snr_db(self, backend: str) -> dict[str, float]:
        """Site name -> SNR of its output in dB."""
        return self.sums[backend].snr_db()


@dataclass(frozen=True)
class DistanceReport:
    """Result of `compare_backends`.

    Attributes:
        logits: backend -> distance of the logits from the unquantized model's.
        sites: backend -> site -> SNR in dB of that site alone.
        pairs: (a, b) -> relative error between the logits of two backends.
    """

    logits: dict[str, LogitDistance]
    sites: dict[str, dict[str, float]]
    pairs: dict[tuple[str, str], float]


@torch.no_grad()
def compare_backends(
    model: TeacherForced, labels_B: Tensor, x_BLZ: Tensor, backends: Mapping[str, LinearBackend]
) -> DistanceReport:
    """Run a model under teacher forcing with each backend and compare.

    Args:
        model: transformer in evaluation mode; its backend is put back afterwards.
        labels_B: class indices.
        x_BLZ: latent inputs, as `MultiScaleQuantizer.teacher_inputs` makes them.
        backends: name -> backend, without the unquantized one.
    """
    before = model.linear_backend
    probe = SiteProbe(backends)
    logits: dict[str, Tensor] = {}
    try:
        model.linear_backend = probe
        reference = model(labels_B, x_BLZ)
        for name, backend in backends.items():
            model.linear_backend = backend
            logits[name] = model(labels_B, x_BLZ)
    finally:
        model.linear_backend = before
    names = list(logits)
    return DistanceReport(
        logits={name: logit_distance(reference, value) for name, value in logits.items()},
        sites={name: probe.snr_db(name) for name in names},
        pairs={
            (a, b): relative_error(logits[a], logits[b])
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        },
    )


def logit_distance(reference: Tensor, value: Tensor) -> LogitDistance:
    """All logit metrics at once; logits [..., V]."""
    return LogitDistance(
        relative_error(reference, value),
        snr_db(reference, value),
        kl_divergence(reference, value),
        token_agreement(reference, value),
    )


def energies(reference: Tensor, value: Tensor) -> tuple[float, float]:
    """Signal and noise energy, in float64."""
    if reference.shape != value.shape:
        raise ValueError(
            f"shapes {list(reference.shape)} and {list(value.shape)} differ; compare like with like"
        )
    exact = reference.double()
    return float(exact.square().sum()), float((value.double() - exact).square().sum())


def decibels(signal: float, noise: float) -> float:
    """Ratio of two energies in dB; infinite without noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
