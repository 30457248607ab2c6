# SPDX-License-Identifier: Apache-2.0
"""Files of RAR, PAR and their tokenizers: as released, of this project, and every way to be wrong.

Files "as released" have the released names (`test_generator_parity` compares those with manifests)
and small shapes.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lutvar.quant.generators import (
    ParConfig,
    RarConfig,
    load_tokenizer,
    load_transformer,
    save_transformer,
)
from lutvar.quant.generators.checkpoint import family_of
from lutvar.quant.generators.names import MASKGIT, PAR, RAR, to_released, vq16
from lutvar.quant.var import CheckpointError, Var
from support.quant.generator_cases import CASES, TOKENIZERS, model_of, tokenizer_of
from support.quant.var_cases import CASES as VAR_CASES

RAR_CASE, PAR_CASE = CASES[0], CASES[1]


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def rar_state() -> dict[str, Tensor]:
    return to_released(model_of(RAR_CASE).state_dict(), RAR)


def par_state() -> dict[str, Tensor]:
    return to_released(model_of(PAR_CASE).state_dict(), PAR)


def test_released_rar_says_its_shape(tmp_path: Path) -> None:
    torch.save(rar_state(), tmp_path / "rar_b.bin")
    assert family_of(tmp_path / "rar_b.bin") == "rar"
    loaded = load_transformer(tmp_path / "rar_b.bin")
    assert loaded.config == RAR_CASE.config and same(loaded, model_of(RAR_CASE))
    assert not loaded.training


@pytest.mark.parametrize("place", ["model", "module", "state_dict"])
def test_released_par_lies_in_a_folder_of_the_file(tmp_path: Path, place: str) -> None:
    path = tmp_path / "PAR-XL-4x.pt"
    torch.save({place: par_state(), "steps": 3}, path)
    assert family_of(path) == "par"
    loaded = load_transformer(path, PAR_CASE.config)
    assert same(loaded, model_of(PAR_CASE))
    with pytest.raises(CheckpointError, match="as released: width 128 is none of 768"):
        load_transformer(path)


def test_a_released_width_tells_the_heads(tmp_path: Path) -> None:
    config = ParConfig(768, 1, 12, 256, vocab=64, num_classes=5, group=4)
    from lutvar.quant.generators import Par

    torch.save({"model": to_released(Par(config).state_dict(), PAR)}, tmp_path / "x.pt")
    assert load_transformer(tmp_path / "x.pt").config == config


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_released_tokenizers(tmp_path: Path, kind: str) -> None:
    tokenizer, config = tokenizer_of(kind), TOKENIZERS[kind]
    renames = MASKGIT if kind == "maskgit" else vq16(len(config.ch_mult))
    state = to_released(tokenizer.state_dict(), renames)
    used = {"quantize.codebook_used": torch.zeros(65536)} if kind == "vq16" else {}
    torch.save({"model": state | used} if used else state, tmp_path / "t.pt")
    assert same(load_tokenizer(tmp_path / "t.pt", config), tokenizer)
    del state["encoder.conv_in.weight"]
    torch.save(state, tmp_path / "t.pt")
    with pytest.raises(CheckpointError, match=r"1 missing: encoder\.conv_in\.weight \[32, 3, 3"):
        load_tokenizer(tmp_path / "t.pt", config)


@pytest.mark.parametrize("ending", [".safetensors", ".safetensors.xz"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_own_files(tmp_path: Path, case: object, ending: str) -> None:
    model = model_of(case)  # type: ignore[arg-type]
    path = tmp_path / f"model{ending}"
    save_transformer(path, model)
    loaded = load_transformer(path)
    assert loaded.config == model.config and type(loaded) is type(model)
    assert same(loaded, model) == (ending == ".safetensors")
    save_transformer(tmp_path / f"again{ending}", model)
    assert path.read_bytes() == (tmp_path / f"again{ending}").read_bytes()


def test_every_difference_is_named(tmp_path: Path) -> None:
    state = rar_state()
    del state["cls_token"]
    state["more"] = torch.zeros(1)
    state["lm_head.bias"] = torch.zeros(31)
    torch.save(state, tmp_path / "rar.bin")
    with pytest.raises(CheckpointError) as error:
        load_transformer(tmp_path / "rar.bin")
    text = str(error.value)
    assert "1 missing: cls_token [1, 1, 128]." in text
    assert "1 not expected: more [1]." in text
    assert "lm_head.bias: found [31], expected [32]" in text


def test_half_of_w1_and_w3_is_not_enough(tmp_path: Path) -> None:
    state = par_state()
    del state["layers.1.feed_forward.w3.weight"]
    torch.save({"model": state}, tmp_path / "par.pt")
    with pytest.raises(CheckpointError, match=r"missing: layers\.1\.feed_forward\.w3\.weight"):
        load_transformer(tmp_path / "par.pt", PAR_CASE.config)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_code_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": par_state(), "x": Harmful()}, tmp_path / "par.pt")
    with pytest.raises(CheckpointError, match="loading those can run any code"):
        load_transformer(tmp_path / "par.pt")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(CheckpointError):
        load_transformer(tmp_path / "plain.bin")
    assert "code ran" not in capsys.readouterr().out


def test_other_models_and_damaged_files(tmp_path: Path) -> None:
    torch.save(Var(VAR_CASES[0].var).state_dict(), tmp_path / "var.bin")
    assert family_of(tmp_path / "var.bin") is None
    with pytest.raises(CheckpointError, match="is not a RAR transformer as released"):
        load_transformer(tmp_path / "var.bin")
    assert family_of(tmp_path / "none.bin") is None
    with pytest.raises(CheckpointError, match="no such file"):
        load_transformer(tmp_path / "none.bin")
    torch.save(rar_state(), tmp_path / "rar.bin")
    whole = (tmp_path / "rar.bin").read_bytes()
    (tmp_path / "rar.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="copy or download it again"):
        load_transformer(tmp_path / "rar.bin")


def test_a_diverged_model_is_not_written(tmp_path: Path) -> None:
    model = model_of(RAR_CASE)
    with torch.no_grad():
        model.state_dict()["head.bias"][0] = torch.nan
    with pytest.raises(CheckpointError, match=r"head\.bias: has values that are not finite"):
        save_transformer(tmp_path / "x.safetensors", model)
    assert list(tmp_path.iterdir()) == []


def test_configurations_in_files_are_checked(tmp_path: Path) -> None:
    assert isinstance(RAR_CASE.config, RarConfig)
    save_transformer(tmp_path / "x.safetensors", model_of(RAR_CASE))
    raw = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(raw.replace(b'\\"heads\\": 8', b'\\"heads\\": 7'))
    with pytest.raises(CheckpointError, match="heads = 7: must divide the width"):
        load_transformer(tmp_path / "x.safetensors")
