# SPDX-License-Identifier: Apache-2.0
"""The whole transformer as the device computes it, pass by pass (contract, sections 1 to 12)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.passes import GUIDANCE_LIMIT, GUIDANCE_STEPS, ImageStep
from lutvar.quant.ptq.class_vectors import ClassVectors
from lutvar.quant.ptq.model import QuantizedModel
from lutvar.quant.ptq.transformer import QuantizedTransformer
from lutvar.quant.var.sites import LinearSite, SiteName

from .attention import attend
from .backend import GoldenBackend
from .norm import layer_norm
from .pointwise import Float32, Half, Records, add, float32, gelu, records, store

#: Called with a name such as "block3.qkv.y" and the array, for every intermediate of a pass.
Trace = Callable[[str, NDArray[Any]], None]


class Span(NamedTuple):
    """Rows of one sequence in a pass: one half of one image.

    Attributes:
        rows: slice of the pass's rows.
        slot, conditional: which sequence; the key of its cache.
        label: class of its AdaLN vectors.
        position: tokens in the cache before this pass.
    """

    rows: slice
    slot: int
    conditional: bool
    label: int
    position: int

    @property
    def end(self) -> int:
        """Tokens in the cache after this pass."""
        return self.position + self.rows.stop - self.rows.start


@dataclass
class _Cache:
    """K and V of one sequence, [depth, heads, tokens, ...]; `length` tokens are valid."""

    keys: Records
    values: Records
    length: int = 0

    @classmethod
    def empty(cls, depth: int, heads: int, tokens: int) -> _Cache:
        def make() -> Records:
            shape = (depth, heads, tokens)
            return Records(np.zeros((*shape, HEAD_DIM), np.uint8), np.zeros(shape, np.uint16))

        return cls(make(), make())


def spans_of(steps: Sequence[ImageStep], null_label: int) -> list[Span]:
    """Rows of a pass in the golden model's order: step by step, conditional half first."""
    spans, at = [], 0
    for step in steps:
        for x, conditional in ((step.x_cond, True), (step.x_uncond, False)):
            if x is None:
                continue
            rows = slice(at, at + step.tokens)
            label = step.label if conditional else null_label
            spans.append(Span(rows, step.slot, conditional, label, step.position))
            at = rows.stop
    return spans


class GoldenTransformer:
    """Runs passes; keeps K and V records of each slot.

    Args:
        model: the quantized transformer.
        trace: gets every intermediate by name; rows as `spans_of` orders them. For block i:
            `blocki.x` (float32 residual), `blocki.norm1` (FP16), `blocki.qkv.input` (after
            the rotation), `.codes`, `.scale`, `.scale_neg`, `.y`;
            `blocki.q.codes`/`.scales` and the same for k and v ([rows, heads, ...]);
            `blocki.attention` (FP16); `blocki.proj.*`; `blocki.x1` (residual between the
            halves); `blocki.norm2`, `blocki.fc1.*`, `blocki.gelu` (FP16), `blocki.fc2.*`;
            then `x`, `norm`, `head.*` and `logits.k` of step k.
        keep_weights: as in `GoldenBackend`.
    """

    def __init__(
        self,
        model: QuantizedTransformer,
        trace: Trace | None = None,
        keep_weights: bool | None = None,
    ) -> None:
        self.model, self.trace = model, trace
        layers = QuantizedModel(model.config, model.layers)
        self._linears = GoldenBackend(layers, trace, keep_weights=keep_weights)
        self._caches: dict[tuple[int, bool], _Cache] = {}

    def run(self, steps: Sequence[ImageStep]) -> list[Float32]:
        """Logits of each step, float32 [n, vocab], guided if the step is; updates the caches.

        Raises:
            ValueError: shapes, slots, positions or guidance that the device would refuse.
        """
        spans = spans_of(steps, self.model.null_label)
        self._check(steps, spans)
        halves = [x for s in steps for x in (s.x_cond, s.x_uncond) if x is not None]
        x = np.concatenate(halves).astype(np.float32, copy=False)
        vectors = [self.model.class_vectors(span.label) for span in spans]
        for block in range(self.model.shape.depth):
            x = self._block(block, x, spans, vectors)
        self._note("x", x)
        z = self._norm(x, [v.head[0] for v in vectors], [v.head[1] for v in vectors], spans)
        self._note("norm", z)
        return self._logits(steps, self.classify(z))

    def cached(self, slot: int, conditional: bool) -> tuple[Records, Records]:
        """K and V records of one sequence so far: [depth, heads, tokens, 64] and [..., tokens]."""
        cache = self._caches[slot, conditional]
        cached = slice(0, cache.length)
        return (
            Records(cache.keys.codes[:, :, cached], cache.keys.scales[:, :, cached]),
            Records(cache.values.codes[:, :, cached], cache.values.scales[:, :, cached]),
        )

    def fill(self, slot: int, conditional: bool, keys: Records, values: Records) -> None:
        """Put records of the first tokens of a sequence into its cache, in place of passes that
        would write them: [depth, heads, tokens, 64] and [..., tokens]."""
        cache = self._caches.setdefault((slot, conditional), self._empty())
        cache.length = keys.codes.shape[2]
        for stored, given in ((cache.keys, keys), (cache.values, values)):
            stored.codes[:, :, : cache.length] = given.codes
            stored.scales[:, :, : cache.length] = given.scales

    def classify(self, z: Half) -> Float32:
        """The head: from its norm's results, [rows, C], to logits, [rows, vocab]."""
        return self._linear(LinearSite(self.model.shape.depth, "head"), z)

    def _block(
        self, i: int, x: Float32, spans: Sequence[Span], vectors: Sequence[ClassVectors]
    ) -> Float32:
        def rows_of(name: str) -> list[Half]:
            return [v.block(i, name) for v in vectors]

        def linear(name: SiteName, rows: Half) -> Float32:
            return self._linear(LinearSite(i, name), rows)

        self._note(f"block{i}.x", x)
        z = self._norm(x, rows_of("scale1"), rows_of("shift1"), spans)
        self._note(f"block{i}.norm1", z)
        o = self.attention(i, linear("qkv", z), spans)
        self._note(f"block{i}.attention", o)
        x = add(x, linear("proj", o), _spread(rows_of("gate1"), spans))
        self._note(f"block{i}.x1", x)
        z = self._norm(x, rows_of("scale2"), rows_of("shift2"), spans)
        self._note(f"block{i}.norm2", z)
        factor, shift = (self.model.hidden_vector(i, name) for name in ("factor", "shift"))
        h = gelu(linear("fc1", z), 1.0 if factor is None else factor, shift)
        self._note(f"block{i}.gelu", h)
        return add(x, linear("fc2", h), _spread(rows_of("gate2"), spans))

    def attention(self, i: int, y: Float32, spans: Sequence[Span]) -> Half:
        """From results of qkv, [rows, 3C], to attention's, [rows, C]; extends the caches."""
        shape, fmt = self.model.shape, self.model.kv_format
        heads = y.reshape(-1, 3, shape.heads, HEAD_DIM)
        q = records(heads[:, 0], fmt, "q", self.model.kappa[i])
        k, v = records(heads[:, 1], fmt, "k"), records(heads[:, 2], fmt, "v")
        for name, part in (("q", q), ("k", k), ("v", v)):
            self._note(f"block{i}.{name}.codes", part.codes)
            self._note(f"block{i}.{name}.scales", part.scales)
        result = np.empty((y.shape[0], shape.heads, HEAD_DIM), np.float16)
        # Sequences of as many queries and keys are computed together: fewer, larger operations.
        alike: dict[tuple[int, int], list[tuple[Span, Records, Records]]] = {}
        for span in spans:
            cache = self._cache(span)
            keys, values = _extend(cache.keys, k, i, span), _extend(cache.values, v, i, span)
            cache.length = span.end
            queries = len(q.scales[span.rows])
            alike.setdefault((queries, span.end), []).append((span, keys, values))
        for group in alike.values():
            parts = [
                (q.codes[span.rows].swapaxes(0, 1), q.scales[span.rows].T, *keys, *values)
                for span, keys, values in group
            ]
            qc, qs, kc, ks, vc, vs = (np.stack(part) for part in zip(*parts, strict=True))
            outputs = attend(qc, qs, kc, ks, vc, vs, fmt)
            for (span, _, _), output in zip(group, outputs, strict=True):
                result[span.rows] = output.swapaxes(0, 1)
        return result.reshape(y.shape[0], shape.width)

    def _norm(
        self, x: Float32, scale: Sequence[Half], shift: Sequence[Half], spans: Sequence[Span]
    ) -> Half:
        return layer_norm(x, _spread(scale, spans), _spread(shift, spans), self.model.eps)

    def _linear(self, site: LinearSite, rows: Half) -> Float32:
        """Hadamard, quantizer and array; FP16 passes the backend's float32 unchanged."""
        return self._linears.compute(site, float32(rows)).y

    def _logits(self, steps: Sequence[ImageStep], y: Float32) -> list[Float32]:
        logits, at = [], 0
        for k, step in enumerate(steps):
            cond = y[at : at + step.tokens]
            at += step.tokens
            if step.x_uncond is None:
                guided = store(cond, 1.0)
            else:
                scaled = store(y[at : at + step.tokens], -step.guidance)
                at += step.tokens
                guided = add(scaled, cond, 1 + step.guidance)
            self._note(f"logits.{k}", guided)
            logits.append(guided)
        return logits

    def _cache(self, span: Span) -> _Cache:
        key = span.slot, span.conditional
        if key not in self._caches:
            self._caches[key] = self._empty()
        return self._caches[key]

    def _empty(self) -> _Cache:
        shape = self.model.shape
        return _Cache.empty(shape.depth, shape.heads, shape.tokens)

    def _check(self, steps: Sequence[ImageStep], spans: Sequence[Span]) -> None:
        shape = self.model.shape
        slots = [step.slot for step in steps]
        if not steps or len(set(slots)) != len(slots):
            raise ValueError(f"slots {slots}: a pass needs at least one image, each its own slot")
        for step in steps:
            for x in (step.x_cond, step.x_uncond):
                if x is not None and (x.shape != (step.tokens, shape.width) or not step.tokens):
                    raise ValueError(
                        f"slot {step.slot}: embeddings of shape {x.shape}; expected "
                        f"{(step.tokens, shape.width)} with at least one token"
                    )
                if x is not None and not np.isfinite(x).all():
                    raise ValueError(f"slot {step.slot}: embeddings that are not finite")
            t = step.guidance * GUIDANCE_STEPS
            if not 0 <= step.guidance < GUIDANCE_LIMIT or t != int(t):
                raise ValueError(
                    f"slot {step.slot}: guidance {step.guidance} must be a multiple of "
                    f"1/{GUIDANCE_STEPS} from 0 to {GUIDANCE_LIMIT}"
                )
        for span in spans:
            length = self._cache(span).length
            if span.position not in (0, length) or span.end > shape.tokens:
                raise ValueError(
                    f"slot {span.slot}: tokens {span.position} to {span.end - 1}, but its cache "
                    f"holds {length} and an image has {shape.tokens}"
                )

    def _note(self, name: str, value: NDArray[Any]) -> None:
        if self.trace is not None:
            self.trace(name, value)


def _extend(stored: Records, part: Records, block: int, span: Span) -> Records:
    """Put a sequence's new records [rows, heads, ...] into its cache; all of them so far."""
    new = slice(span.position, span.end)
    stored.codes[block, :, new] = part.codes[span.rows].swapaxes(0, 1)
    stored.scales[block, :, new] = part.scales[span.rows].T
    return Records(stored.codes[block, :, : span.end], stored.scales[block, :, : span.end])


def _spread(vectors: Sequence[Half], spans: Sequence[Span]) -> Half:
    """[rows, C]: each sequence's vector for each of its rows."""
    counts = [span.rows.stop - span.rows.start for span in spans]
    return np.repeat(np.stack(vectors), counts, axis=0)
