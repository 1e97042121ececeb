"""The smallest run that is one: settings, pictures and parts that any process makes alike."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

from tiny import tiny_sd
from twinact.backbones.backbone import Backbone
from twinact.backbones.sd import StableDiffusion
from twinact.configs import LearnConfig, RunConfig, TextualInversionConfig
from twinact.data.exemplars import Exemplars, load_exemplars
from twinact.jobs.job import Job
from twinact.jobs.run import run_job
from twinact.methods import make_method
from twinact.space import ActionSpace
from twinact.training.loop import TrainResult, train

PHRASES = ("jumping", "jumping on the moon", "a robot in the park", "dancing", "sitting down", "the dog", "photo of")
INVERSION = LearnConfig(name="leap", method=TextualInversionConfig(), steps=6, batch_size=4, seed=3)


def small_space(backbone: Backbone) -> ActionSpace:
    """The space of a few phrases in a backbone."""
    return ActionSpace.build(
        backbone.token_tables(), PHRASES, model_id=backbone.model_id, tokenizer_hash=backbone.tokenizer_hash
    )


def vitpose(keypoints: int = 17, experts: int = 6) -> VitPoseForPoseEstimation:
    """A pose network that sees nothing in particular, always alike."""
    body = VitPoseBackboneConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, out_indices=[2], image_size=[64, 48],
        num_experts=experts, part_features=4 if experts > 1 else 0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VitPoseForPoseEstimation(VitPoseConfig(backbone_config=body, num_labels=keypoints))


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


def learn(
    exemplars: str | Path,
    config: LearnConfig,
    run_dir: str | Path,
    *,
    backbone: Backbone,
    space: ActionSpace | None = None,
    run: RunConfig | None = None,
    searching: Callable[[int, int], None] = lambda done, whole: None,
    progress: Callable[[int], None] = lambda step: None,
) -> TrainResult:
    """A job on a model that is open already; a space is given as a file beside the run folder."""
    run_dir, file = Path(run_dir), None
    if space is not None:
        file = run_dir.with_name(f"{run_dir.name}.space.safetensors")
        space.save(file)

    def advance(done: int, whole: int, stage: str) -> None:
        if stage.endswith("learning"):
            progress(done)
        else:
            searching(done, whole)

    how = {} if run is None else asdict(run)
    job = Job(exemplars=Path(exemplars), config=config, run_dir=run_dir, space=file, run=how)
    return run_job(job, backbone=backbone, advance=advance)


def learn_small(
    exemplars: Path, run_dir: Path, config: LearnConfig = INVERSION, run: RunConfig | None = None
) -> TrainResult:
    """Learn an action on a tiny Stable Diffusion, from the beginning of everything."""
    backbone = StableDiffusion(tiny_sd(), "tiny@0")
    space = small_space(backbone) if config.method.takes_space else None
    return train(
        make_method(config, backbone, space), backbone, load_exemplars(exemplars, 32), config, run_dir, run=run
    )
