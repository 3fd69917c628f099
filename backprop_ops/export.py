"""Golden cases: what the pairs make of chosen arguments, for ports to other languages.

Each case is a file of safetensors: eight bytes with the length of a header in JSON, the header, and
the numbers. ``manifest.json`` describes all cases of a folder.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import backprop_ops
from backprop_ops.golden import Golden, golden_calls
from backprop_ops.leaves import by_leaf, in_dtype, tensors
from backprop_ops.pair import Pair

DTYPES = (torch.float32, torch.float64)
SLACK = 16  # times the pair's own error, or units in the last place: another order of the sums


def export(names: Iterable[str], folder: Path) -> list[Path]:
    """Write the golden cases of the named pairs into ``folder``, and return the files.

    Raises ValueError for a name that is no pair, ImportError without the package safetensors.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise ImportError(
            "the golden cases are files of safetensors: pip install 'backprop_ops[export]'"
        ) from None
    pairs = [_pair(name) for name in dict.fromkeys(names)]
    folder.mkdir(parents=True, exist_ok=True)
    manifest, files = [], []
    for pair in pairs:
        for golden in golden_calls(pair.name):
            for dtype in DTYPES:
                entry, held = _case(pair, golden, dtype)
                file = folder / entry["file"]
                _write(file, save(held, _metadata(entry)))
                manifest.append(entry)
                files.append(file)
    text = json.dumps({"format": 1, "cases": manifest}, indent=1, ensure_ascii=False)
    _write(folder / "manifest.json", text.encode())
    return [*files, folder / "manifest.json"]


def _pair(name: str) -> Pair:
    if name not in backprop_ops.pairs:
        near = difflib.get_close_matches(name, backprop_ops.pairs, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the pairs are {_listed()}"
        raise ValueError(f"no pair is called {name!r}: {hint}")
    return backprop_ops.pairs[name]


def _listed() -> str:
    return ", ".join(backprop_ops.pairs)


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = file.with_name(file.name + ".part")
    part.write_bytes(content)
    os.replace(part, file)


def _case(
    pair: Pair, golden: Golden, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The entry of the manifest, and the tensors by name.

    The numbers are those of float64, rounded to ``dtype``; how far a port may be off is measured by
    the pair itself in float32.
    """
    arguments = pair.arguments(golden.args, golden.options)
    result, upstreams = _upstreams(pair, arguments)
    exact = _computed(pair, arguments, result, upstreams)
    narrow = in_dtype(arguments, torch.float32)
    rounded = _computed(
        pair, narrow, pair.call(narrow), {n: u.float() for n, u in upstreams.items()}
    )
    tolerances = {
        name: _tolerance(value, rounded[name], dtype)
        for name, value in exact.items()
        if value.is_floating_point()
    }
    inputs = tensors({name: arguments[name] for name in pair.inputs})
    options = {name: arguments[name] for name in pair.options}
    sent = {f"d{name}": u for name, u in upstreams.items()}
    held = in_dtype({**inputs, **tensors(options), **sent, **exact}, dtype)
    entry = {
        "file": f"{pair.name}-{golden.name}-{str(dtype)[6:]}.safetensors",
        "pair": pair.name,
        "formula": (pair.forward.__doc__ or "").partition("\n")[0],
        "backward": (pair.backward.__doc__ or "").partition("\n")[0],
        "inputs": list(inputs),
        "none": [name for name in pair.inputs if arguments[name] is None],
        "numbers": {n: v for n, v in arguments.items() if n in pair.inputs and _is_number(v)},
        "options": {n: n if isinstance(v, Tensor) else v for n, v in options.items()},
        "outputs": list(pair.outputs),
        "kept": [name for name in pair.kept if name in exact],
        "upstreams": list(sent),
        "gradients": [name for name in exact if name not in (*pair.outputs, *pair.kept)],
        "tensors": {
            n: {"dtype": str(x.dtype)[6:], "shape": list(x.shape), "atol": tolerances.get(n, 0.0)}
            for n, x in held.items()
        },
    }
    return entry, {name: x.contiguous().clone() for name, x in held.items()}


def _tolerance(exact: Tensor, in_float32: Tensor, dtype: torch.dtype) -> float:
    """How far a port may be off: a power of two, for the same files on every machine."""
    eps, finite = torch.finfo(torch.float32).eps, exact.isfinite()
    exact, in_float32 = exact[finite], in_float32[finite]
    error = (in_float32.double() - exact).abs().max().item() / eps
    allowed = SLACK * max(error, exact.abs().max().item()) * torch.finfo(dtype).eps
    return 2.0 ** math.ceil(math.log2(allowed)) if allowed else torch.finfo(dtype).tiny


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _upstreams(pair: Pair, arguments: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    result = pair.call(arguments)
    fields, generator = pair.fields(result), torch.Generator().manual_seed(1)
    return result, {
        name: torch.randn(fields[name].shape, generator=generator).double() for name in pair.outputs
    }


def _computed(
    pair: Pair, arguments: dict[str, Any], result: Any, upstreams: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The outputs, the kept fields and the gradients by name."""
    gradients = by_leaf(pair.gradients(arguments, result, upstreams))
    named = {f"d{name}": g for name, g in gradients.items()}
    return {n: x for n, x in {**pair.fields(result), **named}.items() if isinstance(x, Tensor)}


def _metadata(entry: dict[str, Any]) -> dict[str, str]:
    """One string that is read without a parser: ``pair=tanh option:eps=1e-05 atol:dx=1e-06 ``.

    One, since safetensors writes several in any order.
    """
    words = [f"pair={entry['pair']}"]
    words += [f"option:{n}={json.dumps(v)}" for n, v in entry["options"].items()]
    words += [f"atol:{n}={t['atol']!r}" for n, t in entry["tensors"].items()]
    return {"golden": "".join(f"{word} " for word in words).replace('"', "")}
