"""The actors of the world: what each looks like, as data for one set of painters."""

from dataclasses import dataclass, replace
from typing import Any

from twinact.world.canvas import Colour, rgb, shade
from twinact.world.skeleton import Proportions

Part = tuple[str, Colour, Colour]
"""Name of a part in `twinact.world.shapes` and its two colours."""

_WHITE, _INK = rgb("ffffff"), rgb("23191f")
_DARK_LIPS = rgb("7d2233")

_ADULT = Proportions()
_SLIM = Proportions(head=0.132, chest=0.088, belly=0.074, arm=0.041, wrist=0.031, hand=0.045, leg=0.055, ankle=0.037,
                    thigh=0.178, shank=0.174, torso=0.262, shoulders=0.080, hips=0.050)  # fmt: skip
_STRONG = Proportions(head=0.130, chest=0.115, belly=0.092, arm=0.056, wrist=0.041, hand=0.054, shoulders=0.104,
                      torso=0.275, thigh=0.172, shank=0.166)  # fmt: skip
_STOUT = Proportions(head=0.142, chest=0.108, belly=0.118, arm=0.052, wrist=0.040, hand=0.052, leg=0.068, ankle=0.046,
                     shoulders=0.100, hips=0.064, thigh=0.160, shank=0.152)  # fmt: skip
_CHILD = Proportions(head=0.156, chest=0.090, belly=0.086, torso=0.235, upper_arm=0.182, forearm=0.172, thigh=0.158,
                     shank=0.152, arm=0.046, wrist=0.037)  # fmt: skip
_BEAST = Proportions(head=0.150, head_width=1.06, chest=0.098, belly=0.100, torso=0.245, upper_arm=0.182,
                     forearm=0.172, thigh=0.155, shank=0.150, arm=0.050, wrist=0.043, leg=0.064, ankle=0.049,
                     hand=0.053, crown=1.2)  # fmt: skip
_SMALL = replace(_BEAST, head=0.157, chest=0.086, belly=0.088, arm=0.044, wrist=0.037, leg=0.056, ankle=0.042)
_HEAVY = replace(_BEAST, head=0.153, chest=0.112, belly=0.120, arm=0.056, wrist=0.049, leg=0.072, ankle=0.056,
                 shoulders=0.100, hips=0.064)  # fmt: skip
_BONY = Proportions(head=0.145, chest=0.084, belly=0.058, arm=0.030, wrist=0.024, hand=0.046, leg=0.036, ankle=0.027,
                    toe=0.030, thigh=0.176, shank=0.170)  # fmt: skip
_METAL = Proportions(head=0.135, head_width=1.08, crown=1.7, chest=0.102, belly=0.096, arm=0.042, wrist=0.042,
                     hand=0.054, leg=0.050, ankle=0.050, toe=0.044, shoulders=0.104)  # fmt: skip


@dataclass(frozen=True)
class Actor:
    """How one figure looks. Parts are named as in `twinact.world.shapes`.

    Attributes:
        kind: "person", "animal" or "creature".
        body: Lengths and radii.
        skin, hair: Colours of the neck and of the head's outline (hair, hood or fur).
        top, sleeve, forearm, hand: Colours of the torso and the parts of the arms.
        trousers, shank, shoe: Colours of the seat and thighs, the shanks and the feet.
        head: Outline of the head.
        face: Patches on the head, painted in order.
        lock: Hair that hangs behind the body.
        ears, ear_colours: Both painted behind the head.
        hat, hat_colours: Painted last.
        snout, trunk, beard, nose: Colours of what stands out of the face.
        eye, pupil, lid, lips: Colours of the features that move.
        eye_size, eye_gap: Relative to a person's.
        eye_latitude: How far the eyes lie below the middle of the head, in radians.
        one_eyed: The actor's left eye is covered.
        marks, back: Parts painted on the torso and behind the figure.
        skirt, skirt_length, skirt_flare: Cloth over the thighs; a length of 1 reaches the knees.
        joint: Colour of visible elbow and knee joints.
    """

    kind: str
    body: Proportions
    skin: Colour
    hair: Colour
    top: Colour
    sleeve: Colour
    forearm: Colour
    hand: Colour
    trousers: Colour
    shank: Colour
    shoe: Colour
    head: str = "short"
    face: tuple[Part, ...] = ()
    lock: str = ""
    ears: str = ""
    ear_colours: tuple[Colour, Colour] = (_INK, _INK)
    hat: str = ""
    hat_colours: tuple[Colour, Colour] = (_INK, _INK)
    snout: Colour | None = None
    trunk: Colour | None = None
    beard: Colour | None = None
    nose: Colour | None = None
    eye: Colour = _WHITE
    pupil: Colour = _INK
    lid: Colour = _INK
    lips: Colour = _DARK_LIPS
    eye_size: float = 1.0
    eye_gap: float = 1.0
    eye_latitude: float = 0.02
    one_eyed: bool = False
    marks: tuple[Part, ...] = ()
    back: tuple[Part, ...] = ()
    skirt: Colour | None = None
    skirt_length: float = 0.9
    skirt_flare: float = 0.35
    joint: Colour | None = None


def _part(name: str, first: str, second: str = "ffffff") -> Part:
    return (name, rgb(first), rgb(second))


def _pair(first: str, second: str) -> tuple[Colour, Colour]:
    return (rgb(first), rgb(second))


def _person(
    body: Proportions, skin: str, hair: str, top: str, bottom: str, shoe: str, *, sleeves: str = "long",
    shank: str = "", hand: str = "", window: str = "face", faces: tuple[Part, ...] = (), **looks: Any,
) -> Actor:  # fmt: skip
    """A person; `sleeves` is long, short or none, `shank` and `hand` default to the trousers and the skin."""
    flesh, cloth = rgb(skin), rgb(top)
    looks.setdefault("nose", shade(flesh, 0.84))
    # On dark skin only a mouth that shows its teeth is legible in small pictures.
    looks.setdefault("lips", rgb("fff0ea") if sum(flesh[:3]) < 400 else _DARK_LIPS)
    return Actor(
        "person", body, flesh, rgb(hair), cloth,
        sleeve=flesh if sleeves == "none" else cloth, forearm=cloth if sleeves == "long" else flesh,
        hand=rgb(hand or skin), trousers=rgb(bottom), shank=rgb(shank or bottom), shoe=rgb(shoe),
        face=(_part(window, skin, "bfe3f2"), *faces), ears=looks.pop("ears", "small"),
        ear_colours=looks.pop("ear_colours", (flesh, flesh)), **looks,
    )  # fmt: skip


def _animal(
    body: Proportions, fur: str, ears: str, inner: str, *, limbs: str = "", feet: str = "", faces: tuple[Part,
        ...] = (),
    nose: str = "2a1c20", top: str = "", mane: str = "", **looks: Any,
) -> Actor:  # fmt: skip
    """A figure of one colour; `limbs`, `feet`, `top` (the torso) and `mane` (the head's outline) default to it."""
    coat, limb = rgb(fur), rgb(limbs or fur)
    return Actor(
        "animal", body, coat, rgb(mane or fur), rgb(top or fur), sleeve=limb, forearm=limb, hand=limb,
        trousers=limb, shank=limb,
        shoe=rgb(feet or limbs or fur), head=looks.pop("head", "bare"), face=faces, ears=ears,
        ear_colours=looks.pop("ear_colours", (coat, rgb(inner))), nose=rgb(nose) if nose else None, **looks,
    )  # fmt: skip


def _tall(body: Proportions, crown: float) -> Proportions:
    """The same body under a hat, ears or hair that rises `crown` head radii above the head's centre."""
    return replace(body, crown=crown)


_PEOPLE: dict[str, Actor] = {
    "woman in a red dress": _person(
        _SLIM, "f2c6a0", "4a2a1c", "d8232f", "f2c6a0", "a81522", sleeves="none", lock="long", lips=rgb("b3122c"),
        skirt=rgb("d8232f"), skirt_length=1.0),
    "old man with a white beard": _person(
        _STOUT, "eebf98", "f4f4f0", "8a6a3f", "4d5a66", "3b2a20", window="bald", beard=rgb("f4f4f0"),
        marks=(_part("straps", "5a3b28"),)),
    "ballerina": _person(
        _SLIM, "f6d3b8", "2d1f1b", "f7a6c8", "fbdde6", "f07fae", sleeves="none", lock="bun", hat="tiara",
        hat_colours=_pair("ffe27a", "ffffff"), skirt=rgb("fbc4da"), skirt_length=0.42, skirt_flare=2.4),
    "astronaut": _person(
        _STRONG, "c98d5e", "eef1f5", "eef1f5", "eef1f5", "8b95a3", head="globe", window="visor", hand="f28a2e", ears="",
        marks=(_part("panel", "5b6b7d", "f2522e"),), back=(_part("pack", "9aa5b1"),)),
    "chef": _person(
        _tall(_STOUT, 1.85), "f0b98c", "6b3a20", "fafafa", "39404d", "1f1f24", hat="chef",
        hat_colours=_pair("ffffff", "e3e6ea"), faces=(_part("moustache", "4a2a1a"),),
        marks=(_part("scarf", "e04438"),)),
    "firefighter": _person(
        _STRONG, "b97b4c", "2a1b14", "d9a514", "d9a514", "26262b", hat="fire", hat_colours=_pair("d0201f", "f7cf3b"),
        hand="2e2e36", marks=(_part("stripes", "f4f7a8"),)),
    "knight": _person(
        _tall(_STRONG, 1.6), "f0c29c", "a9b3c0", "a9b3c0", "a9b3c0", "6d7785", head="hood", window="window", ears="",
        hat="plume", hat_colours=_pair("d3202f", "d3202f"), hand="8d97a4", joint=rgb("77828f"),
        marks=(_part("cross", "c81f2e"),)),
    "ninja": _person(
        _SLIM, "eec39b", "2b2c3c", "2b2c3c", "2b2c3c", "191922", head="hood", window="window", ears="", hat="band",
        hat_colours=_pair("c4122f", "c4122f"), marks=(_part("belt", "c4122f", "c4122f"),)),
    "boy in a blue cap": _person(
        _CHILD, "d99a66", "3a2418", "f5c12e", "3f6fb5", "e8443a", sleeves="short", hat="cap",
        hat_colours=_pair("2456c9", "17398c")),
    "pirate": _person(
        _ADULT, "e2ab7c", "3a1f14", "f3efe4", "53382a", "2b1d17", hat="pirate", hat_colours=_pair("2b2430", "f2f2f2"),
        one_eyed=True, beard=rgb("4a2615"), lips=rgb("ffe6dc"), faces=(_part("eyepatch", "1d1a20"),),
        marks=(_part("vest", "8e1f2b"), _part("belt", "2a1c16", "f0c23c"))),
    "girl with orange pigtails": _person(
        _CHILD, "fbd9bf", "f07d1a", "3fae6a", "fbd9bf", "6a3fa0", sleeves="short", ears="pigtails",
        ear_colours=_pair("f07d1a", "f07d1a"), faces=(_part("blush", "f5a58e"),), skirt=rgb("2f8d55")),
    "cowboy": _person(
        _tall(_ADULT, 1.4), "e8b083", "7a4a24", "c9553a", "3d5d8f", "7b4522", hat="cowboy",
        hat_colours=_pair("a9713b", "5b3517"), marks=(_part("vest", "6f4523"), _part("belt", "4a2d18", "f1cf55"))),
    "man in a grey suit": _person(
        _ADULT, "8a5a3c", "1f1714", "6d737d", "6d737d", "1d1d22", marks=(_part("tie", "c2202f", "fafafa"),)),
    "doctor": _person(
        _ADULT, "a86f47", "241813", "f5f8fa", "57b5b0", "e9eef1", lock="bob", faces=(_part("glasses", "2c3a55"),),
        marks=(_part("collar", "57b5b0"), _part("patch", "e2504c")), skirt=rgb("f5f8fa"), skirt_length=0.55),
    "builder": _person(
        _STOUT, "c68a5a", "33221a", "4a74b8", "4f4a45", "8a5a2b", sleeves="short", hat="builder",
        hat_colours=_pair("ffc91f", "e0a800"), marks=(_part("vest", "ff7a1a"),)),
    "clown": _person(
        _tall(_ADULT, 1.3), "fdf3ea", "f0472e", "36a7e0", "f9cf2c", "e2332d", head="curly", nose=rgb("e8202a"),
        hand="ffffff", shank="e85aa0", lips=rgb("d0142a"), faces=(_part("diamonds", "4aa8e8"),),
        marks=(_part("buttons", "f9cf2c"),)),
    "superhero in a purple cape": _person(
        _STRONG, "d79b6c", "1b1a2b", "1fa08a", "1fa08a", "f2b91d", faces=(_part("mask", "5b2a9d"),),
        marks=(_part("emblem", "f2b91d"), _part("belt", "f2b91d", "ffffff")), back=(_part("cape", "6d2fb5"),)),
    "king": _person(
        _tall(_STOUT, 1.55), "eab78e", "8a5528", "9c1f3f", "5b1730", "3b1420", hat="crown",
        hat_colours=_pair("fdc92b", "3f7fe0"), beard=rgb("8a5528"), lips=rgb("3a0814"),
        marks=(_part("sash", "fff3d0"), _part("belt", "fdc92b", "ffffff")), back=(_part("cape", "c42a48"),)),
    "woman in a yellow raincoat": _person(
        _ADULT, "7c4e34", "f6d21f", "f6d21f", "2f4668", "35608f", head="hood", window="window", ears="",
        marks=(_part("buttons", "8a6f00"),), skirt=rgb("f6d21f"), skirt_length=0.6),
    "wizard": _person(
        _tall(_SLIM, 2.2), "f0cfae", "e9e9ee", "3a3fa8", "2d3187", "5a3d22", hat="wizard",
        hat_colours=_pair("3a3fa8", "f8d64a"), beard=rgb("e9e9ee"),
        marks=(_part("belt", "f8d64a", "ffffff"),), skirt=rgb("3a3fa8"), skirt_length=1.1),
}  # fmt: skip

_ANIMALS: dict[str, Actor] = {
    "panda": _animal(
        _HEAVY, "fafafa", "round", "1f1f24", limbs="24242a", ear_colours=_pair("24242a", "24242a"),
        faces=(_part("patches", "24242a"),)),
    "fox": _animal(
        _SMALL, "f07a22", "pointed", "3a1c14", limbs="f07a22", feet="4a2416", faces=(_part("cheeks", "fff4e6"),),
        marks=(_part("belly", "fff4e6"),), back=(_part("bushy", "f07a22", "fff4e6"),)),
    "cat": _animal(
        _SMALL, "555a70", "pointed", "f2a9b5", nose="e8788c", eye=rgb("e6f56a"), feet="f1f1f4",
        marks=(_part("belly", "f1f1f4"),), back=(_part("thin", "555a70"),), snout=rgb("f1f1f4")),
    "bear": _animal(
        _HEAVY, "9a5f35", "round", "d9a878", snout=rgb("e0b98c"), top="d63a35"),
    "rabbit": _animal(
        _tall(_SMALL, 2.2), "f3e9e4", "long", "f7a8b8", nose="ee7f95", marks=(_part("scarf", "4bb0e0"),),
        back=(_part("puff", "ffffff"),)),
    "frog": _animal(
        _tall(_BEAST, 1.3), "5dbb3f", "knobs", "5dbb3f", nose="", head="wide", eye_size=1.35, eye_gap=1.5,
        eye_latitude=-0.62, lips=rgb("8c2b3a"), faces=(_part("muzzle", "d5ee9a"),), marks=(_part("belly", "d5ee9a"),)),
    "penguin": _animal(
        _HEAVY, "2f3a52", "", "2f3a52", feet="f59a1f", nose="f59a1f", faces=(_part("heart", "fbfbfb"),),
        marks=(_part("belly", "fbfbfb"),)),
    "tiger": _animal(
        _BEAST, "f7a11e", "round", "ffe9cf", faces=(_part("cheeks", "fff6e6"), _part("brow", "2b1b14")),
        marks=(_part("bands", "2b1b14"),), back=(_part("thin", "f7a11e"),), nose="d8576b"),
    "elephant": _animal(
        _HEAVY, "6f9bc8", "wide", "f0b5c5", nose="", trunk=rgb("86afd8"), feet="5580ad"),
    "mouse": _animal(
        _tall(_SMALL, 1.4), "cdb59f", "large", "f6b6b4", nose="f0728a", back=(_part("thin", "e79a9a"),),
        marks=(_part("straps", "3a6fd0"),), snout=rgb("efe3da")),
    "pig": _animal(
        _HEAVY, "f9a8b6", "floppy", "e77f92", nose="c94f6c", snout=rgb("f07f98"), feet="b55468",
        ear_colours=_pair("ee8098", "ee8098")),
    "monkey": _animal(
        _SMALL, "6f4228", "side", "e9bd92", faces=(_part("heart", "e9bd92"),), back=(_part("thin", "6f4228"),),
        marks=(_part("belly", "e9bd92"),), nose=""),
    "lion": _animal(
        _tall(_BEAST, 1.5), "f0c05a", "", "f0c05a", head="mane", mane="a8581c", nose="6b3420", faces=(_part("face",
        "f0c05a"),), marks=(_part("belly", "f7dca0"),)),
    "koala": _animal(
        _BEAST, "a3acb8", "large", "f0f2f5", nose="2c2c33", marks=(_part("belly", "eef0f3"),)),
}  # fmt: skip

_CREATURES: dict[str, Actor] = {
    "robot": _animal(
        _METAL, "b4c3d0", "bolts", "f05a28", head="boxy", limbs="8fa2b3", feet="5c6c7c", nose="",
        faces=(_part("screen", "17324a"),), eye=rgb("4df0e0"), pupil=rgb("0b4a55"), lid=rgb("4df0e0"),
        lips=rgb("4df0e0"), hat="antenna", hat_colours=_pair("5c6c7c", "f2382c"), joint=rgb("f08a28"),
        marks=(_part("panel", "17324a", "ffcb2e"),)),
    "alien": _animal(
        _tall(_SLIM, 1.75), "8be04a", "", "8be04a", head="egg", nose="", eye=rgb("16161c"),
        pupil=rgb("ffffff"), eye_size=1.35, eye_gap=1.15, hat="antennae", hat_colours=_pair("8be04a", "f25ad0"),
        limbs="8be04a", marks=(_part("vest", "8a3fc4"), _part("belt", "8a3fc4", "f25ad0"))),
    "skeleton": _animal(
        _BONY, "f4f0e2", "", "f4f0e2", top="4a4358", head="skull", nose="", faces=(_part("sockets", "2a2430"),),
        eye=rgb("2a2430"), pupil=rgb("f2f2f2"), lid=rgb("8c8478"), lips=rgb("2a2430"), joint=rgb("f4f0e2"),
        marks=(_part("ribs", "f4f0e2"),)),
    "snowman": _animal(
        _HEAVY, "fbfdff", "", "fbfdff", limbs="e4eef6", feet="c9d9e6", nose="f5801e",
        hat="top", hat_colours=_pair("2a2a33", "d8303a"), marks=(_part("scarf", "d8303a"), _part("buttons", "2a2a33"))),
    "zombie": _person(
        _ADULT, "9dbf7f", "3d4a33", "6b4a86", "5d5347", "9dbf7f", sleeves="short", shank="9dbf7f", head="spiky",
        faces=(_part("scar", "a2303a"),), marks=(_part("patch", "9dbf7f"),), lips=rgb("4a2233")),
    "gingerbread man": _animal(
        _BEAST, "b5713a", "", "b5713a", nose="", lips=rgb("fff5f0"), eye=rgb("fff5f0"),
        faces=(_part("blush", "ee8a7a"),), marks=(_part("buttons", "ff5a7d"),), joint=rgb("fff5f0")),
    "dragon": _animal(
        _tall(_BEAST, 1.5), "2fa58a", "horns", "f7e3a0", ear_colours=_pair("f7e3a0", "f7e3a0"),
        hat="spikes", hat_colours=_pair("e8503a", "e8503a"), snout=rgb("7ad3b4"), nose="", eye=rgb("fff2a0"),
        marks=(_part("belly", "f7e3a0"),), back=(_part("dragon", "2fa58a"),)),
    "scarecrow": _person(
        _tall(_ADULT, 1.4), "e9c787", "d9a33a", "3f6aa8", "8a5a34", "5d4023", hand="f0c84a", hat="straw",
        hat_colours=_pair("d9a33a", "c8402e"), nose=rgb("e0702a"), marks=(_part("patch", "d8503a"),)),
    "mummy": _animal(
        _ADULT, "e6dcc0", "", "e6dcc0", nose="", faces=(_part("wraps", "b5a582"), _part("mask", "4a4038")),
        marks=(_part("bands", "b5a582"),), joint=rgb("d2c6a4")),
}  # fmt: skip

ACTORS: dict[str, Actor] = _PEOPLE | _ANIMALS | {
    name: replace(actor, kind="creature") for name, actor in _CREATURES.items()
}  # fmt: skip

HELD_OUT_ACTORS: tuple[str, ...] = ("king", "wizard", "woman in a yellow raincoat", "lion", "koala", "mummy")
"""Actors that no training picture may show: the customised actors of the benchmark."""
