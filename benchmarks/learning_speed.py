"""How long a step of learning takes beside the bare passes of the denoiser and diffusers' script, in one run.

python benchmarks/learning_speed.py --json benchmarks/results/learning_speed.json [--model nano] [--steps 30]

* ``bare``: a forward and a backward pass of the denoiser down to its text input, on latents that are there already.
* ``ours``: steps of `twinact learn --method textual-inversion`, taken from the log of a run.
* ``script``: the operations of diffusers' examples/textual_inversion/textual_inversion.py, which is in no package, and
  is repeated here: pictures are read, resized and encoded in every step, the whole embedding table is learned with
  AdamW, and all rows but those of the placeholder are put back.

All learn on the same model, pictures, batch and number of vectors. Each part runs in a process of its own, in turns, so
that its memory is its own; ratios are of medians over all turns.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import autocast
from twinact.bench.world import world_task
from twinact.configs import LearnConfig, RunConfig, TextualInversionConfig
from twinact.data.exemplars import load_exemplars
from twinact.jobs.job import Job
from twinact.jobs.models import open_model
from twinact.jobs.run import run_job
from twinact.methods.batches import draw_batch
from twinact.training.loop import encode_exemplars
from twinact.world.splits import DEV_ACTIONS

TURNS, WARM = 3, 3
CONFIG = LearnConfig(name="speed", method=TextualInversionConfig(), batch_size=8, start="standing still")


def bare(backbone: Backbone, folder: Path, run: RunConfig) -> Callable[[], None]:
    """A step that is passes of the denoiser alone."""
    exemplars = load_exemplars(folder, backbone.image_size)
    latents = encode_exemplars(backbone, exemplars, run.memory)
    batch = draw_batch(backbone, latents, exemplars.captions, CONFIG, 0)
    cond = backbone.encode_text([text.replace(PLACEHOLDER, "jumping") for text in batch.captions])
    hidden = cond.hidden.detach().requires_grad_(True)
    noised = backbone.noising.add(batch.latents, batch.noise, batch.t)

    def step() -> None:
        with autocast(backbone.device, run.precision):
            told = type(cond)(hidden, cond.pooled, cond.mask)
            error = F.mse_loss(backbone.predict(noised.x_t, noised.t, told).float(), noised.target)
        error.backward()
        hidden.grad = None

    return step


def script(backbone: Backbone, folder: Path, run: RunConfig) -> Callable[[], None]:
    """A step of the operations of diffusers' script, in its order and with its settings."""
    pipeline = backbone.pipeline()
    tokenizer, encoder, unet, vae = pipeline.tokenizer, pipeline.text_encoder, pipeline.unet, pipeline.vae
    names = [f"<act_{i}>" for i in range(CONFIG.slots)]
    tokenizer.add_tokens(names)
    encoder.resize_token_embeddings(len(tokenizer))
    own = tokenizer.convert_tokens_to_ids(names)
    table = encoder.get_input_embeddings()
    table.weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(table.parameters(), lr=5e-3, weight_decay=1e-2)
    original = table.weight.detach().clone()
    others = torch.ones(len(tokenizer), dtype=torch.bool)
    others[own] = False
    pictures = cycle(sorted(folder.glob("*.png")))
    noising, size = backbone.noising, backbone.image_size

    def item() -> tuple[Tensor, Tensor]:
        image = Image.open(next(pictures)).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image).astype(np.uint8) / 127.5 - 1.0).permute(2, 0, 1).float()
        told = tokenizer(
            f"a photo of a {' '.join(names)}", padding="max_length", truncation=True,
            max_length=tokenizer.model_max_length, return_tensors="pt",
        )  # fmt: skip
        return pixels, told.input_ids[0]

    def step() -> None:
        pixels, ids = (torch.stack(parts) for parts in zip(*(item() for _ in range(CONFIG.batch_size)), strict=True))
        with autocast(backbone.device, run.precision):
            latents = vae.encode(pixels).latent_dist.sample().detach() * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            t = torch.randint(0, 1000, (len(latents),))
            noised = noising.add(latents.float(), noise.float(), t)
            hidden = encoder(ids)[0]
            prediction = unet(noised.x_t, t, hidden).sample
            error = F.mse_loss(prediction.float(), noised.target.float())
        error.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            table.weight[others] = original[others]

    return step


def ours(model: str, backbone: Backbone, folder: Path, run: RunConfig, steps: int) -> list[float]:
    """Seconds of the steps of a real run."""
    with tempfile.TemporaryDirectory() as temporary:
        config = LearnConfig.from_dict({**CONFIG.to_dict(), "steps": steps})
        run_dir = Path(temporary) / "run"
        job = Job(exemplars=folder, config=config, run_dir=run_dir, model=model, run=asdict(run))
        run_job(job, backbone=backbone, tell=lambda text: None)
        lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
        return [line["seconds"] for line in lines if "step" in line]


def measured(part: str, model: str, folder: Path, precision: str, steps: int) -> dict[str, Any]:
    """Seconds of steps of one part, and the most memory of this process in MiB."""
    run = RunConfig(precision=precision)
    backbone = open_model(model, precision)
    if part == "ours":
        seconds = ours(model, backbone, folder, run, steps + WARM)
    else:
        step, seconds = {"bare": bare, "script": script}[part](backbone, folder, run), []
        for _ in range(steps + WARM):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[WARM:], "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="results file")
    parser.add_argument("--model", default="nano", help="a Stable Diffusion: 'nano' or a folder")
    parser.add_argument("--precision", default="fp32", help="of all parts")
    parser.add_argument("--steps", type=int, default=30, help="of each part, in each of its turns")
    parser.add_argument("--part", choices=("bare", "ours", "script"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(measured(given.part, given.model, given.folder, given.precision, given.steps)))
        return
    rows: dict[str, list[dict[str, Any]]] = {"bare": [], "ours": [], "script": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "exemplars"
        world_task(DEV_ACTIONS["dev-wave-lunge"], 1).write_exemplars(folder, 128)
        for _ in range(TURNS):
            for part in rows:
                command = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--model", given.model]
                command += ["--precision", given.precision, "--steps", str(given.steps)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                rows[part].append(json.loads(done.stdout))
    medians = {part: statistics.median(s for one in found for s in one["seconds"]) for part, found in rows.items()}
    memory = {part: min(one["MiB"] for one in found) for part, found in rows.items()}
    results = {
        "model": given.model,
        "precision": given.precision,
        "batch size": CONFIG.batch_size,
        "threads": torch.get_num_threads(),
        "seconds a step": {part: round(value, 4) for part, value in medians.items()},
        "MiB": {part: round(value) for part, value in memory.items()},
        "ours over bare": round(medians["ours"] / medians["bare"], 3),
        "script over ours": round(medians["script"] / medians["ours"], 3),
    }
    text = json.dumps(results, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
