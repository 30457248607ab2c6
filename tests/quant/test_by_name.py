# SPDX-License-Identifier: Apache-2.0
"""Shipped recipes by name: made once, as `lutvar quantize` makes them, else refused."""

from pathlib import Path

import numpy as np
import pytest

from lutvar.quant import by_name
from lutvar.quant.by_name import quantized_by_name
from lutvar.quant.methods.errors import RecipeError
from lutvar.quant.methods.recipes.recipe import load_recipe
from lutvar.quant.methods.resumable import quantize_to_file
from lutvar.quant.models import load_model
from lutvar.quant.ptq.weights import QuantizationError
from lutvar.quant.runnable import quantize

RECIPE = "fp4-single"  # seconds


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's cache of this file's tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def kept(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where quantized models are kept."""
    monkeypatch.setenv("LUTVAR_CACHE", str(shared))
    return shared / "quantized"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that would have been made; each says nothing but its name."""
    paths: list[Path] = []

    def write(_var: object, _vqvae: object, _recipe: object, path: Path, **_rest: object) -> None:
        paths.append(path)
        path.write_text(path.name, encoding="utf-8")

    monkeypatch.setattr(by_name, "quantize_to_file", write)
    return paths


def test_made_once_and_as_quantize_makes_it(kept: Path, tmp_path: Path) -> None:
    """The second time the file is there; it holds what `quantize_to_file` writes."""
    loaded = load_model("digits")
    steps: list[tuple[int, int]] = []
    with quantized_by_name(loaded, RECIPE, lambda done, of: steps.append((done, of))) as path:
        content = path.read_bytes()
    assert path.parent == kept and steps and path in kept.iterdir()
    info, other = loaded.info, tmp_path / "other.safetensors"
    quantize_to_file(
        loaded.var, loaded.vqvae, load_recipe(RECIPE), other,
        sampling=(info.cfg, info.top_k, info.top_p),
    )  # fmt: skip
    assert other.read_bytes() == content
    steps.clear()
    with quantized_by_name(loaded, RECIPE, lambda done, of: steps.append((done, of))) as again:
        assert again == path and again.read_bytes() == content
    assert not steps


def test_nothing_is_kept_without_a_cache(made: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """With an empty LUTVAR_CACHE the file lasts as long as it is needed."""
    monkeypatch.setenv("LUTVAR_CACHE", "")
    with quantized_by_name(load_model("digits"), RECIPE) as path:
        assert path.is_file() and made == [path]
    assert not path.exists()


def test_other_methods_make_another_file(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of an earlier version of the methods, or of another recipe, is not taken."""
    monkeypatch.setenv("LUTVAR_CACHE", str(tmp_path))
    loaded = load_model("digits")
    for _ in range(2):
        with quantized_by_name(loaded, RECIPE):
            pass
    with quantized_by_name(loaded, "int4-rtn"):
        pass
    monkeypatch.setattr(by_name, "sources_hash", lambda *folders: "of another version")
    with quantized_by_name(loaded, RECIPE):
        pass
    assert len(set(made)) == len(made) == 3 and all(p.exists() for p in made)


def test_the_model_has_what_one_pass_through_fc2_needs(kept: Path) -> None:
    """Every block's GELU has a factor and a shift; fc2 has one scale a group."""
    quantized = quantize("digits", "small-sections-fp4", RECIPE)
    assert quantized.origin["recipe"] == RECIPE and quantized.transformer.config.name == RECIPE
    for block in range(quantized.transformer.shape.depth):
        factor, shift = (quantized.transformer.hidden_vector(block, n) for n in ("factor", "shift"))
        assert factor is not None and shift is not None and np.abs(shift).max() > 0


@pytest.mark.usefixtures("kept")
def test_what_does_not_run_is_refused() -> None:
    """Unknown names, recipes that no array runs, recipes of other formats."""
    with pytest.raises(RecipeError, match="unknown recipe 'fp4-singel'"):
        quantize("digits", "small-fp4", "fp4-singel")
    with pytest.raises(QuantizationError, match="int4-rtn does not run on the accelerator"):
        quantize("digits", "small-fp4", "int4-rtn")
    with pytest.raises(
        ValueError, match="formats of preset fp4-single, small-fp6 has those of fp6"
    ):
        quantize("digits", "small-fp6", RECIPE)
