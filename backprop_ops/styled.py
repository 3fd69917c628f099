"""Lines with a style each: in colour on a terminal and in a notebook, else plain text."""

from __future__ import annotations

import html
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

Line = tuple[str, str]
"""A style of rich, or nothing, and the text."""

RIGHT, WRONG, DOUBT = "bold green", "bold red", "yellow"
HEADING, ASIDE = "bold", "dim"


CSS = {  # read on a light and on a dark page
    RIGHT: "font-weight: bold; color: #2f9e5f",
    WRONG: "font-weight: bold; color: #e5484d",
    DOUBT: "color: #b7791f",
    HEADING: "font-weight: bold",
    ASIDE: "opacity: 0.7",
}


class Styled:
    """What is shown as lines: by print and by rich, and by a notebook as HTML."""

    @abstractmethod
    def lines(self) -> Iterable[Line]: ...

    def __str__(self) -> str:
        return plain(self.lines())

    def __rich__(self) -> Text:
        return colored(self.lines())

    def _repr_html_(self) -> str:
        return as_html(self.lines())


def as_html(lines: Iterable[Line]) -> str:
    shown = (
        f'<span style="{CSS[style]}">{html.escape(text)}</span>' if style else html.escape(text)
        for style, text in lines
    )
    return "<pre>" + "\n".join(shown) + "</pre>"


def plain(lines: Iterable[Line]) -> str:
    return "\n".join(text for _, text in lines)


def colored(lines: Iterable[Line]) -> Text:
    from rich.text import Text

    return Text("\n").join(Text(text, style) for style, text in lines)
