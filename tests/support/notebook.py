"""A notebook's IPython, as far as results ask it; what it displays it prints as text."""

from __future__ import annotations

from types import SimpleNamespace


def notebook(shell: SimpleNamespace) -> SimpleNamespace:
    def display(shown: dict[str, str], *, raw: bool) -> None:
        assert raw
        assert shown["text/html"].startswith("<pre>")
        print(shown["text/plain"])

    return SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=display))
