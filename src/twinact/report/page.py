"""Renders a report: one HTML page that holds all its pictures, has no scripts and loads nothing."""

import base64
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from twinact import PLACEHOLDER, __version__
from twinact.report.charts import coefficients, curve, forest, percent_text, plane


def render(template: str, packages: tuple[str, ...] = (), **values: Any) -> str:
    """A page from a template that extends ``page.html.j2``. All text is escaped; charts are SVG already.

    Args:
        template: Name of the file in a ``templates`` folder.
        packages: Packages besides this one that have such a folder.
        values: What the template needs: at least name, brand, lead and verdict.
    """
    style = (resources.files("twinact.report") / "report.css").read_text(encoding="utf-8")
    return _environment(packages).get_template(template).render(style=style, **values)


def data_url(png: bytes) -> str:
    """A PNG file as a URL that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


@cache
def _environment(packages: tuple[str, ...]) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "twinact.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = data_url
    environment.globals.update(
        placeholder=PLACEHOLDER,
        version=__version__,
        coefficients=coefficients,
        curve=curve,
        forest=forest,
        percent_text=percent_text,
        plane=plane,
    )
    return environment
