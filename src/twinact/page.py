"""What all reports share: one HTML page in which nothing is loaded from anywhere, no scripts, every picture inside."""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources

from twinact import PLACEHOLDER, __version__
from twinact.action import Explanation
from twinact.charts import coefficients


def page(name: str, brand: str, lead: str, verdict: str, sections: str, hero: str = "") -> str:
    """The whole document.

    Args:
        name, brand: Of the action, and what kind of report this is.
        lead, verdict: Title, and the sentences below it.
        sections, hero: HTML: see `section`, and what stands beside the title.
    """
    style = (resources.files("twinact") / "report.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{escape(name)} · twinact</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header>
<div>
<p class="brand">twinact <span>{escape(brand)}</span></p>
<h1>{escape(lead)}</h1>
<p class="verdict">{escape(verdict)}</p>
</div>
{hero}
</header>
<main>
{sections}</main>
<footer><p>twinact {escape(__version__)}</p></footer>
</body>
</html>
"""


def section(title: str, body: str, *, wide: bool = False) -> str:
    """A part of the page under a heading."""
    anchor = title.lower().replace(" ", "-").replace(",", "")
    kind = ' class="wide"' if wide else ""
    return f'<section id="{anchor}"{kind}>\n<h2>{escape(title)}</h2>\n{body}</section>\n'


def exemplar_figures(exemplars: Iterable[tuple[str, str]]) -> str:
    """Pictures, each an `image` in HTML, with their captions."""
    placeholder = escape(PLACEHOLDER)
    figures = "".join(
        f"<figure>{shown}<figcaption>"
        f"{escape(caption).replace(placeholder, f'<code>{placeholder}</code>')}</figcaption></figure>"
        for shown, caption in exemplars
    )
    return f'<div class="exemplars">{figures}</div>\n'


def explained(explanation: Explanation, phrase_count: int) -> str:
    """Where an action lies among the phrases of its space."""
    largest = max((share for _, _, share in explanation.phrases), default=0.0) or 1.0
    near = "".join(
        f'<li><span>{escape(text)}</span><span class="meter"><i style="width:{100 * share / largest:.1f}%"></i></span>'
        f"<span>{100 * share:.0f} % <small>cosine {similarity:.2f}</small></span></li>"
        for text, similarity, share in explanation.phrases
    )
    chart = coefficients(explanation.components, "The largest coefficients; values in standard deviations of phrases")
    outside = " That is further out than any phrase." if explanation.norm > explanation.largest_phrase_norm else ""
    return (
        f"<p>The space is spanned by {phrase_count} action phrases. The learned point lies "
        f"{explanation.norm:.1f} times as far from their middle as a typical phrase does.{outside}</p>\n"
        f'<div class="columns"><div><h3>Nearest phrases</h3><ol class="near">{near}</ol>'
        "<p><small>Shares are the similarities made to sum to 100 %: a reading aid, not a decomposition.</small></p>"
        f"</div><div><h3>Largest coefficients</h3>{chart}"
        "<p><small>slot:component, in standard deviations of the phrases.</small></p></div></div>\n"
    )


def pairs(values: Mapping[str, str]) -> str:
    """Names and values, one a line."""
    return (
        '<dl class="pairs">' + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in values.items()) + "</dl>"
    )


def image(png: bytes, alt: str) -> str:
    """A square picture."""
    return f'<img src="{_data_url(png)}" alt="{escape(alt)}">'


def plot(png: bytes, alt: str, text: str) -> str:
    """A picture of any shape, with a line below it."""
    return (
        f'<figure><img class="plot" src="{_data_url(png)}" alt="{escape(alt)}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
