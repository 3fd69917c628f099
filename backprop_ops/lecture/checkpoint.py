"""A run of the training in a file: written, read, and refused where it does not fit."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.network import BLOCK_SIZE, EMBEDDING, Parameters, Statistics, calibrate
from backprop_ops.lecture.training import Options, Training

_FORMAT = 2
_DIGEST = 64  # hexadecimal digits of SHA-256


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file that `save` wrote."""

    step: int
    options: Options
    parameters: Parameters
    statistics: Statistics
    generator: Tensor
    alphabet: str
    digest: str
    compiled: bool | None
    machine: str


def save(run: Training, file: Path) -> None:
    """Write a checkpoint to a temporary file beside ``file`` and rename it to ``file``.

    Raises DivergedError, and writes nothing, where a parameter is no longer finite.
    """
    run.require_finite()
    checkpoint = {
        "format": _FORMAT,
        "step": run.step,
        "options": asdict(run.options),
        "parameters": run.parameters._asdict(),
        "statistics": calibrate(run.parameters, run.dataset.train.context)._asdict(),
        "generator": run.generator.get_state(),
        "alphabet": run.dataset.alphabet,
        "digest": run.dataset.digest,
        "compiled": run.compiled,
        "machine": _machine(),
    }
    target = file.resolve()
    with _temporary_beside(target) as stream:
        try:
            stream.write(_sealed(checkpoint))
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(stream.name, target)
        except BaseException:
            os.unlink(stream.name)
            raise


def load(file: Path) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError where it is none, or is damaged."""
    try:
        content = torch.load(_unsealed(file), map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from None
    except CheckpointError:
        raise
    except Exception:  # a file of another kind raises errors of no common type
        raise CheckpointError(f"{file}: not a checkpoint, or a damaged one") from None
    try:
        if content.pop("format") != _FORMAT:
            raise CheckpointError(f"{file}: a checkpoint of another version of backprop_ops")
        content["options"] = Options(**content["options"])
        content["parameters"] = Parameters(**content["parameters"])
        content["statistics"] = Statistics(**content["statistics"])
        checkpoint = Checkpoint(**content)
        _check_shapes(checkpoint)
    except (AttributeError, KeyError, TypeError):
        raise CheckpointError(f"{file}: not a checkpoint of backprop_ops") from None
    return checkpoint


def resume(file: Path, dataset: Dataset, say: Callable[[str], None] = lambda _: None) -> Training:
    """The run as ``file`` left it. Raises CheckpointError where the data are not the same.

    ``say`` gets a line where the run goes on with other bits than it would have had.
    """
    checkpoint = load(file)
    if checkpoint.alphabet != dataset.alphabet or checkpoint.digest != dataset.digest:
        raise CheckpointError(
            f"{file}: trained on another list of names (SHA-256 {checkpoint.digest[:12]}…) "
            f"than the one given ({dataset.digest[:12]}…); give the same --names"
        )
    if checkpoint.machine != _machine():
        say(f"the bits will differ: {file} is of {checkpoint.machine}, this is {_machine()}")
    generator = torch.Generator()
    generator.set_state(checkpoint.generator)
    return Training(
        checkpoint.options,
        dataset,
        checkpoint.parameters,
        generator,
        checkpoint.step,
        checkpoint.compiled,
    )


def _sealed(checkpoint: dict[str, Any]) -> bytes:
    """The checkpoint as torch writes it, a zip archive, with a digest of it as the comment.

    The archive's own checksums leave out its headers.
    """
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    archive = buffer.getvalue()[:-2] + _DIGEST.to_bytes(2, "little")  # the length of the comment
    return archive + hashlib.sha256(archive).hexdigest().encode()


def _unsealed(file: Path) -> IO[bytes]:
    """The archive in ``file``; CheckpointError where a byte of it has changed."""
    content = file.read_bytes()
    if content[-_DIGEST:] != hashlib.sha256(content[:-_DIGEST]).hexdigest().encode():
        raise CheckpointError(f"{file}: not a checkpoint, or a damaged one")
    return io.BytesIO(content)


def _machine() -> str:
    """What decides on the bits of a compiled run."""
    return f"torch {version('torch')}, {torch.backends.cpu.get_cpu_capability()}"


def check_writable(file: Path) -> None:
    """Raise the OSError that `save` would, before the work begins."""
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    with _temporary_beside(file.resolve()) as stream:
        os.unlink(stream.name)


def _temporary_beside(file: Path) -> IO[bytes]:
    """A file of this run's own, with the access rights of any new file."""
    return file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.tmp").open("xb")


def _check_shapes(checkpoint: Checkpoint) -> None:
    """Raise TypeError where the parameters are not those of the options and the alphabet."""
    hidden, vocabulary = checkpoint.options.hidden, len(checkpoint.alphabet) + 1
    expected: dict[str, tuple[int, ...]] = {
        "C": (vocabulary, EMBEDDING),
        "W1": (BLOCK_SIZE * EMBEDDING, hidden),
        "b1": (hidden,),
        "W2": (hidden, vocabulary),
        "b2": (vocabulary,),
        "bngain": (1, hidden),
        "bnbias": (1, hidden),
        "mean": (1, hidden),
        "var": (1, hidden),
    }
    found: dict[str, Any] = {
        **checkpoint.parameters._asdict(),
        **checkpoint.statistics._asdict(),
    }
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise TypeError(f"{name} is of shape {tuple(found[name].shape)}, expected {shape}")
