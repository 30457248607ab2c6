# SPDX-License-Identifier: Apache-2.0
"""The golden transformer: each step against fractions, and independence of schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lutvar.contract.hadamard import sign_vector
from lutvar.contract.passes import ImageStep, guidance_at
from lutvar.contract.quant_preset import load_quant
from lutvar.quant.eval.variants import variants
from lutvar.quant.golden import GoldenTransformer
from lutvar.quant.golden.distance import kl_divergence
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq import QuantizedTransformer, quantize_transformer
from lutvar.quant.var import generate
from lutvar.quant.var.passes import FloatTransformer, generate_passes, teacher_forced
from support.quant import golden_reference as ref
from support.quant import unit_reference as unit


@cache
def digits() -> LoadedModel:
    return load_model("digits")


@cache
def quantized(preset: str, kv_format: str = "E2M3") -> QuantizedTransformer:
    return quantize_transformer(digits().var, load_quant(preset), kv_format)


def steps_of(tokens: Sequence[int], position: int, seed: int, guided: bool = True) -> list[Any]:
    """One image for each count of tokens, at a position."""
    rng = np.random.default_rng(seed)
    steps = []
    for slot, n in enumerate(tokens):
        x = rng.standard_normal((2, n, 128)).astype(np.float32)
        uncond = x[1] if guided else None
        steps.append(ImageStep(slot, 3 + slot, position, x[0], uncond, 0.75 if guided else 0.0))
    return steps


Seen = dict[str, NDArray[Any]]


@cache
def traced(preset: str, kv_format: str) -> tuple[list[Any], list[NDArray[np.float32]], Seen, Seen]:
    """Two passes of one guided image: steps and logits of the second, intermediates of both."""
    first: Seen = {}
    seen: Seen = {}
    model = GoldenTransformer(quantized(preset, kv_format), first.__setitem__)
    model.run(steps_of([3], 0, 1))
    model.trace = seen.__setitem__
    model._linears.recorder = seen.__setitem__
    steps = steps_of([2], 3, 2)
    return steps, model.run(steps), first, seen


def exact(row: NDArray[Any]) -> list[Fraction]:
    return [Fraction(float(v)) for v in row]


def patterns(row: NDArray[np.float16]) -> list[int]:
    return [int(p) for p in row.view(np.uint16)]


def same_halves(found: NDArray[np.float16], expected: list[int]) -> None:
    np.testing.assert_array_equal(found, np.array(expected, np.uint16).view(np.float16))


CASES = [("fp4", "E2M3"), ("fp6", "E2M1")]
ROW = 1  #: of four: two of the conditional half, two of the unconditional one
BLOCK = 2


def vectors_of(model: QuantizedTransformer, name: str) -> NDArray[np.float16]:
    return model.class_vectors(3 if ROW < 2 else 10).block(BLOCK, name)


@pytest.mark.parametrize(("preset", "kv_format"), CASES)
def test_norms_are_those_of_the_contract(preset: str, kv_format: str) -> None:
    model, seen = quantized(preset, kv_format), traced(preset, kv_format)[3]
    eps = Fraction(float(np.float32(1e-6)))
    for source, name, number in (("x", "norm1", 1), ("x1", "norm2", 2)):
        scale, shift = (vectors_of(model, f"{v}{number}") for v in ("scale", "shift"))
        x = exact(seen[f"block{BLOCK}.{source}"][ROW])
        expected = unit.layer_norm(x, patterns(scale), patterns(shift), eps)
        same_halves(seen[f"block{BLOCK}.{name}"][ROW], expected)
    head = model.class_vectors(3).head
    expected = unit.layer_norm(exact(seen["x"][ROW]), patterns(head[0]), patterns(head[1]), eps)
    same_halves(seen["norm"][ROW], expected)


@pytest.mark.parametrize(("preset", "kv_format"), CASES)
@pytest.mark.parametrize(
    ("source", "site"),
    [
        (f"block{BLOCK}.norm1", "qkv"), (f"block{BLOCK}.attention", "proj"),
        (f"block{BLOCK}.norm2", "fc1"), (f"block{BLOCK}.gelu", "fc2"), ("norm", "head"),
    ],
)  # fmt: skip
def test_linears_take_what_the_contract_says(
    preset: str, kv_format: str, source: str, site: Any
) -> None:
    model, seen = quantized(preset, kv_format), traced(preset, kv_format)[3]
    layer = model.layer(BLOCK, site)
    fmt = layer.activation_format
    codes: list[int] = []
    scales: list[tuple[int, int]] = []
    for group in seen[source][ROW].reshape(-1, 128):
        values = patterns(group)
        if site in ("qkv", "fc1", "head"):
            values = ref.hadamard(values, sign_vector(42))
        more, scale, scale_neg = ref.quantize_group(values, fmt, "even")
        codes += more
        scales.append((scale, scale_neg))
    np.testing.assert_array_equal(seen[f"{layer.name}.codes"][ROW], codes)
    for n in (0, layer.outputs // 2, layer.outputs - 1):
        weights = layer.codes[n].tolist(), layer.scales[n].tolist(), float(layer.bias[n])
        y, _ = ref.result(codes, scales, *weights, layer.exponent, fmt, layer.weight_format)
        assert Fraction(float(seen[f"{layer.name}.y"][ROW, n])) == y


@pytest.mark.parametrize(("preset", "kv_format"), CASES)
def test_records_and_attention_over_both_passes(preset: str, kv_format: str) -> None:
    model, (_, _, first, seen) = quantized(preset, kv_format), traced(preset, kv_format)
    fmt, head = model.kv_format, 1
    kappa = int(model.kappa[BLOCK, head].view(np.uint16))

    def made(trace: Seen, row: int, kind: str) -> tuple[list[int], int]:
        y = trace[f"block{BLOCK}.qkv.y"][row].reshape(3, 2, 64)["qkv".index(kind), head]
        result = unit.record(exact(y), fmt, kind, kappa)
        assert trace[f"block{BLOCK}.{kind}.codes"][row, head].tolist() == result[0]
        assert trace[f"block{BLOCK}.{kind}.scales"][row, head] == result[1]
        return result

    # First pass: rows 0..2 of the conditional half; second: rows 0..1.
    rows = [(first, r) for r in range(3)] + [(seen, r) for r in range(2)]
    keys, values = ([made(trace, r, kind) for trace, r in rows] for kind in "kv")
    expected = unit.attend(made(seen, ROW, "q"), keys, values, fmt)
    same_halves(seen[f"block{BLOCK}.attention"][ROW, 64:], expected)


@pytest.mark.parametrize(("preset", "kv_format"), CASES)
def test_residuals_gelu_and_guidance(preset: str, kv_format: str) -> None:
    model, (steps, logits, _, seen) = quantized(preset, kv_format), traced(preset, kv_format)
    pre = f"block{BLOCK}"
    chain = (("x", "proj", "gate1", f"{pre}.x1"), ("x1", "fc2", "gate2", f"block{BLOCK + 1}.x"))
    x: Any
    y: Any
    for source, site, gate, target in chain:
        x, y = exact(seen[f"{pre}.{source}"][ROW]), exact(seen[f"{pre}.{site}.y"][ROW])
        g = exact(vectors_of(model, gate))
        expected = [unit.f32(a + unit.f32(b * c)) for a, b, c in zip(x, y, g, strict=True)]
        assert exact(seen[target][ROW]) == expected
    same_halves(seen[f"{pre}.gelu"][ROW], [unit.gelu(v) for v in exact(seen[f"{pre}.fc1.y"][ROW])])
    y, t = seen["head.y"], Fraction(steps[0].guidance)
    for conditional, unconditional, row in ((0, 2, 0), (1, 3, 1)):
        pairs = zip(exact(y[conditional]), exact(y[unconditional]), strict=True)
        expected = [unit.f32(unit.f32(u * -t) + unit.f32(c * (1 + t))) for c, u in pairs]
        assert exact(logits[0][row]) == expected


def test_rows_do_not_depend_on_the_pass() -> None:
    """Several images in a pass, at different positions, guided or not: the same logits."""
    first, second = steps_of([1, 4], 0, 5)
    (plain,) = steps_of([2], 0, 6, guided=False)
    plain = replace(plain, slot=7)
    later = replace(steps_of([9, 3], 4, 8)[1])
    passes = [[first, second], [plain, later]]
    together, alone = (GoldenTransformer(quantized("fp4")) for _ in range(2))
    for steps in passes:
        for step, expected in zip(steps, together.run(steps), strict=True):
            np.testing.assert_array_equal(alone.run([step])[0], expected)
    # A slot can start again, but not with a half that it never had.
    again = alone.run([first])[0]
    np.testing.assert_array_equal(GoldenTransformer(quantized("fp4")).run([first])[0], again)
    with pytest.raises(ValueError, match="cache holds 0"):
        alone.run([replace(first, slot=7, position=2)])


@pytest.mark.parametrize("preset", ["fp4", "fp6"])
def test_images_do_not_depend_on_the_schedule(preset: str) -> None:
    model, labels, seeds = digits(), [3, 8, 1, 3, -1], [5, 6, 7, 8, 9]
    results = [
        generate_passes(
            model.var, model.vqvae, GoldenTransformer(quantized(preset)), labels, seeds, 1.5,
            slots=slots, stagger=stagger, keep_logits=True,
        )
        for slots, stagger in ((1, 0), (5, 0), (4, 1), (2, 3))
    ]  # fmt: skip
    for other in results[1:]:
        assert all(map(torch.equal, results[0].tokens, other.tokens))
        assert all(map(torch.equal, results[0].logits or [], other.logits or []))
        assert torch.equal(results[0].images_BCHW, other.images_BCHW)


def test_schedule_fills_the_pipeline() -> None:
    """One pass apart, with a slot for each scale: every pass in the middle holds each scale."""
    model, seen, ticks = digits(), [], []
    inner = FloatTransformer(model.var)

    class Watch:
        def run(self, steps: Sequence[ImageStep]) -> list[NDArray[np.float32]]:
            seen.append(sorted(step.tokens for step in steps))
            return inner.run(steps)

    generate_passes(
        model.var, model.vqvae, Watch(), [0] * 6, list(range(6)), slots=4, stagger=1,
        progress=lambda done, total: ticks.append((done, total)),
    )  # fmt: skip
    assert len(seen) == 9
    assert seen[3:6] == [[1, 4, 9, 16]] * 3
    assert ticks[-1] == (24, 24)


def test_same_draws_as_generate() -> None:
    """The float model in passes gives the images of `generate`, one by one."""
    model, labels, seeds = digits(), [3, 7], [5, 6]
    passes = FloatTransformer(model.var)
    found = generate_passes(
        model.var, model.vqvae, passes, labels, seeds, 1.5, top_k=40, top_p=0.9, keep_logits=True
    )
    for i, (label, seed) in enumerate(zip(labels, seeds, strict=True)):
        expected = generate(
            model.var, model.vqvae, [label], seed, 1.5, top_k=40, top_p=0.9, keep_logits=True
        )
        assert torch.equal(expected.images_BCHW[0], found.images_BCHW[i])
        for a, b in zip(expected.logits or [], found.logits or [], strict=True):
            assert torch.equal(a[0], b[i])


def test_teacher_forcing_equals_the_masked_model() -> None:
    model, labels = digits(), [3, 7]
    tokens = generate(model.var, model.vqvae, labels, 1).tokens
    with torch.no_grad():
        inputs = model.vqvae.quantize.teacher_inputs(tokens)
        expected = model.var(torch.tensor(labels), inputs)
    passes = FloatTransformer(model.var)
    found = teacher_forced(model.var, model.vqvae, passes, labels, tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    distances = {}
    for name, make in variants(model.var, load_quant("fp6")).items():
        logits = teacher_forced(model.var, model.vqvae, make(), labels, tokens)
        distances[name] = kl_divergence(expected, logits)
    assert all(0 < d < 0.01 for d in distances.values()), distances
    assert distances["device, E2M3"] < distances["device, E2M1"]


def test_guidance_is_rounded_and_limited() -> None:
    assert [guidance_at(1.5, k, 4) for k in range(4)] == [0, 0.5, 1, 1.5]
    assert guidance_at(4.0, 3, 10) == round(128 * 4 / 3) / 128
    with pytest.raises(ValueError, match=r"guidance 20\.0 at scale 9"):
        guidance_at(20.0, 9, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_cond": np.zeros((2, 64), np.float32)}, r"shape \(2, 64\)"),
        ({"x_cond": np.zeros((0, 128), np.float32)}, "at least one token"),
        ({"x_uncond": np.full((2, 128), np.nan, np.float32)}, "not finite"),
        ({"x_uncond": np.zeros((3, 128), np.float32)}, r"shape \(3, 128\)"),
        ({"position": 1}, "cache holds 0"),
        ({"guidance": 0.1}, "multiple of 1/128"),
        ({"guidance": 15.0}, "from 0 to 15"),
        ({"label": 11}, "class 11"),
    ],
)
def test_refuses_what_the_device_would_refuse(change: dict[str, Any], message: str) -> None:
    step = replace(steps_of([2], 0, 1)[0], **change)
    with pytest.raises(ValueError, match=message):
        GoldenTransformer(quantized("fp4")).run([step])


def test_refuses_passes_that_do_not_fit() -> None:
    model = GoldenTransformer(quantized("fp4"))
    step = steps_of([20], 0, 1)[0]
    with pytest.raises(ValueError, match="each its own slot"):
        model.run([step, step])
    with pytest.raises(ValueError, match="at least one image"):
        model.run([])
    model.run([step])
    with pytest.raises(ValueError, match=r"tokens 20 to 39, .* an image has 30"):
        model.run([replace(step, position=20)])
    with pytest.raises(ValueError, match="one seed for each"):
        generate_passes(digits().var, digits().vqvae, model, [1, 2], [3])
