"""Pages and cards from the templates in a package's ``templates`` folder, by jinja2."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["code_span", "render"]


def render(package: str, name: str, **values: Any) -> str:
    """Fills in ``templates/<name>`` of a package.

    In a template that ends with ``.html`` every value is shown as text. In Markdown the filter ``code`` does so: see
    :func:`code_span`.

    Args:
        package: The package's name.
        name: The template's file name.
        **values: What the template names; a name that is missing is an error.
    """
    # Here, since every command would pay for the import.
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = code_span
    return environment.get_template(name).render(**values)


def code_span(text: object, cell: bool = False) -> str:
    """A text as Markdown's code span, in which neither Markdown nor HTML means anything.

    Args:
        text: Of any characters; white space is collapsed, since a blank line would end the paragraph.
        cell: It stands in a table, where a vertical bar has to be escaped.

    Example:
        >>> code_span("light"), code_span("a`b")
        ('`light`', '``a`b``')
    """
    line = " ".join(str(text).split()) or " "
    if cell:
        line = line.replace("|", "\\|")
    # Longer than any run of backticks in it, and apart from those at its ends.
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if "`" in (line[0], line[-1]) else ""
    return f"{fence}{pad}{line}{pad}{fence}"
