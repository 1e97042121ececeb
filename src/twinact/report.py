"""A demo as one HTML page: nothing is loaded from anywhere, no scripts, every picture inside.

Only makes text from records; where pictures and numbers come from is the business of `twinact.demo`.
"""

from collections.abc import Sequence
from html import escape

from twinact import PLACEHOLDER
from twinact.bench.metrics import Share
from twinact.charts import Group, forest, percent_text
from twinact.page import exemplar_figures, explained, image, page, pairs, plot, section
from twinact.report_data import MethodResult, Picture, ReportData, Strip, lead, result
from twinact.world.splits import CUSTOM_ACTIONS

_MEASURES = (
    ("joint", "Action and actor right", "Both of the next two in one picture: the number that counts."),
    ("action", "Action right", "Every joint angle that makes the action lies within its tolerance."),
    ("actor", "Actor right", "The actor of the prompt is seen."),
    ("leak", "Exemplar's actor seen (less is better)", "An actor of the exemplars is seen instead."),
    ("place", "Place right", "The place of the prompt is seen."),
)
_MAP = "The phrases in the plane in which they differ most; the star is the learned action."
_SCREE = "How many components hold how much of the phrases' variance."


def report_html(data: ReportData) -> str:
    """The page."""
    sections = (
        section("Exemplars", _exemplars(data)),
        section("Other actors, other places", _methods(data), wide=True),
        section("Judged", _numbers(data)),
        section("The action in the space", _space(data)),
        section("Adjusting", _strips(data.adjusting, "The same prompt and the same seed; only the action moves.")),
        section("Combining", _strips(data.combining, "Actions are points, so they can be added.")),
        section("How this was made", _making(data)),
        section("Limits", _limits(data)),
    )
    return page(data.name, "demo", lead(data), result(data), "".join(sections), _hero(data))


def _hero(data: ReportData) -> str:
    """The first place of every actor: nobody chose the best ones."""
    ours = data.methods[0]
    pictures = "".join(_img(row[0]) for row in ours.pictures)
    text = f"{ours.name}'s pictures {data.places[0]}, good and bad"
    return f"<figure><div>{pictures}</div><figcaption>{escape(text)}</figcaption></figure>"


def _exemplars(data: ReportData) -> str:
    return (
        f"<p>The action is one of {len(CUSTOM_ACTIONS)} that nothing was trained on, chosen as an example. These "
        f"pictures are all that it was learned from. The captions name who and where, and leave only the action to "
        f"<code>{escape(PLACEHOLDER)}</code>.</p>\n"
        + exemplar_figures((_img(picture), caption) for picture, caption in data.exemplars)
    )


def _methods(data: ReportData) -> str:
    key = (
        "<p>Equal prompts and equal seeds for all methods. The bar under each picture is what the judges see: "
        '<span class="key"><i class="yes"></i> action right</span>, <span class="key"><i class="yes actor"></i> actor '
        'right</span>, <span class="key"><i class="no"></i> wrong</span>, <span class="key"><i class="leak"></i> an '
        "exemplar's actor instead</span>. The first column is drawn by the world itself and shows what is asked for; "
        "no method saw it.</p>\n"
    )
    tables = "".join(_method_table(data, method, index) for index, method in enumerate(data.methods))
    # The first table has a column more, and all pictures should be of one size.
    tracks = " ".join(f"{len(data.places) + (i == 0)}fr" for i in range(len(data.methods)))
    return f'{key}<div class="methods" style="--tracks:{tracks}">{tables}</div>\n'


def _method_table(data: ReportData, method: MethodResult, index: int) -> str:
    head = "".join(f'<th scope="col">{escape(place)}</th>' for place in data.places)
    rows = "".join(
        f'<tr><th scope="row">{_img(truth)}<span title="{escape(actor)}">{escape(actor)}</span></th>'
        + "".join(f"<td>{_judged(picture)}</td>" for picture in row)
        + "</tr>"
        for actor, truth, row in zip(data.actors, data.truths, method.pictures, strict=True)
    )
    joint = method.scores.joint
    return (
        f'<table class="method-{index}"><caption><strong>{escape(method.name)}</strong> '
        f"<b>{joint.successes} of {joint.count}</b><span>{escape(method.how)}</span></caption>"
        f'<thead><tr><th scope="col">asked for</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _judged(picture: Picture) -> str:
    if picture.seen is None:
        return _img(picture)
    action = "yes" if picture.seen.action else "no"
    actor = "yes actor" if picture.seen.actor else "leak" if picture.seen.leak else "no"
    bar = (
        f'<span class="bar" title="{escape(str(picture.seen))}"><i class="{action}"></i><i class="{actor}"></i></span>'
    )
    return _img(picture) + bar


def _numbers(data: ReportData) -> str:
    rated = [(method.name, method.scores) for method in data.methods] + [("true drawings", data.ceiling)]
    groups = [
        Group(title, [(name, getattr(scores, field)) for name, scores in rated])
        for field, title, _ in _MEASURES
        if field != "place"
    ]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for _, title, _ in _MEASURES)
    rows = "".join(
        f'<tr class="method-{index}"><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{_share(getattr(scores, field))}</td>" for field, _, _ in _MEASURES)
        + f"<td><b>{100 * scores.near:.0f} %</b></td></tr>"
        for index, (name, scores) in enumerate(rated)
    )
    notes = "".join(f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>" for _, title, text in _MEASURES)
    return (
        "<p>Judged by networks that were trained apart from everything the methods see or optimise. "
        "“True drawings” are the world's own pictures of the same prompts: what the judges would say of a perfect "
        "method. Whiskers and brackets are Wilson 95 % intervals.</p>\n"
        f'<figure class="scroll">{forest(groups, "Judged shares of all methods; the table has the numbers")}</figure>\n'
        '<div class="scroll"><table class="numbers">'
        f"<caption>{data.ceiling.joint.count} pictures a row: share and 95 % interval</caption>"
        f'<thead><tr><td></td>{head}<th scope="col">Joint angles right, on average</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>\n"
        f"<details><summary>What is counted</summary><dl>{notes}</dl></details>\n"
    )


def _share(share: Share) -> str:
    text = percent_text(share)
    number, _, interval = text.partition(" [")
    return f"<b>{number}</b> " + (f"<small>[{interval}</small>" if interval else "")


def _space(data: ReportData) -> str:
    return (
        explained(data.explanation, data.phrase_count)
        + f'<div class="plots">{plot(data.map_png, "Map of all phrases with the action", _MAP)}'
        f"{plot(data.scree_png, 'Share of variance against components, for each slot', _SCREE)}</div>\n"
    )


def _strips(strips: Sequence[Strip], text: str) -> str:
    return f'<p>{escape(text)}</p>\n<div class="strips">' + "".join(_strip(strip) for strip in strips) + "</div>\n"


def _strip(strip: Strip) -> str:
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in strip.labels)
    rows = "".join("<tr>" + "".join(f"<td>{_img(picture)}</td>" for picture in row) + "</tr>" for row in strip.rows)
    return (
        f"<table><caption><strong>{escape(strip.title)}</strong><span>{escape(strip.text)}</span></caption>"
        f"<tbody>{rows}</tbody><tfoot><tr>{head}</tr></tfoot></table>"
    )


def _making(data: ReportData) -> str:
    total = sum(data.seconds.values())
    stages = pairs({**{name: f"{value:.1f} s" for name, value in data.seconds.items()}, "together": f"{total:.0f} s"})
    commands = "\n\n".join(f"# {escape(what)}\n{escape(command)}" for what, command in data.commands)
    return (
        f'<div class="columns three"><div><h3>Settings</h3>{pairs(data.settings)}</div>'
        f"<div><h3>Time</h3>{stages}</div><div><h3>Versions</h3>{pairs(data.versions)}</div></div>\n"
        f"<h3>Commands</h3>\n<pre><code>{commands}</code></pre>\n"
    )


def _limits(data: ReportData) -> str:
    count = data.methods[0].scores.joint.count
    words = next((m for m in data.methods if m.name == "words"), None)
    items = [
        f"One action and {count} pictures a method: an example, not a benchmark. The intervals count pictures as if "
        "they were independent, although those of one actor or place resemble each other.",
        "The model is small and knows only a drawn world. What holds on it need not hold on photographs.",
        "The actors asked for are known to the model; it is the pair of actor and action that is new.",
        "The judges make mistakes of their own; the row “true drawings” says how many.",
    ]
    if words is not None:
        items.append(
            "The words were chosen with knowledge of the true joint angles, better than a person who sees only the "
            "pictures could choose them. That favours words."
        )
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>\n"


def _img(picture: Picture) -> str:
    alt = picture.alt if picture.seen is None else f"{picture.alt}; judged: {picture.seen}"
    return image(picture.png, alt)
