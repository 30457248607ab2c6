# SPDX-License-Identifier: Apache-2.0
"""The packed transformer: what lies where, its file, and files that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from lutvar.contract.formats import get_format
from lutvar.contract.memory import qkv_order, unpack_panel
from lutvar.contract.quant_preset import QuantConfig
from lutvar.files import OutputError
from lutvar.host.compile import packed as packed_file
from lutvar.host.compile.errors import CompileError, ImageError
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.pack import class_image, pack_transformer
from lutvar.host.compile.packed import Bytes, PackedTransformer, scratch
from support.host.compile_cases import accelerator, transformer

CONFIG = accelerator(acc_depth=256)


@pytest.fixture(scope="module")
def packed() -> PackedTransformer:
    return pack_transformer(transformer("small-fp4"), CONFIG, model={"name": "test"})


def test_layout_follows_from_sizes(packed: PackedTransformer) -> None:
    model = transformer("small-fp4")
    assert packed.layout == ModelLayout.of(model.shape, CONFIG, range(4))
    ends = [t.offset + layer.panel_bytes(t) for layer in packed.layout.layers for t in layer.tiles]
    starts = [t.offset for layer in packed.layout.layers for t in layer.tiles]
    assert all(a <= b for a, b in zip(ends, starts[1:], strict=False))
    assert ends[-1] <= packed.layout.kappa_base < packed.layout.class_base


@pytest.mark.parametrize("ports", [1, 2])
def test_panels_hold_the_layers(ports: int) -> None:
    model = transformer("small-fp4")
    packed = pack_transformer(model, accelerator(acc_depth=256, weight_ports=ports))
    for block, site in ((0, "qkv"), (1, "fc2"), (0, "head")):
        layer, plan = model.layer(block, site), packed.layout.layer(block, site)  # type: ignore[arg-type]
        assert len(plan.slices) == (2 if site == "fc2" else 1)
        order = qkv_order(256) if site == "qkv" else np.arange(plan.outputs)
        for tile in plan.tiles:
            mine = order[tile.first : tile.first + tile.outputs]
            real = mine[mine < layer.outputs]
            panels = [(p, p.group == s.first) for s in plan.slices for p in plan.panels(tile, s)]
            assert [p.group for p, _ in panels] == list(range(plan.groups))
            for (group, at, beats), biased in panels:
                codes, scales, bias = unpack_panel(
                    packed.image[at : at + beats * 64], tile.outputs, 4, biased, ports
                )
                part = slice(group * 128, group * 128 + 128)
                np.testing.assert_array_equal(codes[: len(real)], layer.codes[real, part])
                np.testing.assert_array_equal(scales[: len(real)], layer.scales[real, group])
                assert not codes[len(real) :].any() and not scales[len(real) :].any()
                if bias is not None:
                    np.testing.assert_array_equal(bias[: len(real)], layer.bias[real])


def test_vectors(packed: PackedTransformer) -> None:
    model, layout = transformer("small-fp4"), packed.layout
    vectors = model.class_vectors(2)

    def at(offset: int) -> np.ndarray:
        return packed.image[offset : offset + 512].view(np.float16)

    np.testing.assert_array_equal(at(layout.block_vector(2, 1, "gate2")), vectors.blocks[1, 5])
    np.testing.assert_array_equal(at(layout.head_vector(2, "shift")), vectors.head[1])
    np.testing.assert_array_equal(at(layout.kappa(1)), np.repeat(model.kappa[1], 64))
    raw = class_image(vectors).view(np.uint8)
    start = layout.class_offset(2)
    np.testing.assert_array_equal(packed.image[start : start + raw.size], raw)


def test_some_classes_only() -> None:
    some = pack_transformer(transformer("small-fp4"), CONFIG, labels=[1])
    assert some.layout.labels == (1, 3)
    with pytest.raises(CompileError, match="class 2 is not in the packed model"):
        some.layout.class_offset(2)
    for label in (-1, 4):
        with pytest.raises(CompileError, match=f"class {label}: the model has 0 to 2"):
            pack_transformer(transformer("small-fp4"), CONFIG, labels=[1, label])


def test_what_does_not_fit_the_accelerator_is_refused() -> None:
    with pytest.raises(CompileError, match="preset fp4, small-fp6 runs fp6"):
        pack_transformer(transformer("small-fp4"), accelerator("small-fp6"))
    named = QuantConfig(**{**CONFIG.quant_config.model_dump(), "name": "a-recipe"})
    same = pack_transformer(replace(transformer("small-fp4"), config=named), CONFIG)
    assert same.layout.config == CONFIG, "formats count, not what they are called"
    other = replace(transformer("small-fp4"), kv_format=get_format("E2M1"))
    with pytest.raises(CompileError, match="E2M1, small-fp4 has E2M3"):
        pack_transformer(other, CONFIG)


def test_an_image_outside_ram_is_the_same(packed: PackedTransformer, tmp_path: Path) -> None:
    path, other = tmp_path / "model.image", tmp_path / "other.image"
    packed.save(path)
    with scratch(tmp_path) as allocate:
        found = pack_transformer(
            transformer("small-fp4"), CONFIG, model={"name": "test"}, allocate=allocate
        )
        assert isinstance(found.image, np.memmap)
        assert sorted(p.name for p in tmp_path.iterdir()) == [path.name], "the file has no name"
        found.save(other)
    assert other.read_bytes() == path.read_bytes()
    with (
        pytest.raises(OutputError, match="bytes for the image: No such file"),
        scratch(tmp_path / "none") as a,
    ):
        a(64)


def test_the_image_starts_at_a_page_and_is_mapped(
    packed: PackedTransformer, tmp_path: Path
) -> None:
    """A driver may hand the mapped pages to a DMA engine."""
    path = tmp_path / "model.image"
    packed.save(path)
    assert (path.stat().st_size - packed.layout.size) % 4096 == 0
    image = PackedTransformer.load(path, CONFIG).image
    assert image.__array_interface__["data"][0] % 4096 == 0 and not image.flags.writeable
    with safe_open(path, framework="np") as file:  # the header's padding is within the format
        np.testing.assert_array_equal(file.get_tensor("image"), packed.image)


def test_file(packed: PackedTransformer, tmp_path: Path) -> None:
    path = tmp_path / "model.image"
    digest = packed.save(path)
    back = PackedTransformer.load(path, CONFIG)
    assert (back.digest(), back.hash) == (digest, packed.hash)
    assert back.model == {"name": "test"} and back.exponents == packed.exponents
    np.testing.assert_array_equal(back.image, packed.image)
    assert back.layout == packed.layout


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-100], "cut or altered"),
        (lambda raw: raw[:50], "cut or altered"),
        (lambda raw: raw[:-5000] + bytes([raw[-5000] ^ 1]) + raw[-4999:], "does not match"),
        (lambda raw: raw.replace(b"1e-06", b"2e-06"), "does not match|altered|packed for"),
        (lambda raw: raw.replace(b"lutvar-image-1", b"lutvar-image-9"), "no metadata"),
    ],
    ids=["cut", "stub", "bit", "epsilon", "kind"],
)
def test_damaged_files_are_refused(
    packed: PackedTransformer, tmp_path: Path, damage: object, message: str
) -> None:
    path = tmp_path / "model.image"
    packed.save(path)
    raw = path.read_bytes()
    broken = damage(raw)  # type: ignore[operator]
    if broken == raw:  # the number is written in another way: change another one
        broken = raw.replace(b"exponents", b"exponentz")
    path.write_bytes(broken)
    with pytest.raises(ImageError, match=message):
        PackedTransformer.load(path, CONFIG)


def test_a_loaded_file_is_hashed_once(
    packed: PackedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checking it takes seconds for a large model; what identifies it is known by then."""
    digest = packed.save(tmp_path / "p.safetensors")
    assert packed.digest() == digest
    hashed: list[int] = []

    def counted(meta: dict[str, Any], image: Bytes) -> str:
        hashed.append(image.nbytes)
        return right(meta, image)

    right = packed_file._digest
    monkeypatch.setattr(packed_file, "_digest", counted)
    loaded = PackedTransformer.load(tmp_path / "p.safetensors", CONFIG)
    assert loaded.digest() == digest and loaded.hash == packed.hash
    assert hashed == [packed.image.nbytes]
    # A changed copy is another model.
    assert replace(loaded, null_label=2).digest() != digest


def test_another_accelerator_is_refused(packed: PackedTransformer, tmp_path: Path) -> None:
    path = tmp_path / "model.image"
    packed.save(path)
    with pytest.raises(ImageError, match="pack the model for this configuration"):
        PackedTransformer.load(path, accelerator())
    with pytest.raises(ImageError, match="cannot read"):
        PackedTransformer.load(tmp_path / "none", CONFIG)
    for other in (tmp_path, Path("/dev/zero")):
        with pytest.raises(ImageError, match="no regular file"):
            PackedTransformer.load(other, CONFIG)
