"""What the demo learns and draws, as settings."""

from dataclasses import dataclass

from twinact.bench.poses import photographed_poses
from twinact.configs import LearnConfig
from twinact.configs.settings import check_choice
from twinact.demo.shots import Sampler
from twinact.space.sliders import SLIDERS
from twinact.world.bodies import HELD_OUT_ACTORS
from twinact.world.splits import CUSTOM_ACTIONS


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo learns and draws.

    Attributes:
        action: Key of `CUSTOM_ACTIONS`. The default stays on the ground, because limb directions do not say how high
            somebody jumps.
        sliders: Names of `SLIDERS` that move it.
        mixed: Phrase that it is mixed with; one that says of both arms and legs, so that words are left of any part.
        photographed: One of `photographed_poses`.
        actor: One of `HELD_OUT_ACTORS`, who also does the action.
        learn_steps: Optimiser steps of TwinAct.
        free_steps: Optimiser steps of Textual Inversion; its start and rate were chosen at as many.
        actor_steps: Optimiser steps in which the actor is learned. After 100, the king did no better: of 24 pictures of
            six dev actions, both were right in 24 after 70 steps and in 23 after 100.
        draw_steps, guidance: Settings of the sampler.
        actors, places: Rows and columns of the grids.

    Raises:
        ConfigError: A name is unknown.
    """

    action: str = "rising-cactus"
    sliders: tuple[str, ...] = ("right arm up", "legs apart", "lean left")
    mixed: str = "disco dancing left"
    photographed: str = "goddess, elbows bent up"
    actor: str = "king"
    learn_steps: int = LearnConfig.steps
    free_steps: int = 100
    actor_steps: int = 70
    draw_steps: int = Sampler.steps
    guidance: float = Sampler.guidance
    actors: int = 6
    places: int = 4

    def __post_init__(self) -> None:
        check_choice("action", self.action, CUSTOM_ACTIONS)
        check_choice("photographed pose", self.photographed, photographed_poses())
        check_choice("actor", self.actor, HELD_OUT_ACTORS)
        for name in self.sliders:
            check_choice("slider", name, SLIDERS)
