from __future__ import annotations

from pathlib import Path

import pytest

from backprop_ops.lecture.data import DataError, Dataset, build_dataset, read_names


def test_embedded_names() -> None:
    names = read_names()
    assert len(names) == 32178
    assert names[:3] == ["emma", "olivia", "ava"]
    assert set("".join(names)) == set("abcdefghijklmnopqrstuvwxyz")


def test_splits_of_the_lecture(lecture: Dataset) -> None:
    assert len(lecture.train.target) == 182625
    assert len(lecture.val.target) == 22655
    assert len(lecture.test.target) == 22866
    assert lecture.vocabulary == 27


def test_contexts_slide_over_a_name() -> None:
    dataset = build_dataset(["ab", "ab", "ab"])
    assert dataset.alphabet == "ab"
    for split in (dataset.train, dataset.val, dataset.test):
        assert split.context.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2]]
        assert split.target.tolist() == [1, 2, 0]


@pytest.mark.parametrize("n", [3, 4, 5, 9, 10, 11])
def test_every_split_has_a_name(n: int) -> None:
    dataset = build_dataset(["x"] * n)
    sizes = [len(s.target) // 2 for s in (dataset.train, dataset.val, dataset.test)]
    assert min(sizes) >= 1
    assert sum(sizes) == n


def test_the_alphabet_is_the_files_own(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffÆsa\r\n\r\n  zoë. \nĽ\n".encode())
    names = read_names(file)
    assert names == ["Æsa", "zoë.", "Ľ"]
    assert build_dataset(names).alphabet == ".aoszÆëĽ"


BAD_FILES = {
    "missing": (None, "No such file or directory"),
    "empty": (b"", "0 name(s); three are needed"),
    "blank": (b"\n \n\t\n", "0 name(s); three are needed"),
    "two": (b"emma\nolivia\n", "2 name(s); three are needed"),
    "latin": ("zoë\nava\nmia\n".encode("latin-1"), "not UTF-8 text, at byte 2"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_names(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert message in str(raised.value)


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Is a directory"):
        read_names(tmp_path)
