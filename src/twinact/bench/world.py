"""Makes tasks from the custom actions of the world, and a metric from its judges."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from PIL import Image

from twinact import PLACEHOLDER
from twinact.bench.contracts import Request, Row, Task
from twinact.bench.metrics import SOMEONE, diversity, judged
from twinact.bench.tasks import Ask, asks, best_text, limb_by_limb, one_joint_wrong, true_drawing
from twinact.nano.recipe import RECIPE
from twinact.phrases.wording import said
from twinact.world.captions import with_article
from twinact.world.judges.judges import Judges
from twinact.world.splits import CustomAction, shared_by, write_exemplars

WORDS = ("one phrase", "two phrases", "limb by limb")
"""Methods that write the best words of nano, chosen with knowledge of the truth; see `best_text`, `limb_by_limb`."""
TRUE, WRONG = "true drawings", "one joint wrong"
"""What the world itself draws for the prompts of a task."""
CAPTIONS: Mapping[str, str | None] = {
    "plain": None,
    "someone": f"someone {PLACEHOLDER} {{place}}",
    "empty": f"a photo of {PLACEHOLDER}",
}
"""What captions say: the actor, and the place unless all exemplars share it; the place alone; nothing."""


def world_task(
    action: CustomAction, actors: int = 10, *, unsaid: bool = False, captions: str = "plain", exemplars: int = 5
) -> Task:
    """A custom action, to be drawn with so many actors that its exemplars do not show.

    Args:
        action: The action.
        actors: How many.
        unsaid: Whether the exemplars share a place, a thing and a light, which no caption and no prompt names; every
            second prompt then leaves the place open.
        captions: A key of `CAPTIONS`. With "someone", one actor does it in all exemplars, and every second prompt says
            "someone", too: the actor is what is unsaid.
        exemplars: How many pictures.
    """
    if captions == "someone":
        action = replace(action, actors=action.actors[:1])
    shared = shared_by(action, RECIPE.places) if unsaid else None
    asked = asks(action, RECIPE.actors, RECIPE.places, actors, shared)
    if captions == "someone":
        asked = [_of_someone(ask) if number % 2 else ask for number, ask in enumerate(asked)]
    texts = dict(zip(WORDS, (best_text(action), best_text(action, pairs=True), limb_by_limb(action)), strict=True))
    return Task(
        name=action.name,
        kind=action.kind,
        write_exemplars=lambda folder, size: write_exemplars(
            action, folder, size, RECIPE.places, shared, count=exemplars, caption=CAPTIONS[captions]
        ),
        requests=tuple(Request(ask.prompt, ask.seed, ask.asked) for ask in asked),
        words={words: tuple(said(ask.prompt, text) for ask in asked) for words, text in texts.items()},
        unsaid=action.actors if shared is None else (*action.actors, shared.place, shared.thing, shared.light),
        drawings={TRUE: partial(_drawn, asked, False), WRONG: partial(_drawn, asked, True)},
    )


def _of_someone(ask: Ask) -> Ask:
    prompt = ask.prompt.replace(with_article(ask.asked.actor), SOMEONE, 1)
    return replace(ask, prompt=prompt, asked=replace(ask.asked, actor=SOMEONE))


def _drawn(asked: Sequence[Ask], wrong: bool, size: int) -> list[Image.Image]:
    return [true_drawing(one_joint_wrong(ask.asked, ask.seed) if wrong else ask.asked, ask.seed, size) for ask in asked]


class JudgedPictures:
    """The judges' verdicts against what was asked for; see `twinact.bench.metrics.judged` for the numbers.

    ``diversity`` is that of the places in pictures whose prompts name none.
    """

    def __init__(self, judges: Judges) -> None:
        self._judges = judges

    def measure(self, pictures: Sequence[Image.Image], task: Task) -> list[Row]:
        verdicts, wanted = self._judges.judge(list(pictures)), [request.wanted for request in task.requests]
        places = [v.place if a.place is None else None for v, a in zip(verdicts, wanted, strict=True)]
        rows = zip(verdicts, wanted, diversity(places), strict=True)
        return [{**judged(verdict, asked), "diversity": diverse} for verdict, asked, diverse in rows]
