"""Pages from the templates in ``templates/``: templates hold the words, Python computes the numbers."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def page(template: str, **values: Any) -> str:
    """The text that a template makes from values.

    Args:
        template: its file's name without ".jinja". Values are escaped if that ends with ".html" or ".svg".
        values: what the template uses; a missing one raises jinja2's UndefinedError.
    """
    return _environment().get_template(f"{template}.jinja").render(**values)


def percent(fraction: float) -> str:
    """0.95231 -> "95.23"."""
    return f"{100 * fraction:.2f}"


def cell(value: Any) -> str:
    """A value as the text of one cell of a Markdown table."""
    return str(value).replace("|", "\\|")


def quoted(text: str) -> str:
    """A text as a literal of Python."""
    return json.dumps(text, ensure_ascii=False)


def untagged(text: str) -> str:
    """A text without HTML's tags; other angle brackets stay."""
    return re.sub(r"</?[A-Za-z][^<>]*>", "", text)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("adaptive_smoothing_zoo.publishing"),
        autoescape=lambda name: name is not None and name.endswith((".html.jinja", ".svg.jinja")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "cell": cell,
        "g": "{:g}".format,
        "quoted": quoted,
        "untagged": untagged,
    }
    return environment
