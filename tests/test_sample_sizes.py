"""Pictures of other shapes, by other schedulers, and with the model's own number of steps."""

import pytest

from families import CORE, backbone_of
from tiny import tiny_flux, tiny_klein, tiny_z_image
from twinact.backbones.flux import Flux
from twinact.backbones.flux2 import Flux2Klein
from twinact.backbones.z_image import ZImage
from twinact.errors import ConfigError
from twinact.sample import generate


@pytest.mark.parametrize("name", CORE)
def test_pictures_have_the_size_that_is_asked_for(name: str) -> None:
    (picture,) = generate(backbone_of(name), ["a cat"], seeds=[1], steps=1, size=(48, 32))
    assert picture.size == (48, 32)


@pytest.mark.parametrize(("size", "told"), [((40, 32), "width is 40"), ((32, 0), "height is 0"), ((32, 9000), "9000")])
def test_sizes_that_cannot_be_drawn_are_refused(size: tuple[int, int], told: str) -> None:
    with pytest.raises(ConfigError, match=rf"{told}.*multiple of 16 up to 8192"):
        generate(backbone_of("sd"), ["a cat"], seeds=[1], steps=1, size=size)


def test_a_scheduler_of_the_family_draws_another_picture() -> None:
    backbone = backbone_of("sd")
    own, other, again = (
        generate(backbone, ["a cat"], seeds=[1], steps=3, scheduler=scheduler)[0].tobytes()
        for scheduler in (None, "EulerAncestralDiscreteScheduler", type(backbone.pipeline().scheduler).__name__)
    )
    assert own == again != other
    with pytest.raises(ConfigError, match=r"scheduler 'Euler' does not fit this model: use one of DDIMScheduler, "):
        generate(backbone, ["a cat"], seeds=[1], steps=1, scheduler="Euler")


def test_distilled_models_draw_in_few_steps_and_without_guidance() -> None:
    assert backbone_of("flux").steps == 25 and Flux(tiny_flux(guidance_embeds=False), "schnell@0").steps == 4
    assert Flux2Klein(tiny_klein(distilled=True), "klein@0").steps == 4
    turbo = ZImage(tiny_z_image(), "Tongyi-MAI/Z-Image-Turbo@0")
    assert (turbo.steps, turbo.guidance) == (8, 0.0)
    assert "negative_prompt_embeds" not in turbo.pipeline_arguments(turbo.encode_text(["a cat"]), "", 0.0)


def test_a_picture_larger_than_the_model_knows_places_for_is_refused() -> None:
    backbone = backbone_of("sd3")
    side = backbone.longest_side + 16
    with pytest.raises(
        ConfigError, match=f"{side} × 32 pixels: this model draws at most {backbone.longest_side} a side"
    ):
        generate(backbone, ["a cat"], seeds=[1], steps=1, size=(side, 32))
