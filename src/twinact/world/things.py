"""Things that any actor may wear or hold, drawn with the parts that actors are made of."""

from dataclasses import dataclass, replace
from functools import cache

from twinact.world.bodies import ACTORS, Actor, Part
from twinact.world.canvas import Colour, rgb


@dataclass(frozen=True)
class Thing:
    """Something worn or held.

    Attributes:
        kind: Where it goes: "head", "neck", "back" or "hand". A figure has at most one thing of each kind.
        words: What a caption may say of it, after the actor; the first is used in prompts.
        hat, colours: Drawn instead of the actor's own hat.
        crown: How far the hat rises above the head's centre, in head radii.
        marks, back: Drawn on the torso and behind the figure, besides the actor's own.
    """

    kind: str
    words: tuple[str, ...]
    hat: str = ""
    colours: tuple[Colour, Colour] = (rgb("000000"), rgb("000000"))
    crown: float = 0.0
    marks: tuple[Part, ...] = ()
    back: tuple[Part, ...] = ()


BALLOON: Colour = rgb("f0284a")
"""The colour of the balloon, which hangs on the actor's left hand and is no part of its body."""

THINGS: dict[str, Thing] = {
    "top hat": Thing(
        "head", ("in a top hat", "wearing a top hat"), "tall", (rgb("6b21a8"), rgb("f7d038")), crown=1.95),
    "crown": Thing("head", ("in a crown", "wearing a crown"), "tall crown", (rgb("ffcf1f"), rgb("e0115f")), crown=1.75),
    "scarf": Thing(
        "neck", ("in a scarf", "wearing a scarf", "with a scarf"),
        marks=(("long scarf", rgb("e0218a"), rgb("ffe3f1")),)),
    "cape": Thing(
        "back", ("in a cape", "wearing a cape"), marks=(("clasp", rgb("12a150"), rgb("ffe14d")),),
        back=(("wide cape", rgb("12a150"), rgb("12a150")),)),
    "backpack": Thing(
        "back", ("with a backpack", "wearing a backpack", "carrying a backpack"),
        marks=(("shoulder straps", rgb("2451c7"), rgb("2451c7")),), back=(("rucksack", rgb("2451c7"), rgb("9fc3ff")),)),
    "balloon": Thing("hand", ("with a balloon", "holding a balloon")),
}  # fmt: skip


@cache
def dressed(actor: str, things: tuple[str, ...]) -> Actor:
    """An actor of the world with the things that it wears."""
    look = ACTORS[actor]
    for thing in (THINGS[name] for name in things):
        look = replace(look, marks=(*look.marks, *thing.marks), back=(*thing.back, *look.back))
        if thing.hat:
            tall = replace(look.body, crown=max(look.body.crown, thing.crown))
            look = replace(look, hat=thing.hat, hat_colours=thing.colours, body=tall)
    return look
