"""The page in a real browser: learning, drawing, mixing, looking around, and what it refuses."""

import http.client
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from commands import done
from twinact.bench.examples import examples

pytest.importorskip("gradio", reason="the extra app is not installed", exc_type=ImportError)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed", exc_type=ImportError)
from twinact.app.tabs.common import kept_in  # noqa: E402 - it needs gradio

playwright.expect.set_options(timeout=60_000)  # machines are slow beside other tests
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]
TABS = ("Learn", "Draw", "Mix", "Space", "Compare")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
# Boxes to fill in, without what only shows something, and large buttons.
CONTROLS = """() => {
  const panel = [...document.querySelectorAll('[role=tabpanel]')].find(one => one.offsetParent);
  const seen = one => one.offsetParent !== null;
  const boxes = [...panel.querySelectorAll('.block:not(.command)')]
    .filter(one => seen(one) && one.querySelector('input, textarea') && !one.querySelector('.block'));
  const buttons = [...panel.querySelectorAll('button.lg')].filter(seen);
  return boxes.length + buttons.length;
}"""

NAMELESS = """() => {
  const named = one => one.getAttribute('aria-label') || one.getAttribute('aria-labelledby') || one.title
    || one.textContent.trim() || one.closest('label')
    || one.querySelector('img[alt]:not([alt=""])')
    || (one.id && document.querySelector(`label[for="${one.id}"]`));
  return [...document.querySelectorAll('button, input, textarea, svg[role=img], iframe')]
    .filter(one => one.offsetParent && one.type !== 'file' && !named(one)).map(one => one.outerHTML.slice(0, 120));
}"""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's folder, with an action."""
    folder = tmp_path_factory.mktemp("studio")
    examples()["drawn: archer"](folder / "exemplars" / "shot", 128)
    done("learn", folder / "exemplars" / "shot", "--steps", "0", "--out", folder / "runs" / "shot")
    return folder


@pytest.fixture(scope="module")
def port(studio: Path) -> Iterator[int]:
    """Where the page is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    command = [sys.executable, "-m", "twinact", "app", "--folder", str(studio), "--port", str(number)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        for line in server.stderr:
            if "the page is on" in line:
                break
        drain = threading.Thread(target=server.stderr.read, daemon=True)  # a full pipe would stop it
        drain.start()
        assert server.poll() is None
        yield number
        server.terminate()
        server.wait()
        drain.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, port: int) -> Iterator[Any]:
    """The page, open; whatever the browser complains about fails the test, and so does a request to anybody else."""
    context = chromium.new_context(viewport=DESK)
    view = context.new_page()
    complaints: list[str] = []
    own = f"http://127.0.0.1:{port}/"
    view.on("request", lambda request: complaints.append(request.url) if not _is_own(request.url, own) else None)
    view.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.set_default_timeout(60_000)
    view.goto(own)
    view.get_by_role("tab", name="Learn").wait_for()
    yield view
    context.close()
    assert complaints == []


def _is_own(url: str, own: str) -> bool:
    return url.startswith((own, "data:", "blob:"))


def open_tab(page: Any, name: str) -> None:
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():  # on a phone, the last tabs are in a menu
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=name).click()
    else:
        tab.click()


def test_uploaded_pictures_become_an_action_although_the_page_is_left(page: Any, tmp_path: Path) -> None:
    examples()["drawn: windmill"](tmp_path, 128)
    page.locator("input[type=file]").first.set_input_files(sorted(tmp_path.glob("*.png")))
    page.get_by_text("What is read in them").wait_for()
    assert page.locator(".figures").first.locator("img").count() == len(list(tmp_path.glob("*.png")))
    page.get_by_label("Name of the action").fill("windmill")
    page.get_by_role("button", name="Learn", exact=True).click()
    page.get_by_text("Draw and Mix have it as windmill-start").wait_for()
    status = page.locator(".phase")
    playwright.expect(status).to_contain_text(re.compile(r"windmill learns, step \d+ of 160"), timeout=120_000)
    page.reload()
    playwright.expect(status).to_contain_text(re.compile(r"windmill learns, step \d+ of 160"), timeout=60_000)
    page.get_by_role("button", name="Stop", exact=True).click()
    playwright.expect(status).to_contain_text("windmill stopped, step", timeout=60_000)
    page.get_by_role("button", name="Go on", exact=True).click()
    playwright.expect(status).to_contain_text("windmill learns", timeout=120_000)
    page.get_by_role("button", name="Stop", exact=True).click()
    playwright.expect(status).to_contain_text("stopped", timeout=60_000)


def test_what_cannot_be_used_is_told_in_words(page: Any, tmp_path: Path) -> None:
    (tmp_path / "<b>bad.png").write_text("no picture")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "<b>bad.png")
    page.get_by_text("Some files cannot be used").wait_for()
    assert "is not a PNG, JPEG, WEBP picture" in page.locator("ul.bad").inner_text()
    page.get_by_role("button", name="Learn", exact=True).click()
    page.get_by_text("there is nothing to learn from yet").wait_for()


def test_an_action_is_drawn_beside_words_alone(page: Any) -> None:
    open_tab(page, "Draw")
    choose(page, "Action", "shot")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("choose another picture above").wait_for()
    assert page.locator(".grid-container img:visible").count() == 8
    command = page.locator(".command textarea:visible").input_value()
    assert command.startswith("twinact generate runs/shot/shot.action.safetensors --prompt 'a panda <act> in a park'")


def test_an_action_is_mixed_reset_and_saved(page: Any, studio: Path) -> None:
    open_tab(page, "Mix")
    choose(page, "Action", "shot")
    now = page.locator(".scaled:visible img").last
    now.wait_for()
    command = page.locator(".command textarea:visible")
    page.get_by_label("number input for arms up").fill("-1")
    page.get_by_label("number input for arms up").press("Enter")
    playwright.expect(command).to_have_value(re.compile("--slider 'arms up' --amount=-1"))
    page.get_by_role("button", name="Save as a new action").click()
    page.get_by_text("shot-mix is saved").wait_for()
    assert (studio / "actions" / "shot-mix.action.safetensors").is_file()
    page.get_by_role("button", name="Reset", exact=True).click()
    playwright.expect(command).to_have_value("")
    before, after = (page.locator(".scaled:visible img").nth(i).get_attribute("src") for i in (0, 1))
    assert before == after


def test_phrases_are_found_and_an_action_lies_among_them(page: Any) -> None:
    open_tab(page, "Space")
    page.locator("svg.phrase-map").wait_for()
    page.get_by_label("Search phrases").fill("kick")
    page.get_by_text(re.compile(r"\d+ of 468 phrases")).wait_for()
    assert "kick" in page.locator(".phrase-map .found").first.inner_html()
    page.get_by_label("Search phrases").fill("")
    choose(page, "Show an action", "shot")
    page.get_by_text("Phrases nearest to shot").wait_for()
    assert page.locator(".phrase-map .star").count() >= 1 and page.locator(".cards svg.stick").count() >= 3


def test_leaks_against_rank_are_drawn_when_they_are_asked_for(page: Any) -> None:
    open_tab(page, "Space")
    page.locator("svg.phrase-map").wait_for()
    assert page.locator(".plots img").count() == 0
    page.get_by_role("button", name=re.compile("Variance and leaks by component")).click()
    page.get_by_text("How to read the curve").wait_for()
    assert page.locator(".plots img").count() == 2
    loaded = "all => all.every(one => one.complete && one.naturalWidth > 300)"
    assert page.locator(".plots img").evaluate_all(loaded)


def test_reports_are_shown_apart_from_the_page(page: Any, studio: Path) -> None:
    (studio / "later").mkdir(exist_ok=True)  # written since the page was opened
    shutil.copyfile(studio / "runs/shot/report.html", studio / "later/report.html")
    open_tab(page, "Compare")
    playwright.expect(page.get_by_label("Report", exact=True)).to_have_value("later/report.html")
    frame = page.locator("iframe.report")
    frame.wait_for()
    assert frame.get_attribute("sandbox") == ""
    assert page.frame_locator("iframe.report").get_by_text("learned from").first.inner_text()


def test_what_is_chosen_is_kept_while_it_is_there(page: Any) -> None:
    def kept(names: list[str], *chosen: str | None) -> Any:
        return page.evaluate(f"([names, chosen]) => ({kept_in((False, True))})(names, ...chosen)", [names, chosen])

    assert kept(["new", "old"], "old", "old") == ["old", "old"]
    assert kept(["new", "old"], "gone", "gone") == kept(["new", "old"], None, "") == ["new", None]
    assert kept([], None, None) == [None, None]


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_few_controls_are_in_sight_and_nothing_is_cut_off(page: Any, viewport: dict[str, int]) -> None:
    page.set_viewport_size(viewport)
    for name in TABS:
        open_tab(page, name)
        page.wait_for_timeout(500)
        assert 0 < page.evaluate(CONTROLS) <= 9, name
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], name


def test_everything_has_a_name_for_those_who_cannot_see_it(page: Any) -> None:
    for name in TABS:
        open_tab(page, name)
        page.wait_for_timeout(300)
        nameless = page.evaluate(NAMELESS)
        assert nameless == [], name


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}], ids=["host", "origin"]
)
def test_foreign_hosts_and_origins_are_turned_away(port: int, headers: dict[str, str]) -> None:
    assert asked(port, "/", headers)[0] == 403
    assert asked(port, "/")[0] == 200


def test_no_file_of_the_machine_is_served(port: int, studio: Path) -> None:
    secret = studio / "secret.txt"
    secret.write_text("a secret that stays")
    targets = ["/etc/passwd", str(secret), f"{studio}/runs/shot/config.json", "/proc/self/environ"]
    targets += ["../" * depth + "etc/passwd" for depth in range(1, 8)]
    routes = ["/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/svelte/", "/report/", "/",
              "/gradio_api/proxy=file://", "/gradio_api/stream/", "/custom_component/"]  # fmt: skip
    spelled = [target for raw in targets for target in (raw, quote(raw, safe=""), quote(quote(raw, safe=""), safe=""))]
    asked_for = [(route, target) for route in routes for target in spelled]
    assert len(asked_for) > 200
    for route, target in asked_for:
        status, body = asked(port, route + target)
        assert status >= 400, (route, target)
        assert b"root:" not in body and b"a secret" not in body and b'"settings"' not in body, (route, target)


def asked(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of a request, whose path goes out as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def choose(page: Any, label: str, option: str) -> None:
    box = page.get_by_label(label, exact=True).locator("visible=true")
    for _ in range(5):  # the list may change while it is open, and then another option lies under the pointer
        box.click()
        page.get_by_role("option", name=option, exact=True).locator("visible=true").click()
        if box.input_value() == option:
            return
    raise AssertionError(f"{option} could not be chosen")
