"""Draws the pictures of docs/page.md: every tab of the page, after one example was learned.

python benchmarks/page_pictures.py docs/images

It needs a Chromium and playwright, and takes a few minutes. Look at every picture before it is committed.
"""

import asyncio
import re
import signal
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Page, async_playwright, expect

from page_load import CHROMIUM
from page_load_visitors import DESK, Server, choose

EXAMPLE, NAME = "photographs: tree, palms overhead, on the left leg", "tree-pose"
PATIENCE_MS = 1_200_000


async def main(target: Path) -> None:
    """Writes page-learn.jpg, page-draw.jpg, page-mix.jpg, page-space.jpg and page-compare.jpg."""
    expect.set_options(timeout=PATIENCE_MS)
    with tempfile.TemporaryDirectory(prefix="twinact-pictures-") as work:
        server = Server(Path(work) / "studio", Path(work) / "server.log")
        await server.start()
        try:
            async with async_playwright() as driver:
                browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                view = await browser.new_page(viewport=DESK)
                view.set_default_timeout(PATIENCE_MS)
                await view.goto(server.address)
                for tab, show in {
                    "Learn": _learn,
                    "Draw": _draw,
                    "Mix": _mix,
                    "Space": _space,
                    "Compare": _compare,
                }.items():
                    await view.get_by_role("tab", name=tab, exact=True).click()
                    await show(view)
                    await view.mouse.move(0, 0)
                    await view.wait_for_timeout(2000)  # what fades in or out has done so
                    await view.screenshot(path=target / f"page-{tab.lower()}.jpg", quality=85, full_page=True)
                await browser.close()
        finally:
            await server.stop(signal.SIGTERM)


async def _learn(view: Page) -> None:
    await choose(view, "Or an example", EXAMPLE)
    name = view.get_by_label("Name of the action")
    await expect(name).to_have_value(re.compile(".+"))
    await name.fill(NAME)
    await view.get_by_role("button", name="Learn", exact=True).click()
    await view.get_by_text(f"Draw and Mix have it as {NAME}").wait_for()
    await expect(view.locator(".phase")).to_contain_text(f"{NAME} done")


async def _draw(view: Page) -> None:
    await choose(view, "Action", NAME)
    await view.get_by_role("button", name="Draw", exact=True).click()
    await view.get_by_text("choose another picture above").wait_for()


async def _mix(view: Page) -> None:
    await choose(view, "Action", NAME)
    slider = view.get_by_label("number input for arms up")
    await slider.fill("-0.8")
    await slider.press("Enter")
    await expect(view.locator(".command textarea:visible")).to_have_value(re.compile("--amount=-0.8"))


async def _space(view: Page) -> None:
    await choose(view, "Show an action", NAME)
    await view.get_by_text(f"Phrases nearest to {NAME}").wait_for()
    await view.get_by_role("button", name=re.compile("Variance and leaks by component")).click()
    await view.get_by_text("How to read the curve").wait_for()


async def _compare(view: Page) -> None:
    await view.get_by_role("tab", name="Compare", exact=True).click()
    await view.frame_locator("iframe.report").get_by_text("learned from").first.wait_for()


TABS = {"Learn": _learn, "Draw": _draw, "Mix": _mix, "Space": _space, "Compare": _compare}


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
