"""The names, their alphabet, and the three splits of the lecture."""

from __future__ import annotations

import hashlib
import random
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops.lecture.network import BLOCK_SIZE

END = 0  # the character before and after a name, the lecture's "."
SHUFFLE_SEED = 42


class DataError(ValueError):
    """A list of names that cannot be used; the message names the file and what is wrong."""


class Split(NamedTuple):
    """Each context of characters and the character that follows it, by number."""

    context: Tensor  # (examples, block)
    target: Tensor  # (examples)


class Dataset(NamedTuple):
    """The three splits of a list of names; a character's number is its place in ``alphabet``."""

    alphabet: str  # the list's own characters, sorted; the first has number 1
    train: Split
    val: Split
    test: Split
    digest: str  # SHA-256 of the names, to know them again

    @property
    def vocabulary(self) -> int:
        return len(self.alphabet) + 1

    def __str__(self) -> str:
        """The lecture's lines: the shapes of the three splits."""
        return "\n".join(
            f"{name:5s} {split.context.shape} {split.target.shape}"
            for name, split in (("train", self.train), ("val", self.val), ("test", self.test))
        )


def read_names(file: Path | None = None) -> list[str]:
    """The names in ``file``, one a line, blank lines left out; the embedded list without a file.

    Raises DataError where the file cannot be read or holds fewer than three names.
    """
    if file is None:
        text = resources.files("backprop_ops.lecture").joinpath("names.txt").read_text("utf-8")
    else:
        try:
            text = file.read_text("utf-8-sig")
        except OSError as error:
            raise DataError(f"{file}: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 text, at byte {error.start}") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(names) < 3:
        raise DataError(
            f"{file}: {len(names)} name(s); three are needed, one a line, "
            f"one for each of the three splits"
        )
    return names


def build_dataset(names: list[str]) -> Dataset:
    """Shuffle as the lecture does and split 80/10/10, each split with one name at least."""
    alphabet = "".join(sorted(set("".join(names))))
    shuffled = list(names)
    random.Random(SHUFFLE_SEED).shuffle(shuffled)
    n = len(names)
    train_end = min(int(0.8 * n), n - 2)
    val_end = min(max(int(0.9 * n), train_end + 1), n - 1)
    return Dataset(
        alphabet,
        _examples(shuffled[:train_end], alphabet),
        _examples(shuffled[train_end:val_end], alphabet),
        _examples(shuffled[val_end:], alphabet),
        hashlib.sha256("\n".join(names).encode()).hexdigest(),
    )


def _examples(names: list[str], alphabet: str) -> Split:
    number = {character: i for i, character in enumerate(alphabet, start=1)}
    contexts, targets = [], []
    for name in names:
        context = [END] * BLOCK_SIZE
        for target in [*(number[character] for character in name), END]:
            contexts.append(context)
            targets.append(target)
            context = [*context[1:], target]
    return Split(torch.tensor(contexts), torch.tensor(targets))
