"""The smallest run that is one: settings, pictures and parts that any process makes alike."""

from pathlib import Path

from PIL import Image

from tiny import tiny_sd
from twinact.backbones.base import Backbone
from twinact.backbones.sd import StableDiffusion
from twinact.configs import LearnConfig, RunConfig
from twinact.exemplars import Exemplars, load_exemplars
from twinact.methods import make_method
from twinact.space import ActionSpace
from twinact.train import TrainResult, train

PHRASES = ("jumping", "jumping on the moon", "a robot in the park", "dancing", "sitting down", "the dog", "photo of")
INVERSION = LearnConfig(name="leap", method="textual-inversion", steps=6, batch_size=4, seed=3)


def small_space(backbone: Backbone) -> ActionSpace:
    """The space of a few phrases in a backbone."""
    return ActionSpace.build(
        backbone.token_tables(), PHRASES, model_id=backbone.model_id, tokenizer_hash=backbone.tokenizer_hash
    )


def exemplars_in(folder: Path, count: int = 3) -> Exemplars:
    """Up to three pictures, put into a folder and read from it."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture = Image.new("RGB", (32, 32), (80 * index, 200 - 60 * index, 40))
        picture.paste((250, 250, 250), (4 + 6 * index, 4, 16 + 6 * index, 28))
        picture.save(folder / f"{index}.png")
    return load_exemplars(folder, 32)


def mask_in(folder: Path, name: str = "0") -> None:
    """A mask for one of these pictures: its upper left quarter counts."""
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 16))
    mask.save(folder / f"{name}.mask.png")


def learn_small(
    exemplars: Path, run_dir: Path, config: LearnConfig = INVERSION, run: RunConfig | None = None
) -> TrainResult:
    """Learn an action on a tiny Stable Diffusion, from the beginning of everything."""
    backbone = StableDiffusion(tiny_sd(), "tiny@0")
    space = small_space(backbone) if config.method == "twinact" else None
    return train(
        make_method(config, backbone, space), backbone, load_exemplars(exemplars, 32), config, run_dir, run=run
    )
