"""``twinact export`` and ``import``: embedding and LoRA files of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from twinact.cli.terminal import Model, open_model, with_suffix
from twinact.outputs import new_file
from twinact.terminal import say

_SUFFIX = ".action.safetensors"


def export(
    action_file: Annotated[Path, typer.Argument(metavar="ACTION", help="An .action.safetensors file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("exports"),
    model: Model = "nano",
) -> None:
    """Write an action for A1111, Forge, ComfyUI and diffusers. The word to type there is twa- and its name.

    Its vectors become embedding files; a LoRA goes, for each of these tools, into files of its own and once together
    with the embedding.
    """
    from twinact.action import Action
    from twinact.backbones import model_id
    from twinact.backbones.weights import same_model
    from twinact.errors import CheckpointError
    from twinact.export import Base, embedding_files, export_embedding, export_lora, lora_files, trigger
    from twinact.export.embeddings import NEWER

    action = Action.load(action_file)
    here = model_id(model)
    if not same_model(action.model_id, here):  # headers would name the wrong base
        raise CheckpointError(
            f"action {action.name!r} was made for {action.model_id!r}, --model is {here!r}: give --model its model"
        )
    base, word = Base.of(model), trigger(action.name)
    for path in (
        *embedding_files(action.name, base.family, out),
        *(lora_files(action.name, out) if action.lora else ()),
    ):
        new_file(path)
    for path in export_embedding(action, base, out):
        typer.echo(path)
    newer = base.family in NEWER
    if newer:
        say(f"type: {word} (diffusers), embedding:{word} (ComfyUI); other tools read no words of T5")
    else:
        say(f"type: {word} (A1111, Forge, diffusers), embedding:{word} (ComfyUI), <{word}> (InvokeAI)")
    if action.lora:
        for path in export_lora(action, base, out):
            typer.echo(path)
        if not newer:
            say(f"with its LoRA: <lora:{word}:1> {word} (A1111, Forge; in A1111 the file in bundle/ brings the word)")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An embedding, a LoRA, or both, in safetensors.")],
    name: Annotated[str, typer.Option(help="Of the action.")],
    out: Annotated[Path, typer.Option("--out", help="File of the action.")],
    model: Model = "nano",
) -> None:
    """Read an embedding or LoRA of another tool as an action or actor. It lies in no action space."""
    target = new_file(with_suffix(out, _SUFFIX))
    from twinact.backbones import family
    from twinact.export import import_action

    backbone = open_model(model, device="cpu")  # in float32, so that weights come out as they went in
    typer.echo(import_action(file, family(model), name=name, backbone=backbone).save(target))
