"""Lines with a style each: in colour where rich prints them on a terminal, else plain text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

Line = tuple[str, str]
"""A style of rich, or nothing, and the text."""

RIGHT, WRONG, DOUBT = "bold green", "bold red", "yellow"
HEADING, ASIDE = "bold", "dim"


def plain(lines: Iterable[Line]) -> str:
    return "\n".join(text for _, text in lines)


def colored(lines: Iterable[Line]) -> Text:
    from rich.text import Text

    return Text("\n").join(Text(text, style) for style, text in lines)
