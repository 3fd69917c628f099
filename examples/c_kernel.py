"""A kernel in C, called through ctypes, with its backward in C too: how it is checked.

    python c_kernel.py

The kernel reads contiguous float32 or float64, so the two functions around it make their arguments
contiguous. Autograd cannot follow C: finite differences judge, or the ``reference`` in torch.
The second report is that of the same file with a planted mistake.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from backprop_ops import check

SOURCE = Path(__file__).with_name("swish.c")
NAMES = {torch.float32: "float", torch.float64: "double"}

Kernel = Callable[..., Tensor]


def reference(x: Tensor) -> Tensor:
    return x * x.sigmoid()


def compiled(folder: Path, *flags: str) -> tuple[Kernel, Kernel]:
    """The forward and the backward of the C file."""
    library = folder / f"swish{len(flags)}.so"
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", *flags, str(SOURCE), "-o", str(library), "-lm"],
        check=True,
    )
    c = ctypes.CDLL(str(library))

    def run(name: str, *arrays: Tensor) -> Tensor:
        dtype = arrays[0].dtype
        if dtype not in NAMES:
            raise TypeError(f"{name} must have float32 or float64, got {dtype}: not supported")
        given = [array.contiguous() for array in arrays]
        result = torch.empty(arrays[0].shape, dtype=dtype)
        addresses = [ctypes.c_void_p(array.data_ptr()) for array in (*given, result)]
        getattr(c, f"{name}_{NAMES[dtype]}")(*addresses, ctypes.c_long(result.numel()))
        return result

    def swish(x: Tensor) -> Tensor:
        return run("swish", x)

    def swish_backward(dout: Tensor, x: Tensor) -> Tensor:
        return run("swish_backward", dout, x)

    return swish, swish_backward


def main() -> None:
    sample = (torch.randn(4, 7, generator=torch.Generator().manual_seed(0)),)
    with tempfile.TemporaryDirectory() as folder:
        for flags in ((), ("-DWRONG",)):
            forward, backward = compiled(Path(folder), *flags)
            print(check(forward, backward, sample, reference=reference, seed=0))
            print()


if __name__ == "__main__":
    main()
