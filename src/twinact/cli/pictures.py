"""``twinact generate``: pictures of actions."""

from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twinact import ACTOR_PLACEHOLDER, PLACEHOLDER, __version__
from twinact.cli.terminal import SCHEMA_VERSION, Memory, Model, Precision, open_model
from twinact.configs import RunConfig
from twinact.errors import DataError
from twinact.outputs import PictureFolder
from twinact.terminal import progress

if TYPE_CHECKING:
    from twinact.action import Action
    from twinact.suited import Suited

_DRAWN_WITH = ("torch", "diffusers", "transformers")
_AT_ONCE = 8


def generate(
    actions: Annotated[list[Path], typer.Argument(metavar="ACTION...", help=".action.safetensors files.")],
    prompt: Annotated[list[str], typer.Option(help="With <act> where the action goes; may be given again.")],
    actor: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of a customised actor: embedding (<actor> in prompts), LoRA or both; may be given again."
        ),
    ] = None,
    lora_weight: Annotated[float, typer.Option(help="Strength of the action's LoRA.")] = 1.0,
    actor_weight: Annotated[float, typer.Option(help="Strength of the actor's LoRA.")] = 1.0,
    model: Model = "nano",
    out: Annotated[Path, typer.Option("--out", help="Folder; pictures are added to those there.")] = Path("pictures"),
    seed: Annotated[int, typer.Option(min=0, max=2**53 - 1, help="Of the first picture of a prompt.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Pictures per action and prompt, with seeds one up.")] = 1,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 25,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, help="Classifier-free guidance, 1 or less turns it off; what suits the model if not given."
        ),
    ] = None,
    negative_prompt: Annotated[str, typer.Option(help="What guidance leads away from.")] = "",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help=f"Pictures drawn at once; up to {_AT_ONCE} if not given, 1 with memory low."),
    ] = None,
    precision: Precision = None,
    memory: Memory = None,
) -> None:
    """Draw every action with every prompt, by customised actors if wanted."""
    folder = PictureFolder(out)
    RunConfig(precision=precision or RunConfig.precision, memory=memory or RunConfig.memory)  # refuses other words
    from twinact.action import Action
    from twinact.backbones.memory import PRESETS
    from twinact.gradients import out_of_memory_told
    from twinact.lora import attached, scaled
    from twinact.sample import default_guidance
    from twinact.sample import generate as draw
    from twinact.suited import suited_here
    from twinact.workflow import load_actor

    loaded = [Action.load(path) for path in actions]
    for text in prompt:
        if PLACEHOLDER not in text and any(action.vectors for action in loaded):
            raise DataError(f"prompt {text!r} does not say where the action goes: put {PLACEHOLDER} in it")
        if PLACEHOLDER in text and not all(action.vectors for action in loaded):
            raise DataError(
                f"prompt {text!r} has {PLACEHOLDER} and an action is a LoRA alone: use its own trigger word"
            )
    suited = suited_here(model, precision, memory)
    at_once = batch_size or (1 if suited.memory == "low" else min(_AT_ONCE, suited.at_once or _AT_ONCE))
    advice = _less_memory(suited, at_once)
    backbone = open_model(model, suited.precision, suited.memory)
    guidance = default_guidance(backbone) if guidance is None else guidance
    who = load_actor(actor or [], backbone, model)
    actor_loras = [scaled(lora, actor_weight) for lora in who.loras]
    for text in prompt if who.vectors else []:
        if ACTOR_PLACEHOLDER not in text:
            raise DataError(f"prompt {text!r} does not say where the actor goes: put {ACTOR_PLACEHOLDER} in it")
    spoken = {ACTOR_PLACEHOLDER: who.vectors} if who.vectors else {}
    for action in loaded:
        action.check(model_id=backbone.model_id)
        # What cannot be drawn is told before any picture: LoRAs that do not fit, too long a prompt.
        with out_of_memory_told("reading the prompts", advice), attached(backbone, [action.lora, *actor_loras]):
            backbone.encode_text(prompt, {**spoken, **_spoken(action)})

    common = {
        "schema_version": SCHEMA_VERSION,
        "model": backbone.model_id,
        "negative_prompt": negative_prompt,
        "steps": steps,
        "guidance": guidance,
        "precision": suited.precision,
        "sampler": type(backbone.pipeline().scheduler).__name__,
        "versions": {"twinact": __version__, **{name: installed(name) for name in _DRAWN_WITH}},
    }
    jobs = [(text, seed + i) for text in prompt for i in range(count)]
    done = 0
    savings = PRESETS[suited.memory]
    with backbone.saving(savings), out_of_memory_told("drawing", advice), progress("drawing") as advance:
        for action in loaded:
            facts_of: dict[str, Any] = {"action": _origin(action, lora_weight)}
            if actor:
                facts_of["actor"] = [_origin(part, actor_weight) for part in who.parts]
            loras = [scaled(action.lora, lora_weight), *actor_loras]
            for first in range(0, len(jobs), at_once):
                texts, seeds = zip(*jobs[first : first + at_once], strict=True)
                images = draw(
                    backbone,
                    texts,
                    {**spoken, **_spoken(action)},
                    loras=loras,
                    seeds=seeds,
                    steps=steps,
                    guidance=guidance,
                    negative_prompt=negative_prompt,
                    batch_size=at_once,
                )
                for text, number, image in zip(texts, seeds, images, strict=True):
                    facts = {**common, **facts_of, "prompt": text, "seed": number}
                    typer.echo(folder.add(image, action.name, facts, _parameters(facts, image.size)))
                    done += 1
                    advance(done, len(jobs) * len(loaded))


def _less_memory(suited: "Suited", at_once: int) -> str:
    """What to do when memory runs out."""
    ways = ["--memory low"] if suited.memory != "low" else []
    ways += ["--precision bf16"] if suited.precision == "fp32" else []
    ways += [f"--batch-size {at_once // 2}"] if at_once > 1 else []
    return f"give {' or '.join(ways)}" if ways else "close what else uses it, or take a machine with more"


def _spoken(action: "Action") -> dict[str, Any]:
    """Its placeholder and vectors; nothing for what is a LoRA alone."""
    return {PLACEHOLDER: action.vectors} if action.vectors else {}


def _origin(action: "Action", strength: float) -> dict[str, Any]:
    """What a picture says of an action or actor: enough to know it again."""
    from twinact.files import tensor_hash

    vectors = tensor_hash({f"vectors.{i}": block for i, block in enumerate(action.vectors)})
    facts: dict[str, Any] = {"name": action.name, "vectors": vectors, "space": action.space_hash}
    return {**facts, "lora": tensor_hash(action.lora), "lora_weight": strength} if action.lora else facts


def _parameters(facts: dict[str, Any], size: tuple[int, int]) -> str:
    """The text that other tools show, in the form that the A1111 web UI began."""
    name, _, digest = facts["model"].partition("@")
    return (
        f"{facts['prompt']}\nNegative prompt: {facts['negative_prompt']}\n"
        f"Steps: {facts['steps']}, Sampler: {facts['sampler']}, CFG scale: {facts['guidance']:g}, "
        f"Seed: {facts['seed']}, Size: {size[0]}x{size[1]}, Model hash: {digest}, Model: {name}, "
        f"Version: twinact {__version__}"
    )
