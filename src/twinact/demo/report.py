"""Draws the report of a demo from its data; `twinact.demo.demo` makes the data."""

from typing import NamedTuple

from twinact.demo.report_data import Picture, ReportData, lead, result
from twinact.report.charts import Group
from twinact.report.page import render
from twinact.report.run_report import figure
from twinact.world.splits import CUSTOM_ACTIONS


class Measure(NamedTuple):
    """A number that the judges give: its field in `Scores`, its heading, and what it counts."""

    field: str
    title: str
    text: str


_MEASURES = (
    Measure("clean", "Right, nothing carried over", "The next one, and nothing that the exemplars share unsaid."),
    Measure("joint", "Action and actor right", "Both of the next two in one picture."),
    Measure("action", "Action right", "Every joint angle that makes the action lies within its tolerance."),
    Measure("actor", "Actor right", "The actor of the prompt is seen."),
    Measure("leak", "Exemplar's actor seen (less is better)", "An actor of the exemplars is seen instead."),
    Measure("shared_place", "Exemplars' place seen (less is better)", "Where the prompt names none."),
    Measure("shared_thing", "Exemplars' thing seen (less is better)", "All exemplars wear it, and nobody says so."),
    Measure("shared_light", "Exemplars' light seen (less is better)", "All exemplars have it, and nobody says so."),
    Measure("place", "Place right", "The place of the prompt is seen, where it names one."),
)


def report_html(data: ReportData) -> str:
    """The page."""
    rated = [(method.name, method.scores) for method in data.methods] + [("true drawings", data.ceiling)]
    groups = [
        Group(measure.title, [(name, getattr(scores, measure.field)) for name, scores in rated])
        for measure in _MEASURES
        if measure.field != "place"
    ]
    seconds = {name: f"{value:.1f} s" for name, value in data.seconds.items()}
    return render(
        "demo.html.j2",
        packages=("twinact.demo",),
        name=data.name,
        brand="demo",
        lead=lead(data),
        verdict=result(data),
        data=data,
        action_count=len(CUSTOM_ACTIONS),
        exemplars=[(figure(picture.png, _alt(picture)), caption) for picture, caption in data.exemplars],
        measures=_MEASURES,
        rated=rated,
        groups=groups,
        seconds={**seconds, "together": f"{sum(data.seconds.values()):.0f} s"},
    )


def _alt(picture: Picture) -> str:
    return picture.alt if picture.seen is None else f"{picture.alt}; judged: {picture.seen}"
