"""Make reports.md: `python docs/make_reports.py`."""

import re
from pathlib import Path

from backprop_ops.checking.userfile import check_file

HERE = Path(__file__).parent
HEAD = """\
# Ten reports

Each of the ten backwards of [wrong.py](wrong.py) has one mistake. Each is given to `check` on one
ordinary sample, and this is what comes back. A report has

- a row for each gradient on that sample: whether it is bit-equal to autograd's, whether it is
  close, and how far it is off;
- what fails, at which entry, with both numbers; and, where the sample itself does not show it, on
  which variation of the sample it does;
- the likely mistake, where one explains all of the error. The key in brackets is
  `report.failures[0].mistake`;
- the smallest input found that still shows it, as code to paste: it prints what the backward gives,
  then what autograd does;
- the seed that repeats the check.

`backprop-ops check docs/wrong.py --seed 0` prints all ten.
"""


def main() -> None:
    source = (HERE / "wrong.py").read_text()
    parts = {}
    for part in re.split(r"\n\n\n(?=#)", source)[1:]:
        name = re.search(r"^def (\w+)_backward", part, re.MULTILINE)[1]
        parts[f"{name}_backward"] = part.rstrip()
    page = [HEAD]
    for report in check_file(str(HERE / "wrong.py"), seed=0):
        code = re.sub(r"\n\n\ndef \w+_sample.*", "", parts[report.name], flags=re.DOTALL)
        title = f"## {report.name.removesuffix('_backward')}"
        page.append(f"{title}\n\n```python\n{code}\n```\n\n```\n{report}\n```\n")
    (HERE / "reports.md").write_text("\n".join(page))


if __name__ == "__main__":
    main()
