"""The reports on the wrong pairs of wrong.py, and on ten of the students' mistakes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from backprop_ops import check
from backprop_ops.checking.userfile import check_file
from tests.students.lecture import MISTAKES

WRONG = Path(__file__).with_name("wrong.py")


def reports() -> str:
    """Each pair with its report."""
    parts = {}
    for part in re.split(r"\n\n\n(?=#)", WRONG.read_text("utf-8"))[1:]:
        name = re.search(r"^def (\w+)_backward", part, re.MULTILINE)[1]
        parts[f"{name}_backward"] = part.rstrip()
    sections = []
    for _, report in check_file(str(WRONG), seed=0):
        code = re.sub(r"\n\n\ndef \w+_sample.*", "", parts[report.name], flags=re.DOTALL)
        title = f"## {report.name.removesuffix('_backward')}"
        sections.append(f"{title}\n\n```python\n{code}\n```\n\n```\n{report}\n```")
    return "\n\n".join(sections)


def students() -> str:
    """Every fourth mistake, as the student wrote it, with its report."""
    sections = []
    for name, entry in list(MISTAKES.items())[::4]:
        lines = inspect.getsource(entry.backward).splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("def "))
        code = "\n".join([inspect.getsource(entry.forward).rstrip(), "\n", *lines[start:]])
        report = check(entry.forward, entry.backward, entry.args, entry.options, seed=0)
        title = name.replace("_", " ")
        sections.append(
            f"## {title}\n\n{entry.mistake}\n\n```python\n{code}\n```\n\n```\n{report}\n```"
        )
    return "\n\n".join(sections)
