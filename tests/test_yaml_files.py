# SPDX-License-Identifier: Apache-2.0
"""Strict YAML, and the same errors for presets, accelerator sizes, recipes and plans."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lutvar.yaml_files
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.quant_preset import ConfigError, load_quant
from lutvar.quant.eval.results_plan import load_plan
from lutvar.quant.methods import RecipeError, load_recipe
from lutvar.yaml_files import YamlError, parse_yaml, read_yaml

CONFIGS = Path(lutvar.yaml_files.__file__).parent / "configs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: duplicate key 'a', first in line 1; keep one"),
        ("x:\n  - {b: 1, c: 2, b: 1}", "line 2: duplicate key 'b'"),
        ("a: .nan", r"line 1: \.nan is not a finite number"),
        ("a: 1\nb: -.inf", r"line 2: -\.inf is not a finite number"),
        ("a: 1.0e+999", "not a finite number"),
        ("x: &a {y: *a}", "recursive"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "another document"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        ("- 1", "holds a list; a mapping of keys is needed"),
        ("", "holds nothing; a mapping"),
        ("[" * 5000, "nested too deep"),
        ("{[1]: 2}", "is no key"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value).startswith("f.yaml") and "\n" not in str(caught.value)


def test_anchors_and_merges_are_not_duplicates() -> None:
    data = parse_yaml("a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}", "f")
    assert data == {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 2}, "c": {"p": 1, "q": 3}}


def test_text_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes("\ufefftitle: Fréchet µ".encode())
    assert read_yaml(path) == {"title": "Fréchet µ"}
    path.write_bytes("a: 1\ntitle: Fréchet".encode("latin-1"))
    with pytest.raises(YamlError, match=r"f\.yaml: byte 0xe9 in line 2 is not UTF-8; save"):
        read_yaml(path)
    path.write_bytes("a: 1".encode("utf-16"))
    with pytest.raises(YamlError, match="is not UTF-8"):
        read_yaml(path)
    with pytest.raises(YamlError, match="more than 1,048,576 bytes"):
        read_yaml(Path("/dev/zero"))
    with pytest.raises(YamlError, match=f"cannot read {tmp_path}: Is a directory"):
        read_yaml(tmp_path)


KINDS: list[tuple[Callable[[Path], Any], str, type[ValueError]]] = [
    (load_quant, "quant/fp4.yaml", ConfigError),
    (load_accelerator, "accelerator/small-fp4.yaml", ConfigError),
    (load_recipe, "recipes/fpqvar-fp4.yaml", RecipeError),
    (load_plan, "results.yaml", RecipeError),
]


@pytest.mark.parametrize(("load", "shipped", "kind"), KINDS)
def test_every_loader_is_strict(
    load: Callable[[Path], Any], shipped: str, kind: type[ValueError], tmp_path: Path
) -> None:
    path = tmp_path / Path(shipped).name
    text = (CONFIGS / shipped).read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    load(path)
    first = next(line for line in text.splitlines() if line[0].isalpha())
    cases: list[tuple[str | bytes, str]] = [
        (f"{text}\n{first}\n", "duplicate key"),
        (f"{text}\ncolour: red\n", "colour: unknown key; valid keys: "),
        (b"\xff", "is not UTF-8"),
        ("", "holds nothing"),
    ]
    for content, message in cases:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(kind, match=message) as caught:
            load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("load", "shipped", "kind"), KINDS[:3])
@pytest.mark.parametrize("name", ["../../evil", "a b", "x;y", "a\\nendmodule", "", "-rf", "é"])
def test_names_stay_in_their_folder(
    load: Callable[[Path], Any], shipped: str, kind: type[ValueError], name: str, tmp_path: Path
) -> None:
    path = tmp_path / Path(shipped).name
    text = (CONFIGS / shipped).read_text(encoding="utf-8")
    path.write_text(text.replace(f"name: {path.stem}", f'name: "{name}"'), encoding="utf-8")
    with pytest.raises(kind, match=r"name: name .* only letters, digits, _ and -"):
        load(path)


#: A change of each that keeps it valid.
CHANGES = ("hadamard_seed: 43", "queue: 8", "seed: 7")


@pytest.mark.parametrize(
    ("load", "shipped", "kind", "change"),
    [(*row, change) for row, change in zip(KINDS, CHANGES, strict=False)],
)
def test_a_changed_copy_does_not_pass_for_the_original(
    load: Callable[[Path], Any], shipped: str, kind: type[ValueError], change: str, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    copy = Path(shutil.copy(CONFIGS / shipped, tmp_path / "mine.yaml"))
    name, key = Path(shipped).stem, change.partition(":")[0]
    assert load(copy).name == name and f"is named '{name}' in the file" in caplog.text
    text = copy.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(f"{key}:")] + [change]
    copy.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(kind, match=f"its name is '{name}', which comes with .* name: mine$"):
        load(copy)
    caplog.clear()
    for own in ("mine", "other"):
        changed = "\n".join(lines).replace(f"name: {name}", f"name: {own}")
        copy.write_text(changed, encoding="utf-8")
        assert load(copy).name == own
        assert ("is named 'other' in the file; tables" in caplog.text) is (own == "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed: -1", "seed: .* greater than or equal to 0"),
        ("seed: 18446744073709551616", "seed: .* less than or equal to 4294967295"),
        ("calibration: {seed: -1}", r"calibration\.seed"),
        ("steps: [{step: smoothquant, alpha: 'nan'}]", "step 'smoothquant': alpha: .*finite"),
    ],
)
def test_numbers_of_recipes(change: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: r\n{change}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)
