"""The pairs of a file of one's own: ``NAME``, ``NAME_backward``, and ``NAME_sample`` to try it on.

``NAME_sample()`` returns a tuple of NAME's arguments, or such a tuple and a dict of its options.
"""

from __future__ import annotations

import difflib
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backprop_ops.checking.report import Report


class FileError(Exception):
    """The reason why a file, or one of its pairs, cannot be checked, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    @classmethod
    def at(cls, path: Path, error: BaseException) -> FileError:
        """An error of the file's own, with the line of the file that led to it."""
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(path.resolve())
        ]
        if isinstance(error, SyntaxError) and not lines:  # in the file itself
            return cls(f"{path}, line {error.lineno}: {type(error).__name__}: {error.msg}")
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        return cls(f"{where}: {type(error).__name__}: {error}")


def check_file(target: str, seed: int | None = None) -> Iterator[tuple[str, Report | FileError]]:
    """Check the pair that ``FILE.py::NAME`` names, or every pair of ``FILE.py`` with a sample.

    Each comes with its name. A pair that cannot be checked gives a FileError in place of its
    report; a file that cannot be run raises one. ``seed``: of the check, and of torch when the
    sample is drawn; a fresh one unless given.
    """
    file, colons, named = target.partition("::")
    path = Path(file)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error

    # Before the file's own folder is searched, where a random.py would hide Python's from torch.
    import torch  # noqa: F401

    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    functions = run_file(path, source)
    for name in [named] if colons else _sampled(path, functions):
        try:
            yield name, _check(path, functions, name, seed)
        except FileError as error:
            yield name, error


def _check(path: Path, functions: Mapping[str, Callable[..., Any]], name: str, seed: int) -> Report:
    import torch

    from backprop_ops.checking.checker import check

    forward, backward, draw = _parts(path, functions, name)
    torch.manual_seed(seed)
    try:
        sample = draw()
    except Exception as error:
        raise FileError.at(path, error) from error
    if not isinstance(sample, tuple):
        raise FileError(
            f"{path}: {name}_sample must return a tuple of arguments, got {type(sample).__name__}"
        )
    args, kwargs = sample if _has_options(sample) else (sample, {})
    try:
        return check(forward, backward, args, kwargs, seed=seed)
    except (TypeError, ValueError) as error:
        raise FileError(f"{path}: {error}") from error


def run_file(path: Path, source: bytes) -> dict[str, Callable[..., Any]]:
    """Run the file, as an import from its own folder does; what it has that can be called.

    No bytecode is read or written: Python takes it for that of a file edited in the same second.
    """
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_py"
    module = ModuleType(name)
    module.__file__ = str(path.resolve())
    sys.modules[name] = module  # where annotations are looked up
    sys.path.insert(0, str(path.resolve().parent))
    try:
        exec(compile(source, module.__file__, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        raise FileError.at(path, error) from error
    return {key: value for key, value in vars(module).items() if callable(value)}


def _sampled(path: Path, functions: Mapping[str, Callable[..., Any]]) -> list[str]:
    names = [name for name in functions if f"{name}_sample" in functions]
    if not names:
        raise FileError(f"{path} has no NAME with a NAME_sample")
    return names


def _parts(
    path: Path, functions: Mapping[str, Callable[..., Any]], name: str
) -> list[Callable[..., Any]]:
    """The forward, the backward and the sample; an error names the first that there is not."""
    parts = [name, f"{name}_backward", f"{name}_sample"]
    missing = [part for part in parts if part not in functions]
    if missing:
        near = difflib.get_close_matches(name, functions, n=1) if name in missing else []
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise FileError(f"{path} has no function {missing[0]!r}{hint}")
    return [functions[part] for part in parts]


def _has_options(sample: tuple[Any, ...]) -> bool:
    return len(sample) == 2 and isinstance(sample[0], tuple) and isinstance(sample[1], dict)
