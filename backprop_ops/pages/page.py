"""A page as HTML that needs nothing else; all text is escaped."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from backprop_ops.styled import Styled


def render(template: str, **values: object) -> str:
    environment = Environment(
        loader=PackageLoader("backprop_ops.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def reports_page(title: str, reports: Sequence[Styled], errors: Sequence[str]) -> str:
    """The page on the checks of a file's pairs, and the errors of those not checked."""
    shown = [Markup(report._repr_html_()) for report in reports]
    return render("reports.html", title=title, reports=shown, errors=errors)
