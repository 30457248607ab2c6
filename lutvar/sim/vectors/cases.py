# SPDX-License-Identifier: Apache-2.0
"""What exported vectors replay: small programs by hand, a random layer, an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.errors import ConfigError
from lutvar.contract.isa import Region
from lutvar.contract.passes import Transformer
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.device import Device
from lutvar.host.transformer import DeviceTransformer
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.ptq.transformer import QuantizedTransformer
from lutvar.quant.runnable import quantize
from lutvar.quant.var.passes import generate_passes
from lutvar.sim.run.comparing import ComparingTransformer, Comparison

from .recorder import Recorder

#: More than any case needs; what is not used is not written.
_MEMORY = 1 << 26
_CLASS = 3  #: of the image


def _units(config: AcceleratorConfig) -> Recorder:
    """Three programs with one instruction for each unit."""
    from lutvar.sim.testbenches.units import SIZES, make_units_case

    recorder = Recorder(config, _MEMORY)
    device = Device(recorder, config)
    device.open()
    for seed in (1, 2, 3):
        case = make_units_case(config, seed, rows=seed, keys=2 + seed)
        if seed == 1:
            model = np.frombuffer(case.before[Region.MODEL], np.uint8)
            device.place(model, *(SIZES[r] for r in (Region.WORK, Region.IO, Region.CACHE)))
        for region, content in case.before.items():
            device.write(region, 0, np.frombuffer(content, np.uint8))
        device.run(case.raw, 1)
        for region, content in case.after.items():
            assert device.read(region, 0, len(content)).tobytes() == content
    return recorder


def _layer(config: AcceleratorConfig) -> Recorder:
    """Three passes of a random transformer: width 128, one block, 14 tokens."""
    from lutvar.sim.testbenches.transformer import make_step, random_transformer

    rng = np.random.default_rng(41)

    def passes(transformer: Transformer) -> None:
        position = 0
        for tokens in (1, 4, 9):
            transformer.run([make_step(rng, position, tokens, label=1)])
            position += tokens

    return _record(random_transformer(config), config, passes)


def _digits(config: AcceleratorConfig) -> Recorder:
    """A whole image of the digits model, scale by scale."""
    quantized = quantize("digits", config)
    info, loaded = quantized.loaded.info, quantized.loaded

    def passes(transformer: Transformer) -> None:
        generate_passes(
            loaded.var, loaded.vqvae, transformer, [_CLASS], [1], info.cfg, info.top_k, info.top_p
        )

    return _record(quantized.transformer, config, passes)


def _record(
    model: QuantizedTransformer, config: AcceleratorConfig, passes: Callable[[Transformer], None]
) -> Recorder:
    """Passes as the driver runs them; the interpreter's results are those of the golden model."""
    recorder, comparison = Recorder(config, _MEMORY), Comparison()
    device = Device(recorder, config)
    device.open()
    transformer = DeviceTransformer(device, pack_transformer(model, config), slots=1)
    passes(ComparingTransformer(GoldenTransformer(model), transformer, comparison))
    assert comparison.total and not comparison.mismatches, comparison.first
    return recorder


#: Name -> (what it is, what makes it), shortest first.
CASES: dict[str, tuple[str, Callable[[AcceleratorConfig], Recorder]]] = {
    "units": ("three programs with one instruction for each unit", _units),
    "layer": ("three passes of a random transformer: one block of width 128", _layer),
    "digits": (f"an image of the digits model, class {_CLASS}", _digits),
}


def record_case(name: str, config: AcceleratorConfig) -> Recorder:
    """All that a case does on an accelerator.

    Raises:
        ConfigError: no such case.
    """
    if name not in CASES:
        raise ConfigError(f"unknown case {name!r}; known are {', '.join(CASES)}")
    return CASES[name][1](config)
