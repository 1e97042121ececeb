"""What learning takes on the real architectures: seconds and memory of a step, with and without each saving.

The models have random weights, which cost as much as learned ones. Without a GPU only what can be counted is written:
parameters, the arithmetic of a step, and what it keeps for its backward pass. The results are written after every
measurement: if the benchmark is stopped they hold what was measured. Models that are not asked for (--only) stay in
them as they were.

python benchmarks/full_size.py benchmarks/results/full_size.json [--only sdxl] [--variant nothing] [--toy]
"""

import argparse
import json
import platform
import resource
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from twinact import PLACEHOLDER
from twinact.backbones.base import Backbone
from twinact.backbones.flux import Flux
from twinact.backbones.memory import PRESETS, Savings
from twinact.backbones.sd import StableDiffusion
from twinact.backbones.sdxl import StableDiffusionXL
from twinact.batches import draw_batch, step_generator
from twinact.configs import LearnConfig
from twinact.gradients import set_gradients
from twinact.methods import TextualInversion
from twinact.nano.tokenizer import train_tokenizer
from twinact.phrases import load_phrases
from twinact.processes import this_process

AIM = "a step of sdxl with one picture of 1024 pixels in less than 12 GiB"
CAPTION = f"a woman {PLACEHOLDER} in a park"
WARM_STEPS, STEPS = 3, 10
GIB = 2**30
# Dense bf16 matrix arithmetic with float32 sums, 10^12 operations a second, from the makers' data sheets.
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.2, "L4": 121.0}
# What is saved, and whether pictures are encoded once or in every step.
VARIANTS: dict[str, tuple[Savings, bool]] = {
    "nothing": (Savings(), False),
    "cached latents (memory normal)": (PRESETS["normal"], True),
    "and activation checkpointing": (Savings(recompute=True), True),
    "and offloading (memory low)": (PRESETS["low"], True),
    "cached latents and torch.compile (memory fast)": (PRESETS["fast"], True),
}

# Attention on the CPU, which torch does not count by itself.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *rest, **options: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *rest, **options: sdpa_backward_flop_count(grad, q, k, v)
    ),
}

# Configurations of the published models, then what a toy has instead.
_UNET_SD15 = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
    "attention_head_dim": 8, "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
_UNET_SDXL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
_FLUX = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
_CLIP_L = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768, "vocab_size": 49408,
}  # fmt: skip
_CLIP_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu", "vocab_size": 49408,
}  # fmt: skip
_T5_XXL = {
    "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0,
}  # fmt: skip
_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip

_TOY: dict[str, dict[str, Any]] = {
    "unet-sd15": {"sample_size": 8, "block_out_channels": (8, 16, 16, 16), "cross_attention_dim": 32,
                  "attention_head_dim": 2, "norm_num_groups": 4},
    "unet-sdxl": {"sample_size": 8, "block_out_channels": (8, 16, 16), "cross_attention_dim": 64,
                  "attention_head_dim": 2, "norm_num_groups": 4, "transformer_layers_per_block": (1, 1, 2),
                  "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 32},
    "flux": {"in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
             "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32,
             "axes_dims_rope": (4, 6, 6)},
    "clip": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "projection_dim": 32},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "vae": {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4},
}  # fmt: skip


def sd15(toy: bool, weights: AbstractContextManager[Any]) -> StableDiffusion:
    """Stable Diffusion 1.5 at 512 pixels; its networks are made inside `weights`, which says where and of what."""
    tokenizer = _tokenizer()
    with weights:
        vae = AutoencoderKL(latent_channels=4, sample_size=64 if toy else 512, **_sized(_VAE, "vae", toy))
        text_encoder = CLIPTextModel(_clip(_CLIP_L, tokenizer, toy))
        unet = UNet2DConditionModel(**_sized(_UNET_SD15, "unet-sd15", toy))
    return StableDiffusion(
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=DDIMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ),
        "sd15@random",
    )


def sdxl(toy: bool, weights: AbstractContextManager[Any]) -> StableDiffusionXL:
    """Stable Diffusion XL at 1024 pixels; arguments as `sd15`."""
    tokenizers = _tokenizer(), _tokenizer()
    shape = {"latent_channels": 4, "sample_size": 64 if toy else 1024, "scaling_factor": 0.13025, "force_upcast": True}
    with weights:
        vae = AutoencoderKL(**shape, **_sized(_VAE, "vae", toy))
        text_encoder = CLIPTextModel(_clip(_CLIP_L, tokenizers[0], toy))
        text_encoder_2 = CLIPTextModelWithProjection(_clip(_CLIP_G, tokenizers[1], toy))
        unet = UNet2DConditionModel(**_sized(_UNET_SDXL, "unet-sdxl", toy))
    return StableDiffusionXL(
        StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizers[0],
            tokenizer_2=tokenizers[1],
            unet=unet,
            scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
            add_watermarker=False,
        ),
        "sdxl@random",
    )


def flux(toy: bool, weights: AbstractContextManager[Any]) -> Flux:
    """FLUX.1 dev at 1024 pixels; arguments as `sd15`."""
    tokenizer = _tokenizer()
    shape = {
        "latent_channels": 16, "sample_size": 64 if toy else 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159,
        "use_quant_conv": False, "use_post_quant_conv": False,
    }  # fmt: skip
    with weights:
        vae = AutoencoderKL(**shape, **_sized(_VAE, "vae", toy))
        text_encoder = CLIPTextModel(_clip(_CLIP_L, tokenizer, toy))
        text_encoder_2 = T5EncoderModel(T5Config(**_sized(_T5_XXL, "t5", toy)))
        transformer = FluxTransformer2DModel(**_sized(_FLUX, "flux", toy))
    return Flux(
        FluxPipeline(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=_t5_tokenizer(),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        ),
        "flux@random",
    )


MODELS: dict[str, Callable[[bool, AbstractContextManager[Any]], Backbone]] = {"sd15": sd15, "sdxl": sdxl, "flux": flux}


@contextmanager
def half(device: str) -> Iterator[None]:
    """While open, modules are made on a device, with bf16 weights."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def counted(name: str, toy: bool) -> dict[str, Any]:
    """Parameters of each network, operations of a step with one picture and what it keeps, on tensors without memory.

    Kept are the activations that a CPU's operators need for the backward pass; those of a GPU differ a little.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with ExitStack() as weights:
        weights.enter_context(fake)
        weights.enter_context(half("cpu"))
        backbone = MODELS[name](toy, weights)
    tables = backbone.token_tables()
    t = backbone.noising.sample_t(1, torch.Generator())

    def loss() -> torch.Tensor:
        vectors = [torch.zeros(3, table.width, requires_grad=True) for table in tables]
        cond = backbone.encode_text([CAPTION], {PLACEHOLDER: vectors})
        x_t = torch.zeros(1, *backbone.latent_shape, dtype=backbone.dtype)
        return backbone.predict(x_t, t, cond).float().square().mean()

    with fake, FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        loss().backward()
    networks = {n: m for n, m in backbone.pipeline().components.items() if isinstance(m, torch.nn.Module)}
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in networks.items()}
    own = {tensor.untyped_storage()._cdata for m in networks.values() for tensor in [*m.parameters(), *m.buffers()]}

    def kept(recompute: bool) -> float:
        stored: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            stored[storage._cdata] = storage
            return tensor

        watched = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with fake, backbone.saving(Savings(recompute=recompute)), watched, torch.autocast("cpu", torch.bfloat16):
            loss()
        return sum(storage.nbytes() for key, storage in stored.items() if key not in own) / GIB

    return {
        "pixels": backbone.image_size,
        "parameters": sizes,
        "weights in bf16, GiB": round(2 * sum(sizes.values()) / GIB, 2),
        "10^12 operations a step": round(counter.get_total_flops() / 1e12, 6),
        "kept for backward, GiB": round(kept(recompute=False), 4),
        "kept for backward with activation checkpointing, GiB": round(kept(recompute=True), 4),
    }


def measured(name: str, variant: str, toy: bool, device: str) -> dict[str, Any]:
    """Seconds and memory of learning steps with one picture."""
    savings, cached = VARIANTS[variant]
    backbone = MODELS[name](toy, half(device))
    config, group = LearnConfig(name="size", method="textual-inversion", batch_size=1, steps=100), this_process()
    method = TextualInversion(config.slots, config.rate)
    parameters = [p for one in method.attach(backbone) for p in one["params"]]
    optimizer = torch.optim.Adam(parameters)
    picture = torch.rand(1, 3, backbone.image_size, backbone.image_size).mul(2).sub(1)

    def encoded() -> torch.Tensor:
        with torch.no_grad():
            return backbone.encode_image(picture.to(backbone.device, backbone.dtype))

    latents, seconds, opened = encoded(), [], 0
    with backbone.saving(savings):
        for step in range(WARM_STEPS + STEPS):
            if step == WARM_STEPS and device == "cuda":
                opened = torch.cuda.max_memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            _wait(device)
            began = time.perf_counter()
            if not cached:
                latents = encoded()
            batch = draw_batch(backbone, latents, (CAPTION,), config, step)
            set_gradients(
                method, backbone, batch, parameters,
                generator=partial(step_generator, 0, purpose="method"), parts=1, group=group, precision="bf16",
            )  # fmt: skip
            optimizer.step()
            _wait(device)
            seconds.append(time.perf_counter() - began)
    row: dict[str, Any] = {"seconds a step": round(statistics.median(seconds[WARM_STEPS:]), 4)}
    if device == "cuda":
        step_peak = torch.cuda.max_memory_allocated()
        row["peak of a step, GiB"] = round(step_peak / GIB, 2)
        row["peak of the whole run, GiB"] = round(max(opened, step_peak) / GIB, 2)
    else:
        row["peak of the process, GiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 2)
    return row


def machine() -> tuple[str, float | None]:
    """Name of the device that is measured, and its peak in 10^12 operations a second where it is known."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return device, next((value for key, value in PEAKS.items() if key in device), None)


def begun(name: str, variants: list[str], toy: bool, before: dict[str, Any] | None, keep: bool) -> dict[str, Any]:
    """The results of a model before anything of it is measured.

    Args:
        name: Of `MODELS`.
        variants: That will be measured. Others stay as they were if the device and the versions are the same.
        toy: Whether its networks are tiny.
        before: Earlier results.
        keep: Do not count again what was counted before.
    """
    scale = "toy" if toy else "full"
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": machine()[0],
        "scale": scale,
        "versions": {package: version(package) for package in ("torch", "diffusers", "transformers")},
    }
    earlier = before if before and before["scale"] == scale else {}
    same = all(facts[key] == earlier.get(key) for key in ("device", "versions"))
    if toy or torch.cuda.is_available():
        reasons = dict.fromkeys(variants, "the benchmark was stopped before")
    else:
        reasons = dict.fromkeys(VARIANTS, "there was no GPU")
    table: dict[str, Any] = {}
    for variant, (savings, cached) in VARIANTS.items():
        if same and variant not in variants:
            table[variant] = earlier["measured"][variant]
        else:
            reason = reasons.get(variant, "it was not asked for")
            table[variant] = {**asdict(savings), "cached latents": cached, "not run": reason}
    return {**facts, "counted": earlier["counted"] if keep and earlier else counted(name, toy), "measured": table}


def rows(name: str, variants: list[str], toy: bool, limit: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measures variants of a model one after another; yields each with what was found.

    Every measurement has a process of its own, so that none inherits another's memory. They import together, since that
    takes longer than to measure, and then wait for their turn.

    Args:
        name: Of `MODELS`.
        variants: Of `VARIANTS`.
        toy: Whether its networks are tiny.
        limit: Seconds that each may take.
    """
    command = [sys.executable, __file__, "-", "--one", name]
    ends = ["--toy"] if toy else []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([*command, variant, *ends], text=True, **pipes) for variant in variants]
    for process in processes:
        process.stdout.readline()
    for variant, process in zip(variants, processes, strict=True):
        try:
            output, problems = process.communicate("go\n", timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            yield variant, {"failed": f"took longer than {limit:g} seconds"}
        else:
            if process.returncode == 0:
                yield variant, json.loads(output.splitlines()[-1])
            else:
                print(f"{name}, {variant}:", problems, file=sys.stderr)
                yield variant, {"failed": (problems.strip().splitlines() or ["killed"])[-1][:300]}


def measure_in_turn(name: str, variant: str, toy: bool) -> None:
    """What a process of `rows` does."""
    print("ready", flush=True)
    if sys.stdin.readline():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        print(json.dumps(measured(name, variant, toy, device)))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _sized(published: dict[str, Any], part: str, toy: bool) -> dict[str, Any]:
    return {**published, **_TOY[part]} if toy else published


def _tokenizer() -> Any:
    return train_tokenizer(sorted({word for phrase in load_phrases() for word in phrase.text.split()}), 77)


def _t5_tokenizer() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.printable.strip()]
    scores = [0.0 if piece.startswith("<") and len(piece) > 1 else -2.0 for piece in pieces]
    return T5Tokenizer(vocab=list(zip(pieces, scores, strict=True)), extra_ids=0, model_max_length=512)


def _clip(published: dict[str, Any], tokenizer: Any, toy: bool) -> CLIPTextConfig:
    return CLIPTextConfig(
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_sized(published, "clip", toy),
    )


def write(results: Path, models: dict[str, Any]) -> None:
    """Replaces the results as a whole."""
    new = results.with_name(results.name + ".new")
    new.write_text(json.dumps({"aim": AIM, "pictures a step": 1, "models": models}, indent=2) + "\n")
    new.replace(results)


def main() -> None:
    """Measure everything and write the results, or, for its own use, measure one variant and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--only", choices=MODELS, action="append", help="in this order, if given several times")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="measure only these")
    parser.add_argument("--keep-counts", action="store_true", help="do not count again what the results have counted")
    parser.add_argument("--limit", type=float, default=900, help="seconds that one measurement may take")
    parser.add_argument("--toy", action="store_true", help="tiny networks of the same kinds")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "VARIANT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure_in_turn(*given.one, toy=given.toy)
        return
    names, variants, peak = given.only or list(MODELS), given.variant or list(VARIANTS), machine()[1]
    models = json.loads(given.results.read_text())["models"] if given.results.is_file() else {}
    for name in names:
        models[name] = begun(name, variants, given.toy, models.get(name), given.keep_counts)
        write(given.results, models)
    if not (given.toy or torch.cuda.is_available()):
        return
    for compiling in (False, True):  # it takes minutes
        chosen = [variant for variant in variants if VARIANTS[variant][0].compile is compiling]
        for name in names:
            for variant, row in rows(name, chosen, given.toy, given.limit):
                if peak is not None and "failed" not in row:
                    rate = models[name]["counted"]["10^12 operations a step"] / row["seconds a step"]
                    row["share of the GPU's peak"] = round(rate / peak, 4)
                settings = {**models[name]["measured"][variant]}
                del settings["not run"]
                models[name]["measured"][variant] = settings | row
                write(given.results, models)


if __name__ == "__main__":
    main()
