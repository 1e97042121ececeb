"""The data of the demo's report: pictures and numbers, and the sentences that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twinact.bench.metrics import Scores
from twinact.space.explain import Explanation
from twinact.statistics import Share


@dataclass(frozen=True)
class Seen:
    """What the judges see in a picture: the right action, the right actor, or an actor of the exemplars, and what is
    carried over from the exemplars although nobody said it.
    """

    action: bool
    actor: bool
    leak: bool
    carried: tuple[str, ...] = ()

    def __str__(self) -> str:
        who = "actor right" if self.actor else "an exemplar's actor instead" if self.leak else "another actor"
        told = f", {_and(self.carried)} of the exemplars" if self.carried else ""
        return f"action {'right' if self.action else 'wrong'}, {who}{told}"


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Attributes:
        png: The file.
        alt: What it should show, for those who cannot see it.
        seen: What the judges see in it, where they were asked.
    """

    png: bytes
    alt: str
    seen: Seen | None = None


@dataclass(frozen=True)
class MethodResult:
    """What one method drew.

    Attributes:
        name: As it is called on the page.
        how: One sentence on what it does.
        pictures: A row an actor, a column a place, as in the report.
        scores: Judged over all of them.
    """

    name: str
    how: str
    pictures: tuple[tuple[Picture, ...], ...]
    scores: Scores


@dataclass(frozen=True)
class Strip:
    """Pictures of one prompt and seed, in which only the action changes.

    Attributes:
        title: What is changed.
        text: What to look for.
        labels: Under the columns.
        rows: Pictures, a row an actor.
    """

    title: str
    text: str
    labels: tuple[str, ...]
    rows: tuple[tuple[Picture, ...], ...]


@dataclass(frozen=True)
class Taught:
    """What else was learned.

    Attributes:
        title, text: What, and from what.
        given: Exemplars.
        drawn: Pictures of what was learned.
    """

    title: str
    text: str
    given: tuple[Picture, ...]
    drawn: tuple[Picture, ...]


@dataclass(frozen=True)
class ReportData:
    """Everything that the report of a demo shows.

    Attributes:
        name: Name of the action.
        shown: The exemplars' actors with articles, as in "a panda".
        exemplars: Pictures with their captions.
        explanation: Where the action lies among the phrases.
        phrase_count: Phrases that span the space.
        map_png, scree_png: Pictures of the space.
        actors, places: Row and column headings, as in "a robot" and "on the moon".
        unsaid: What all exemplars share and no caption or prompt says, in words.
        truths: What each actor should look like; drawn by the world, shown to no method.
        methods: The learned action first, then what it is compared with.
        ceiling: The judges' own numbers on true drawings of all prompts.
        adjusting, mixing: Strips.
        taught: What else was learned.
        settings, seconds, versions: How it was made: name to value, stage to seconds, package to version.
        commands: Command lines, with what each does.
    """

    name: str
    shown: tuple[str, ...]
    exemplars: tuple[tuple[Picture, str], ...]
    explanation: Explanation
    phrase_count: int
    map_png: bytes
    scree_png: bytes
    actors: tuple[str, ...]
    places: tuple[str, ...]
    unsaid: str
    truths: tuple[Picture, ...]
    methods: tuple[MethodResult, ...]
    ceiling: Scores
    adjusting: tuple[Strip, ...]
    mixing: tuple[Strip, ...]
    taught: tuple[Taught, ...]
    settings: Mapping[str, str]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    commands: tuple[tuple[str, str], ...]


def lead(data: ReportData) -> str:
    """What was learned, and from what."""
    return f"An action that no phrase names, learned from {len(data.exemplars)} pictures of {_and(data.shown)}"


def result(data: ReportData) -> str:
    """The outcome in words that follow from the numbers, whoever is ahead."""
    ours, *rivals = data.methods
    best = max(rivals, key=lambda rival: rival.scores.clean.value)
    counts = " and ".join(f"{rival.scores.clean.successes} with {rival.name}" for rival in rivals)
    share = ours.scores.clean
    return (
        f"Asked for {len(data.actors)} actors that the exemplars do not show, {share.successes} of {share.count} "
        "pictures have the action and the actor right and show nothing of the exemplars that was left unsaid; "
        f"{counts}. " + _comparison(ours.name, share, best.name, best.scores.clean)
    )


def _comparison(name: str, share: Share, rival_name: str, rival: Share) -> str:
    few = f"{share.count} pictures of one action are too few to be sure of it"
    if share.successes == rival.successes == 0:
        return "So no method succeeded here."
    if share.value == rival.value:
        return f"So {name} and {rival_name} are level here."
    ahead, behind = (name, rival_name) if share.value > rival.value else (rival_name, name)
    apart = max(share.interval[0], rival.interval[0]) > min(share.interval[1], rival.interval[1])
    if apart:
        return f"So {ahead} is ahead of {behind} here, with 95 % intervals that do not overlap."
    return f"So {ahead} is ahead of {behind} here, but the 95 % intervals overlap: {few}."


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
