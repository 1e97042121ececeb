"""The report: one page that holds everything, says what the numbers say, and takes any text."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from twinact.bench.metrics import Scores
from twinact.demo.report import report_html
from twinact.demo.report_data import MethodResult, Picture, ReportData, Seen, Strip, Taught, lead, result
from twinact.report.charts import Group, Spot, coefficients, forest, percent_text, plane, signed
from twinact.space.explain import Explanation
from twinact.statistics import Share

VOID = {"meta", "link", "img", "line", "circle", "rect", "br"}


def picture(alt: str = "a picture", seen: Seen | None = None) -> Picture:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG")
    return Picture(buffer.getvalue(), alt, seen)


def scores(joint: int, count: int = 24) -> Scores:
    share = Share(joint, count)
    none = Share(0, count)
    return Scores(
        action=share, actor=share, joint=share, place=share, leak=none, shared_place=none, shared_thing=none,
        shared_light=none, clean=share, near=0.5,
    )  # fmt: skip


def method(name: str, joint: int) -> MethodResult:
    seen = Seen(action=joint > 0, actor=False, leak=True)
    return MethodResult(name, "how it works", ((picture(seen=seen), picture()),) * 3, scores(joint))


def report(ours: int = 12, words: int = 3, free: int = 5) -> ReportData:
    strip = Strip("Along 0:1", "text", ("−1", "+1"), ((picture(), picture()),))
    return ReportData(
        name="leap",
        shown=("a panda", "a fox"),
        exemplars=((picture(), "a panda <act> in a park"),) * 5,
        explanation=Explanation(
            (("jumping", 0.9, 0.6), ("hopping", 0.6, 0.4)), ("jumping",), ((0, 1, 2.5), (1, 0, -1.0)), 1.2, 2.0
        ),
        phrase_count=832,
        map_png=picture().png,
        scree_png=picture().png,
        actors=("a robot", "a chef", "a tiger"),
        places=("in a park", "on the moon"),
        unsaid="in a desert, wearing a cape, at night",
        truths=(picture(),) * 3,
        methods=(method("TwinAct", ours), method("words", words), method("Textual Inversion", free)),
        ceiling=scores(23),
        adjusting=(strip,),
        mixing=(strip,),
        taught=(Taught("a king", "text", (picture(),), (picture(), picture())),),
        settings={"seed": "0"},
        seconds={"learning": 40.0, "drawing": 2.0},
        versions={"torch": "2"},
        commands=(("all", "twinact demo"),),
    )


class Page(HTMLParser):
    """Checks that tags are balanced, and collects elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_page_holds_everything_and_asks_for_nothing() -> None:
    html = report_html(report())
    page = Page(html)
    assert not {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, name)
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import|https?:", html)


def test_every_picture_has_a_text() -> None:
    page = Page(report_html(report()))
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    # The column of what is asked for stands in all three tables; the hero shows one picture an actor.
    assert len(pictures) == 3 + 5 + 3 * 3 * (2 + 1) + 2 + 2 * 2 + 3
    assert all(attributes["alt"] for attributes in pictures)
    assert "a picture; judged: action right, an exemplar's actor instead" in {a["alt"] for a in pictures}
    charts = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert charts
    assert all(chart["aria-label"] and chart["role"] == "img" for chart in charts)


def test_all_text_is_escaped() -> None:
    evil = "<script>alert('&')</script>\"><img src=x onerror=1>"
    data = report()
    row = method(evil, 3)
    evil_strip = Strip(evil, evil, (evil, evil), ((picture(evil), picture(evil)),))
    data = replace(
        data,
        name=evil,
        shown=(evil,),
        exemplars=((picture(evil), evil),),
        explanation=replace(data.explanation, phrases=((evil, 0.5, 1.0),)),
        actors=(evil,) * 3,
        places=(evil, evil),
        truths=(picture(evil),) * 3,
        methods=(replace(row, how=evil), row),
        adjusting=(evil_strip,),
        mixing=(evil_strip,),
        taught=(Taught(evil, evil, (picture(evil),), (picture(evil),)),),
        settings={evil: evil},
        seconds={evil: 1.0},
        versions={evil: evil},
        commands=((evil, evil),),
    )
    page = Page(report_html(data))
    assert not {tag for tag, _ in page.elements} & {"script"}
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert page.text.count(evil) >= 20


@pytest.mark.parametrize(
    ("ours", "words", "free", "expected"),
    [
        (20, 3, 5, "So TwinAct is ahead of Textual Inversion here, with 95 % intervals that do not overlap."),
        (12, 3, 9, "So TwinAct is ahead of Textual Inversion here, but the 95 % intervals overlap"),
        (9, 12, 3, "So words is ahead of TwinAct here, but the 95 % intervals overlap"),
        (3, 2, 20, "So Textual Inversion is ahead of TwinAct here, with 95 % intervals that do not overlap."),
        (7, 2, 7, "So TwinAct and Textual Inversion are level here."),
        (0, 0, 0, "So no method succeeded here."),
    ],
)
def test_result_says_what_the_numbers_say(ours: int, words: int, free: int, expected: str) -> None:
    text = result(report(ours, words, free))
    assert f"{ours} of 24 pictures" in text
    assert f"{words} with words" in text
    assert f"{free} with Textual Inversion" in text
    assert expected in text


def test_lead_names_the_exemplars() -> None:
    assert lead(report()) == "An action that no phrase names, learned from 5 pictures of a panda and a fox"


def test_sections_come_in_order() -> None:
    assert re.findall(r"<h2>(.*?)</h2>", report_html(report())) == [
        "Exemplars",
        "Other actors, other places",
        "Judged",
        "Adjusting",
        "Mixing",
        "Photographs and new actors",
        "The action in the space",
        "How this was made",
        "Limits",
    ]


def test_the_action_is_said_to_be_an_example() -> None:
    assert "one of 48 that nothing was trained on, chosen as an example" in Page(report_html(report())).text


def test_numbers_stand_on_the_page() -> None:
    html = report_html(report())
    assert "<span>jumping</span>" in html and "60 % <small>cosine 0.90</small>" in html  # a nearest phrase
    assert ">1:0</text>" in html and ">−1.0</text>" in html  # a coefficient: slot, component and value
    text = Page(html).text
    assert "50 %" in text
    assert "[31, 69]" in text  # Wilson's interval of 12 in 24
    assert "2.0 s" in text and "42 s" in text  # one stage, and all together
    assert "twinact demo" in text


def test_forest_draws_shares_where_they_are() -> None:
    svg = forest([Group("right", [("a", Share(1, 2)), ("b", Share(0, 0))])], "label")
    assert svg.count("<circle") == 1  # nothing was counted for b
    assert "50 % [9, 91]" in svg
    assert percent_text(Share(0, 0)) in svg


def test_coefficients_point_to_their_side() -> None:
    svg = coefficients([(0, 3, 2.0), (2, 1, -1.0)], "label")
    widths = [float(width) for width in re.findall(r'class="(?:plus|minus)"[^>]* width="([\d.]+)"', svg)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.1)
    assert "0:3" in svg
    assert "−1.0" in svg
    assert coefficients([(0, 0, 0.0)], "an action at the middle")


def test_signed_numbers_have_a_real_minus() -> None:
    assert (signed(1.5), signed(-3)) == ("+1.5", "−3.0")


def test_plane_numbers_spots_by_name_and_none_hides_another() -> None:
    spots = [Spot("a", 0, 50, (40, 60)), Spot("b", 0, 50), Spot("a & c", 10, 100)]
    svg = plane(spots, "label", "x", "y")
    places = [(float(x), float(y)) for x, y in re.findall(r'circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert re.findall(r'class="number"[^>]*>(\d)<', svg) == ["1", "2", "3"]
    assert places[1][0] - places[0][0] == pytest.approx(20) and places[1][1] == places[0][1]
    assert places[2][0] > places[1][0] and places[2][1] < places[1][1]  # upwards is more
    assert svg.count("whisker") == 1 and "<title>a &amp; c</title>" in svg


def test_plane_joins_spots_of_a_name_and_marks_powers() -> None:
    curve = [Spot("a", x, y) for x, y in ((100, 0), (200, 10), (400, 20))]
    svg = plane(curve, "label", "passes", "y", joined=True, logarithmic=True)
    (points,) = re.findall(r'polyline points="([^"]+)"', svg)
    xs = [float(point.split(",")[0]) for point in points.split()]
    assert len(xs) == 3 and xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ">100<" in svg and ">200<" in svg and svg.count('class="number"') == 3
