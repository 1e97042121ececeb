"""The page's server that can be stopped, and the browsers that go on when it is there again; for page_load.py."""

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from playwright.async_api import Browser, Locator, Page, expect
from playwright.async_api import TimeoutError as PlaywrightTimeout

from twinact.app.folder import AT_ONCE
from twinact.bench.examples import examples
from twinact.intent.prompts import ACTORS, PLACES
from twinact.phrases import load_phrases

T = TypeVar("T")
# All browsers share the cores with the server, and each would draw its waiting signs sixty times a second.
FRAME_SECONDS = 1.0
SELDOM = f"window.requestAnimationFrame = then => setTimeout(() => then(performance.now()), {1000 * FRAME_SECONDS:g})"
DESK: Any = {"width": 1280, "height": 900}


@dataclass
class Job:
    """A run that one browser asks for, with settings that no other has.

    Attributes:
        name: Of the action.
        browser: That asks for it.
        example: Its exemplars, as the page calls them.
        start: The phrase that it starts at; every job has another one.
        steps: Of its run.
        asked: How often the button was pressed.
        life: Of the server that answered, from 1; 0 while none has.
        at_once: Whether its browser was shown what the phrases say of it.
        done: Whether its browser has seen it done.
    """

    name: str
    browser: int
    example: str
    start: str
    steps: int
    asked: int = 0
    life: int = 0
    at_once: bool = False
    done: bool = False

    @property
    def settings(self) -> dict[str, str]:
        """What is typed into the page's table."""
        return {"steps": str(self.steps), "preview_every": "0", "start": self.start}


@dataclass(frozen=True)
class Drawn:
    """A picture of an action and one of words alone, as a browser has got them.

    Attributes:
        action: Of the folder.
        prompt, seed: Of both.
        pictures: The bytes of their files.
    """

    action: str
    prompt: str
    seed: int
    pictures: tuple[bytes, bytes]


def jobs_for(count: int, browsers: int, steps: int) -> list[Job]:
    """Jobs for browsers in turn; two of one browser that follow each other have other exemplars."""
    labels = list(examples())
    phrases = [phrase.text for phrase in load_phrases()][:: len(load_phrases()) // count]
    return [
        Job(f"b{i % browsers}-{i // browsers}", i % browsers, labels[(i % browsers + i // browsers) % len(labels)],
            phrases[i], steps)
        for i in range(count)
    ]  # fmt: skip


class ServerStopped(Exception):
    """The server went away before it answered."""


class Server:
    """``twinact app`` in a process of its own, on one port for all its lives."""

    def __init__(self, root: Path, log: Path) -> None:
        self._root, self._log = root, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self.lives = 0

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._port}/"

    async def start(self) -> None:
        """Returns when the page is served."""
        offset = self._log.stat().st_size if self._log.exists() else 0
        command = [sys.executable, "-m", "twinact", "app", "--folder", str(self._root), "--port", str(self._port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        while b"the page is on" not in self._log.read_bytes()[offset:] or not await self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(f"the page is not served: {self._log.read_text()[-2000:]}")
            await asyncio.sleep(0.2)
        self.lives += 1
        self._down.clear()
        self._up.set()

    async def stop(self, how: signal.Signals) -> None:
        """Returns when the process is gone."""
        assert self._process is not None
        self._up.clear()
        self._process.send_signal(how)
        self._down.set()
        await asyncio.to_thread(self._process.wait)

    async def while_up(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something with the server.

        Raises:
            ServerStopped: It was stopped before that was done.
        """
        await self._up.wait()
        task, down = asyncio.ensure_future(work()), asyncio.ensure_future(self._down.wait())
        await asyncio.wait({task, down}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            down.cancel()
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
        raise ServerStopped

    def resident(self) -> int | None:
        """Bytes of memory that the process holds, without what it has started; None while the page is not served."""
        try:
            return psutil.Process(self._process.pid).memory_info().rss if self._process and self._up.is_set() else None
        except psutil.NoSuchProcess:
            return None

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True


class Visitor:
    """A browser of its own, and the person who looks into it."""

    def __init__(self, browser: Browser, server: Server, jobs: list[Job], patience_ms: float) -> None:
        self._browser, self._server, self._jobs, self._patience_ms = browser, server, jobs, patience_ms
        self._view: Page | None = None
        self.drawn: list[Drawn] = []
        self.seconds: dict[str, list[float]] = defaultdict(list)

    async def visit(self) -> None:
        """Ask for all jobs, watch them until they are done, and draw with each twice."""
        for job in self._jobs:
            await self._again("ask", lambda view, job=job: self._ask(view, job))
            if job.at_once:
                await self._again("draw", lambda view, job=job: self._draw(view, job.name + AT_ONCE))
        for job in self._jobs:
            await self._again("watch", lambda view, job=job: self._watch(view, job))
            await self._again("draw", lambda view, job=job: self._draw(view, job.name))

    async def _again(self, what: str, work: Callable[[Page], Awaitable[None]]) -> None:
        """Do something on the open page; when the server was stopped meanwhile, reload the page and do it again."""
        while True:
            try:
                view = await self._server.while_up(self._open)
                began = time.monotonic()
                await self._server.while_up(lambda view=view: self._patiently(work(view)))
                self.seconds[what].append(time.monotonic() - began)
                return
            except ServerStopped:
                if self._view is not None:
                    await self._view.context.close()
                    self._view = None
            except Exception as error:
                raise RuntimeError(f"{what} by {self._jobs[0].name}: {error}\n{await self._toasts()}") from error

    async def _patiently(self, work: Awaitable[None]) -> None:
        async with asyncio.timeout(self._patience_ms / 1000):  # what is tried again and again has no other end
            await work

    async def _open(self) -> Page:
        if self._view is None:
            began = time.monotonic()
            context = await self._browser.new_context(viewport=DESK, reduced_motion="reduce")
            await context.add_init_script(SELDOM)
            self._view = await context.new_page()
            self._view.set_default_timeout(self._patience_ms)
            await self._view.goto(self._server.address)
            await self._view.get_by_role("tab", name="Learn").wait_for()
            self.seconds["open"].append(time.monotonic() - began)
        return self._view

    async def _ask(self, view: Page, job: Job) -> None:
        if job.life:  # it was answered before the server went, and runs
            return
        await view.get_by_role("tab", name="Learn", exact=True).click()
        await _set(view, job.settings)
        name = view.get_by_label("Name of the action")
        await name.fill("")
        await choose(view, "Or an example", job.example)
        await expect(name).to_have_value(re.compile(".+"))
        await name.fill(job.name)
        await view.get_by_role("button", name="Learn", exact=True).click()
        job.asked += 1
        # Whoever has asked for it already, and saw the server go before it answered, is told that the name is taken.
        taken = view.get_by_text(f"the name '{job.name}' is taken here")
        run = view.get_by_label("Refined by a run", exact=True)
        while not (told := await taken.is_visible()) and not (
            await run.is_visible() and await run.input_value() == job.name
        ):
            await asyncio.sleep(0.1)
        job.life = self._server.lives
        if told:  # what is told goes away after some seconds
            return
        learned = view.get_by_text(f"Draw and Mix have it as {job.name}{AT_ONCE}")
        await expect(learned.or_(taken).first).to_be_visible()
        job.at_once = await learned.is_visible()

    async def _watch(self, view: Page, job: Job) -> None:
        await view.get_by_role("tab", name="Learn", exact=True).click()
        status, done = view.locator(".phase"), f"{job.name} done, step {job.steps} of {job.steps}"
        while not await status.is_visible() or done not in await status.inner_text():
            # A page that was just opened may choose a run of its own while its list is on the way.
            await choose(view, "Refined by a run", job.name)
            await asyncio.sleep(0.5)
        job.done = True

    async def _draw(self, view: Page, action: str) -> None:
        await view.get_by_role("tab", name="Draw", exact=True).click()
        number = len(self.drawn)
        prompt = f"{ACTORS[number % len(ACTORS)]} <act> {PLACES[number % len(PLACES)]}"
        seed = 1000 * self._jobs[0].browser + number
        box = view.get_by_label(re.compile(r"^\s*prompt\b")).locator("visible=true")
        chosen, first = (view.get_by_label(label, exact=True).locator("visible=true") for label in ("Action", "seed"))
        wanted = (action, prompt, str(seed))
        # What has just appeared may take its own value again with a late frame, and what is unfolded may fold.
        while not await box.is_visible() or tuple([await one.input_value() for one in (chosen, box, first)]) != wanted:
            await choose(view, "Action", action)
            await _unfold(view, "More", box)
            await box.fill(prompt)
            await first.fill(str(seed))
            await asyncio.sleep(2 * FRAME_SECONDS)
        await view.get_by_role("button", name="Draw", exact=True).click()
        command = view.locator(".command textarea:visible")
        await expect(command).to_have_value(
            re.compile(rf"/{action}\.action\.safetensors --prompt '{prompt}' --seed {seed} ")
        )
        pictures = view.locator(".grid-container:visible img")
        await expect(pictures).to_have_count(2)
        sources = [await pictures.nth(i).get_attribute("src") for i in range(2)]
        with_it, alone = [await (await view.request.get(str(source))).body() for source in sources]
        self.drawn.append(Drawn(action, prompt, seed, (with_it, alone)))

    async def _toasts(self) -> str:
        """What the page has told in red, and where it stands."""
        if self._view is None:
            return ""
        with contextlib.suppress(Exception):
            return "\n".join([*await self._view.locator(".toast-body").all_inner_texts(), str(self._view.url)])
        return ""


async def _set(view: Page, settings: dict[str, str]) -> None:
    """Type values into the table of settings, found by its search."""
    search = view.get_by_placeholder("Search...")
    await _unfold(view, "Captions and all settings", search)
    for name, value in settings.items():
        await search.fill(name)
        cells = view.locator("[role=gridcell]:visible")
        row = await cells.filter(has=view.get_by_text(name, exact=True)).first.get_attribute("data-row")
        cell = view.locator(f"[role=gridcell][data-row='{row}'][data-col='1']:visible").last
        editor = cell.locator("input, textarea")
        while not (await cell.inner_text()).strip().startswith(value):
            if not await editor.is_visible():
                await cell.dblclick()
                with contextlib.suppress(PlaywrightTimeout):
                    await editor.wait_for(timeout=5000)
            else:
                await editor.fill(value)
                await editor.press("Enter")
            await asyncio.sleep(0.1)
    await search.fill("")


async def _unfold(view: Page, title: str, inside: Locator) -> None:
    """Open what is folded away, until it stays open."""
    while not await inside.is_visible():
        await view.get_by_role("button", name=re.compile(f"^{title}")).locator("visible=true").click()
        await asyncio.sleep(2 * FRAME_SECONDS)


async def choose(view: Page, label: str, option: str) -> None:
    """Choose in a dropdown; again where its list was renewed, and moved, under the pointer."""
    box = view.get_by_label(label, exact=True).locator("visible=true")
    while await box.input_value() != option:
        await box.blur()
        await box.click()
        with contextlib.suppress(PlaywrightTimeout):
            await view.get_by_role("option", name=option, exact=True).locator("visible=true").click(timeout=5000)
