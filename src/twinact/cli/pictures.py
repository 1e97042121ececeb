"""``twinact generate``: pictures of actions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twinact import ACTOR_PLACEHOLDER, PLACEHOLDER, __version__
from twinact.cli.options import (
    SCHEMA_VERSION,
    AsJson,
    DryRun,
    Memory,
    Model,
    Precision,
    load_libraries,
    open_model,
    tell_estimates,
)
from twinact.cli.outputs import PictureFolder
from twinact.configs import GUIDANCES, MAX_PICTURES, MAX_SEED, STRENGTHS, RunConfig, check_number, check_text
from twinact.console import progress, say
from twinact.errors import DataError

if TYPE_CHECKING:
    from twinact.action import Action
    from twinact.jobs.resources import Resources

_AT_ONCE = 8


def generate(
    actions: Annotated[list[Path], typer.Argument(metavar="ACTION...", help=".action.safetensors files.")],
    prompt: Annotated[
        list[str],
        typer.Option(
            help="Prompt with <act> where the action goes, or with the names of several, as in 'a fox <leap> beside a "
            "robot <wave>'; may be given again."
        ),
    ],
    actor: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of a customised actor: embedding (<actor> in prompts), LoRA or both; may be given again."
        ),
    ] = None,
    lora_weight: Annotated[float, typer.Option(help="Strength of the action's LoRA.")] = 1.0,
    actor_weight: Annotated[float, typer.Option(help="Strength of the actor's LoRA.")] = 1.0,
    model: Model = "nano",
    out: Annotated[Path, typer.Option("--out", help="Folder to which the pictures are added.")] = Path("pictures"),
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the first picture of a prompt.")] = 0,
    count: Annotated[
        int, typer.Option(min=1, max=MAX_PICTURES, help="Pictures per action and prompt; each has the next seed.")
    ] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Denoising steps; the model's own if not given.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            help="Classifier-free guidance; 1 or less turns it off, for Z-Image 0; if not given, as the model is.",
        ),
    ] = None,
    negative_prompt: Annotated[str, typer.Option(help="Text that guidance leads away from.")] = "",
    width: Annotated[
        int | None, typer.Option(min=16, max=8192, help="Pixels, a multiple of 16; the model's own if not given.")
    ] = None,
    height: Annotated[int | None, typer.Option(min=16, max=8192, help="As --width.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Scheduler class of diffusers; the model's own if not given.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help=f"Pictures drawn at once; up to {_AT_ONCE} if not given, 1 with memory low."
        ),
    ] = None,
    precision: Precision = None,
    memory: Memory = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Draw every action with every prompt, or several in one, by customised actors if wanted."""
    folder = PictureFolder(out)
    for option, strength in (("--lora-weight", lora_weight), ("--actor-weight", actor_weight)):
        check_number(option, strength, STRENGTHS)
    if guidance is not None:
        check_number("--guidance", guidance, GUIDANCES)
    for text in (*prompt, negative_prompt):
        check_text("prompt", text)
    RunConfig(precision=precision or RunConfig.precision, memory=memory or RunConfig.memory)  # refuses other words
    say(f"reading {', '.join(map(str, actions))}")
    load_libraries()
    from twinact.action import Action
    from twinact.backbones import model_id
    from twinact.backbones.memory import PRESETS, explain_out_of_memory
    from twinact.backbones.token_lora import at
    from twinact.backbones.weights import difference, same_model
    from twinact.export.embeddings import check_format
    from twinact.jobs.known import tell_unknown_words, tell_unread_weights
    from twinact.jobs.less_memory import Drawing
    from twinact.jobs.models import load_actor
    from twinact.jobs.resources import choose_resources
    from twinact.lora import attached, scaled
    from twinact.runs.folder import library_versions
    from twinact.sample import check_size

    loaded = [Action.load(path) for path in actions]
    asked = _asked(loaded, prompt)
    for side, pixels in (("width", width), ("height", height)):
        if pixels is not None:
            check_size(side, pixels)
    for path in actor or ():
        check_format(path)
    here = model_id(model)
    for action in loaded:
        action.check(model_id=here)
    chosen = choose_resources(model, precision, memory)
    at_once = batch_size or (1 if chosen.memory == "low" else min(_AT_ONCE, chosen.at_once or _AT_ONCE))
    advice = _less_memory(chosen, at_once)
    backbone = open_model(model, chosen.precision, chosen.memory)
    tell_unknown_words(backbone, [*prompt, negative_prompt], say)
    tell_unread_weights(backbone, [*prompt, negative_prompt], say)
    guidance = backbone.guidance if guidance is None else guidance
    steps = backbone.steps if steps is None else steps
    who = load_actor(actor or [], backbone, model)
    actor_loras = [scaled(lora, actor_weight) for lora in who.loras]
    for text in prompt if who.vectors else []:
        if ACTOR_PLACEHOLDER not in text:
            raise DataError(f"prompt {text!r} does not say where the actor goes: put {ACTOR_PLACEHOLDER} in it")
    spoken = {ACTOR_PLACEHOLDER: who.vectors} if who.vectors else {}
    for action in loaded:
        if not same_model(action.model_id, backbone.model_id):
            say(
                f"action {action.name!r} was learned on {action.model_id!r} and {backbone.model_id!r} is another model "
                f"with the same text encoders ({difference(action.model_id, backbone.model_id)}): it is drawn as it is"
            )
    for actions_said, texts in asked:
        # What cannot be drawn is told before any picture: LoRAs that do not fit, too long a prompt.
        own = [at(said, action.lora) for said, action in actions_said.items()]
        with explain_out_of_memory("reading the prompts", advice), attached(backbone, [*own, *actor_loras]):
            backbone.encode_text(texts, {**spoken, **_vectors(actions_said)})

    drawing: dict[str, Any] = {
        "steps": steps,
        "guidance": guidance,
        "negative_prompt": negative_prompt,
        "size": None if width is height is None else (width or backbone.image_size, height or backbone.image_size),
        "scheduler": scheduler,
    }
    total = count * sum(len(texts) for _, texts in asked)
    if dry_run:
        from twinact.jobs.estimate import estimate_drawing

        say("trying a few steps")
        with backbone.saving(PRESETS[chosen.memory]), explain_out_of_memory("drawing", advice):
            tried = estimate_drawing(
                backbone, total, vectors={**spoken, **_vectors(asked[0][0])}, batch_size=at_once, **drawing
            )
        tell_estimates([(str(out), tried)], as_json)
        return

    common = {
        "schema_version": SCHEMA_VERSION,
        "model": backbone.model_id,
        "negative_prompt": negative_prompt,
        "steps": steps,
        "guidance": guidance,
        "precision": chosen.precision,
        "sampler": scheduler or type(backbone.pipeline().scheduler).__name__,
        "versions": library_versions(),
    }
    drawn: list[dict[str, Any]] = []
    pen = Drawing(backbone, chosen.memory, at_once, say)
    advice = _less_memory(replace(chosen, memory=pen.lowest), 1)
    with progress("drawing") as advance:
        for actions_said, texts in asked:
            seeds = [seed + i for _ in texts for i in range(count)]
            texts = [text for text in texts for _ in range(count)]
            origins = {said: _origin(action, lora_weight) for said, action in actions_said.items()}
            facts_of: dict[str, Any] = (
                {"action": origins[PLACEHOLDER]} if PLACEHOLDER in origins else {"actions": origins}
            )
            if actor:
                facts_of["actor"] = [_origin(part, actor_weight) for part in who.parts]
            own = [scaled(at(said, action.lora), lora_weight) for said, action in actions_said.items()]
            loras = [*own, *actor_loras]
            vectors = {**spoken, **_vectors(actions_said)}
            images = pen.draw(texts, vectors, loras=loras, seeds=seeds, advice=advice, **drawing)
            for text, number, image in zip(texts, seeds, images, strict=True):
                facts = {**common, **facts_of, "prompt": text, "seed": number}
                name = "-".join(action.name for action in actions_said.values())
                path = folder.add(image, name, facts, _parameters(facts, image.size))
                drawn.append({"file": str(path), "prompt": text, "seed": number})
                if not as_json:
                    typer.echo(path)
                advance(len(drawn), total)
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "pictures": drawn}, indent=2))


def _less_memory(chosen: "Resources", at_once: int) -> str:
    """What to do when memory runs out."""
    ways = ["--memory low"] if chosen.memory != "low" else []
    ways += ["--precision bf16"] if chosen.precision == "fp32" else []
    ways += [f"--batch-size {at_once // 2}"] if at_once > 1 else []
    return f"give {' or '.join(ways)}" if ways else "close what else uses it, or take a machine with more"


def _asked(actions: Sequence["Action"], prompts: Sequence[str]) -> list[tuple[dict[str, "Action"], list[str]]]:
    """Actions by their placeholders, and the prompts to draw them with.

    A prompt with the placeholder is drawn with every action. One that has names of actions as placeholders is drawn
    once, with all that it names.

    Raises:
        DataError: A prompt does not say where an action goes, or says it in both ways, or an action is not drawn.
    """
    from twinact.backbones.text import placeholders_in

    named = {f"<{one.name}>": one for one in actions if one.vectors}
    for own in (PLACEHOLDER, ACTOR_PLACEHOLDER):
        named.pop(own, None)
    every: list[str] = []
    together: list[tuple[dict[str, Action], list[str]]] = []
    for text in prompts:
        used = {said: named[said] for said in placeholders_in(text, list(named))}
        if used and PLACEHOLDER in text:
            raise DataError(f"prompt {text!r} has {PLACEHOLDER} and {', '.join(used)}: name all actions, or none")
        if used:
            together.append((used, [text]))
            continue
        if PLACEHOLDER not in text and any(one.vectors for one in actions):
            raise DataError(
                f"prompt {text!r} does not say where the action goes: put {PLACEHOLDER} in it, or {' and '.join(named)}"
            )
        if PLACEHOLDER in text and not all(one.vectors for one in actions):
            raise DataError(
                f"prompt {text!r} has {PLACEHOLDER} and an action is a LoRA alone: use its own trigger word"
            )
        every.append(text)
    drawn = [one for used, _ in together for one in used.values()]
    for one in actions:
        if not every and one not in drawn:
            raise DataError(
                f"action {one.name!r} is in no prompt: put <{one.name}> in one; two of a name are one too many"
            )
    return [({PLACEHOLDER: one}, every) for one in actions if every] + together


def _vectors(actions: Mapping[str, "Action"]) -> dict[str, Any]:
    """The vectors of actions by their placeholders, without LoRAs alone."""
    return {said: action.vectors for said, action in actions.items() if action.vectors}


def _origin(action: "Action", strength: float) -> dict[str, Any]:
    """The facts about an action or actor that are stored in a picture: enough to recognise it."""
    from twinact.storage import tensor_hash

    vectors = tensor_hash({f"vectors.{i}": block for i, block in enumerate(action.vectors)})
    facts: dict[str, Any] = {"name": action.name, "vectors": vectors, "space": action.space_hash}
    return {**facts, "lora": tensor_hash(action.lora), "lora_weight": strength} if action.lora else facts


def _parameters(facts: dict[str, Any], size: tuple[int, int]) -> str:
    """The text that other tools show, in the form that the A1111 web UI began."""
    name, _, digits = facts["model"].partition("@")
    return (
        f"{facts['prompt']}\nNegative prompt: {facts['negative_prompt']}\n"
        f"Steps: {facts['steps']}, Sampler: {facts['sampler']}, CFG scale: {facts['guidance']:g}, "
        f"Seed: {facts['seed']}, Size: {size[0]}x{size[1]}, Model hash: {digits.partition('-')[0]}, Model: {name}, "
        f"Version: twinact {__version__}"
    )
