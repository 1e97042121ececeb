"""``twinact export`` and ``import``: embedding and LoRA files of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from twinact.cli.options import Model, open_model, with_suffix
from twinact.cli.outputs import new_file
from twinact.configs import check_name
from twinact.console import say
from twinact.storage import ACTION_SUFFIX


def export(
    action_file: Annotated[Path, typer.Argument(metavar="ACTION", help="An .action.safetensors file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("exports"),
    model: Model = "nano",
) -> None:
    """Write an action for A1111, Forge, ComfyUI and diffusers. The word to type there is twa- and its name.

    Its vectors become embedding files; a LoRA goes, for each of these tools, into files of its own and once together
    with the embedding. A workflow of ComfyUI and a prompt of A1111 that use them are written beside.
    """
    say(f"reading {action_file}")
    from twinact.action import Action
    from twinact.export import Base, embedding_contents, lora_contents, trigger
    from twinact.export.embeddings import KEPT_TOGETHER, NEWER
    from twinact.export.prompts import prompt_contents
    from twinact.storage import write_all_new

    action = Action.load(action_file)
    base, word = Base.of_action(action, model), trigger(action.name)
    contents = embedding_contents(action, base, out) | (lora_contents(action, base, out) if action.lora else {})
    contents |= prompt_contents(action, base, out)
    for path in contents:
        new_file(path)
    for path in write_all_new(contents):
        typer.echo(path)
    count = action.slots
    if count > KEPT_TOGETHER:
        say(
            f"note: the action takes {count} tokens; ComfyUI keeps more than {KEPT_TOGETHER} together only in prompts "
            "of up to 75 tokens"
        )
    newer = base.family in NEWER
    if newer:
        say(f"type: {word} (diffusers), embedding:{word} (ComfyUI); other tools read no words of its text encoder")
    else:
        say(f"type: {word} (A1111, Forge, diffusers), embedding:{word} (ComfyUI), <{word}> (InvokeAI)")
    if action.lora and not newer:
        say(f"with its LoRA: <lora:{word}-lora:1> {word} (A1111, Forge), or in A1111 <lora:{word}-bundle:1> {word}")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An embedding, a LoRA, or both, in safetensors.")],
    name: Annotated[str, typer.Option(help="Name of the action.")],
    out: Annotated[Path, typer.Option("--out", help="File of the action.")],
    word: Annotated[str | None, typer.Option(help="Which word, where the file holds several.")] = None,
    model: Model = "nano",
) -> None:
    """Read an embedding or LoRA of another tool as an action or actor. It lies in no action space."""
    target = new_file(with_suffix(out, ACTION_SUFFIX))
    check_name(name)
    say(f"reading {file}")
    from twinact.export.embeddings import check_format, read_tensors

    check_format(file)
    read_tensors(file)  # a damaged one is told before gigabytes are opened
    backbone = open_model(model, device="cpu")  # in float32, so that weights come out as they went in
    from twinact.backbones import family
    from twinact.export import import_action

    action = import_action(file, family(model), name=name, backbone=backbone, word=word)
    if "plain" in action.meta:
        names = [backbone.token_tables()[index].name for index in action.meta["plain"]]
        say(f"note: the file is not for {', '.join(names)}, which will read its word as it is written")
    typer.echo(action.save(target, new=True))
