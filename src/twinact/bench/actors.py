"""Actors that the model does not know, learned from a few pictures to do customised actions: customised actors."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from twinact import PLACEHOLDER
from twinact.configs import LearnConfig, TextualInversionConfig
from twinact.nano.data import drawn_part
from twinact.nano.recipe import RECIPE
from twinact.phrases.wording import said
from twinact.world.draw import draw
from twinact.world.meanings import meanings
from twinact.world.places import PLACES
from twinact.world.sampling import rest_pose, sample_camera
from twinact.world.scene import WORLD_VERSION, Scene

PICTURES = 8


def actor_config(steps: int = 100) -> LearnConfig:
    """Settings with which nano learns an actor: a word that stays near "a person", and a LoRA on its convolutions.

    A LoRA on nano's attention, which tells no more than 8 x 8 places apart, learns the exemplars' poses and little of
    hats and bandages; vectors that are far from words change how the action is read.
    """
    return LearnConfig(
        name="actor",
        method=TextualInversionConfig(),
        start="a person",
        slots=2,
        steps=steps,
        learning_rate=3e-3,
        lora_rank=16,
        lora_layers="convolutions",
        lora_learning_rate=4e-3,
        noise_bias=0.0,
    )


def write_actor_exemplars(actor: str, folder: Path, size: int, count: int = PICTURES) -> None:
    """Write an exemplar folder of an actor: pictures in different places and poses, and ``captions.json``.

    Captions name the pose and the place, and have the placeholder where the actor goes: what is left to learn is who.

    Args:
        actor: Key of `ACTORS`.
        folder: Created if missing.
        size: Edge of the square pictures in pixels.
        count: How many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([WORLD_VERSION, *actor.encode()])
    table = meanings()
    clear = [phrase for phrase in drawn_part(RECIPE).phrases if len(table[phrase]) == 1]
    captions = {}
    for index, choice in enumerate(rng.permutation(len(clear))[:count]):
        pose = table[clear[choice]][0].sample(rest_pose(rng), rng)
        place = RECIPE.places[index % len(RECIPE.places)]
        scene = Scene(actor, pose, place, sample_camera(rng), int(rng.integers(2**31)))
        Image.fromarray(draw(scene, size)).save(folder / f"{index:02d}.png")
        captions[f"{index:02d}.png"] = f"{PLACEHOLDER} {said(PLACEHOLDER, clear[choice])} {PLACES[place].text}"
    (folder / "captions.json").write_text(json.dumps(captions, indent=2) + "\n")
