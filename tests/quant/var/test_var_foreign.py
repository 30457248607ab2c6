# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as people have them: wrapped modules, training runs, objects, tied weights."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from lutvar.quant.var import CheckpointError, Var, Vqvae, load_var, load_vqvae, save_model
from lutvar.quant.var.compact import pack, unpack
from lutvar.quant.var.tensors import tensor_bytes
from support.quant.var_cases import CASES
from support.quant.var_weights import fill

CASE = CASES[0]


_M = TypeVar("_M", bound=torch.nn.Module)


def filled(model: _M) -> _M:
    fill(model)
    return model.eval()


@pytest.fixture(scope="module")
def var() -> Var:
    return filled(Var(CASE.var))


@pytest.fixture(scope="module")
def vqvae() -> Vqvae:
    return filled(Vqvae(CASE.vqvae))


def saved(folder: Path, content: object) -> Path:
    path = folder / "model.pth"
    torch.save(content, path)
    return path


def equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(found[key], value) for key, value in wanted.items())


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.",
               "_fsdp_wrapped_module."],
)  # fmt: skip
def test_prefixes_of_wrappers_are_dropped(tmp_path: Path, var: Var, prefix: str) -> None:
    state = var.state_dict()
    assert equal(load_var(saved(tmp_path, prefixed(state, prefix))).state_dict(), state)
    inside = {key.replace("blocks.0.", "blocks.0._orig_mod."): v for key, v in state.items()}
    assert equal(load_var(saved(tmp_path, inside)).state_dict(), state)


def test_names_that_clash_without_their_prefix(tmp_path: Path, var: Var) -> None:
    state = var.state_dict()
    both = state | prefixed(state, "_orig_mod.")
    with pytest.raises(CheckpointError, match=r"is there twice, with and without .*_orig_mod\."):
        load_var(saved(tmp_path, both))


def test_what_training_saves_holds_one_of_each(tmp_path: Path, var: Var, vqvae: Vqvae) -> None:
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    path = saved(tmp_path, {
        "epoch": 3,
        "args": {"depth": 2},
        "trainer": {
            "config": {"patch_size": 16},
            "var_wo_ddp": prefixed(var.state_dict(), "module."),
            "vae_local": vqvae.state_dict(),
            "var_opt": {"optimizer": moments},
        },
    })  # fmt: skip
    assert equal(load_var(path).state_dict(), var.state_dict())
    assert equal(load_vqvae(path, CASE.vqvae).state_dict(), vqvae.state_dict())
    path = saved(tmp_path, {"model": var.state_dict(), "best": 1.5})
    assert equal(load_var(path).state_dict(), var.state_dict())
    path = saved(tmp_path, var.state_dict() | {"epoch": 3})
    assert equal(load_var(path).state_dict(), var.state_dict())


def test_two_transformers_are_named_and_none_is_guessed(tmp_path: Path, var: Var) -> None:
    state = var.state_dict()
    path = saved(tmp_path, {"state_dict": state, "state_dict_ema": state})
    with pytest.raises(CheckpointError, match="several transformers: state_dict, state_dict_ema"):
        load_var(path)
    with pytest.raises(CheckpointError, match=r"several transformers: \(top\), ema; save the one"):
        load_var(saved(tmp_path, state | {"ema": state}))


def test_the_command_in_the_message_works(
    tmp_path: Path, var: Var, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex
    import subprocess
    import sys

    state = var.state_dict()
    path = saved(tmp_path, {"run": {"ema": state, "last": prefixed(state, "module.")}})
    with pytest.raises(CheckpointError) as caught:
        load_var(path)
    words = shlex.split(str(caught.value).rpartition(": ")[2])
    assert words[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True)
    assert equal(load_var(tmp_path / "alone-model.pth").state_dict(), state)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ({"args": argparse.Namespace(depth=2)}, "argparse.Namespace"),
        ({"best": np.float64(1.5)}, "numpy"),
        ({"head": torch.nn.Linear(2, 2)}, "torch.nn.modules.linear.Linear"),
    ],
)
def test_pickled_objects_are_named(
    tmp_path: Path, var: Var, extra: dict[str, Any], name: str
) -> None:
    with pytest.raises(CheckpointError, match=name) as caught:
        load_var(saved(tmp_path, {"trainer": {"var_wo_ddp": var.state_dict()}} | extra))
    text = str(caught.value)
    assert "holds pickled objects" in text and "if you trust the file" in text
    assert "download" not in text and text.isprintable()


def test_a_tensor_alone_and_a_list(tmp_path: Path) -> None:
    for content in (torch.zeros(2), [1, 2], 3):
        with pytest.raises(CheckpointError, match="a table of tensors is needed"):
            load_var(saved(tmp_path, content))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_tensors_that_share_memory_are_saved(tmp_path: Path, half: bool, tied: bool) -> None:
    model = filled(Var(CASE.var))
    first, second = (block.ffn for block in model.blocks[:2])
    if tied:
        second.fc1.weight = first.fc1.weight
    else:
        whole = torch.stack([first.fc1.weight.detach(), second.fc1.weight.detach()])
        first.fc1.weight, second.fc1.weight = (torch.nn.Parameter(w) for w in whole)
    path = tmp_path / "m.safetensors"
    save_model(path, model, half=half)
    wanted = {
        k: v.half().float() if half and v.is_floating_point() else v
        for k, v in model.state_dict().items()
    }
    assert equal(load_var(path).state_dict(), wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_whole_numbers_and_flags_keep_their_type() -> None:
    from safetensors.torch import load

    state = {
        "steps": torch.tensor([2**40 + 1, -1]),
        "codes": torch.tensor([[-128, 127]], dtype=torch.int8),
        "flags": torch.tensor([True, False]),
        "weight": torch.tensor([0.1, 70.0]),
        "view": torch.arange(12.0).reshape(3, 4).T[::2],
    }
    for dtype in (torch.float16, torch.float32, None):
        found = load(tensor_bytes(state, dtype=dtype))
        for name, value in state.items():
            kept = value.to(dtype) if dtype and value.is_floating_point() else value
            assert found[name].dtype == kept.dtype and torch.equal(found[name], kept), name
    again, _metadata = unpack(pack(state, {}))
    for name in ("steps", "codes", "flags"):
        assert again[name].dtype == state[name].dtype and torch.equal(again[name], state[name])
