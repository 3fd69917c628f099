"""`backprop-ops export`: golden cases, read back, and verified by a port to C."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backprop_ops import Pair, golden, pairs
from backprop_ops.cli import main
from backprop_ops.export import export

safetensors = pytest.importorskip("safetensors.torch", reason="the cases are safetensors")
VERIFY = Path(__file__).parent / "golden" / "verify.c"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    export(pairs, folder)
    return folder


def entries(folder: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text("utf-8"))["cases"]
    return cases


def read(folder: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = safetensors.load_file(folder / entry["file"])
    return tensors


def test_every_pair_has_golden_calls() -> None:
    assert golden.CALLS.keys() == pairs.keys()
    with pytest.raises(LookupError, match=r"backprop_ops/golden\.py: CALLS has no golden call"):
        next(golden.golden_calls("silu"))


def test_the_manifest_describes_the_files(folder: Path) -> None:
    for entry in entries(folder):
        found = {n: (str(x.dtype)[6:], list(x.shape)) for n, x in read(folder, entry).items()}
        said = {n: (t["dtype"], t["shape"]) for n, t in entry["tensors"].items()}
        assert found == said
    files = {entry["file"] for entry in entries(folder)}
    assert {path.name for path in folder.iterdir()} == {*files, "manifest.json"}


@pytest.mark.parametrize("pair", pairs.values(), ids=lambda pair: pair.name)
def test_the_pair_itself_is_within_the_tolerances(folder: Path, pair: Pair) -> None:
    """The numbers suffice to call the pair, and autograd's gradients are those."""
    for entry in (e for e in entries(folder) if e["pair"] == pair.name):
        held = read(folder, entry)
        args = [held.get(n, entry["numbers"].get(n)) for n in pair.inputs]
        options = {n: held.get(n, v) for n, v in entry["options"].items()}
        options = {n: tuple(v) if isinstance(v, list) else v for n, v in options.items()}
        arguments = pair.arguments(args, options)
        result = pair.call(arguments)
        upstreams = {name: held[f"d{name}"] for name in pair.outputs}
        found = {f"d{n}": g for n, g in pair.gradients(arguments, result, upstreams).items()}
        found.update(pair.fields(result))
        for name in (*entry["outputs"], *entry["gradients"]):
            atol = entry["tensors"][name]["atol"]
            torch.testing.assert_close(found[name], held[name], rtol=0, atol=atol)


def test_the_hard_ones_are_there(folder: Path) -> None:
    cases = {entry["file"]: entry for entry in entries(folder)}
    assert cases["batchnorm-without_gain-float32.safetensors"]["none"] == ["gain", "bias"]
    tied = read(folder, cases["max-ties-float32.safetensors"])["x"]
    assert (tied == tied.amax(0)).sum(0).max() > 1
    wide = read(folder, cases["tanh-wide-float64.safetensors"])["x"].abs()
    assert wide.max() / wide.min() > 100


def test_twice_the_same(folder: Path, tmp_path: Path) -> None:
    for file in export(pairs, tmp_path):
        assert file.read_bytes() == (folder / file.name).read_bytes()


@pytest.mark.skipif(shutil.which("cc") is None, reason="the port is compiled by a C compiler")
@pytest.mark.parametrize(
    ("flag", "wrong"), [(None, None), ("WRONG_TANH", "tanh"), ("WRONG_BATCHNORM", "batchnorm")]
)
def test_a_port_to_c(folder: Path, tmp_path: Path, flag: str | None, wrong: str | None) -> None:
    """Verified without Python, and a planted mistake is found, in dx alone."""
    program = tmp_path / "verify"
    flags = [f"-D{flag}"] if flag else []
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Werror", *flags, VERIFY, "-o", program, "-lm"], check=True
    )
    files = [
        str(folder / entry["file"])
        for entry in entries(folder)
        if entry["pair"] in ("tanh", "batchnorm") and "images" not in entry["file"]
    ]
    done = subprocess.run([program, *files], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if wrong is None:
        assert (done.returncode, lines) == (0, [f"{len(files)} cases, all right"]), done.stdout
        return
    assert done.returncode == 1
    assert len(lines) > 1
    assert all(f"/{wrong}-" in line and ": dx[" in line for line in lines[:-1])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "tanh", "tanh", "--to", str(tmp_path / "new" / "folder")]) == 0
    assert capsys.readouterr().out.startswith("4 cases and manifest.json in ")
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["export", "tahn", "--to", "x"], "argument NAME: no pair is called 'tahn': did you mean"),
        (["export", "--to", "x"], "the following arguments are required: NAME"),
        (["export", "tanh"], "the following arguments are required: --to"),
        (["export", "tanh", "--to", __file__], "argument --to: "),
    ],
)
def test_errors(
    argv: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(argv)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_safetensors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(SystemExit):
        main(["export", "tanh", "--to", str(tmp_path)])
    assert "pip install 'backprop_ops[export]'" in capsys.readouterr().err
