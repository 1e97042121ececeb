"""``twinact nano`` and ``twinact world``: make the embedded model, and what the world can show."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from twinact.cli.terminal import SCHEMA_VERSION, AsJson, Precision, open_model
from twinact.errors import ConfigError
from twinact.outputs import new_file, new_folder
from twinact.terminal import progress, say

nano_app = typer.Typer(help="Make and measure the embedded model.", no_args_is_help=True)
app = typer.Typer(help="Draw from the procedural world.", no_args_is_help=True)


@nano_app.command("train")
def train(
    out: Annotated[Path, typer.Option("--out", help="Run folder; the model comes into its folder 'nano'.")],
    parts: Annotated[list[str] | None, typer.Option(help="Train only this part; may be given again.")] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="Model folder to go on from, keeping its text tower and VAE.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that draw pictures; all cores but one if not given.")
    ] = None,
) -> None:
    """Train nano from the world, from nothing or from a model. Stopped runs go on when the command is given again."""
    from twinact.nano.recipe import RECIPE
    from twinact.nano.train import PARTS, train_nano

    for part in parts or ():
        if part not in PARTS:
            raise ConfigError(f"part {part!r} must be one of {', '.join(PARTS)}")
    workers = workers or max(1, (os.cpu_count() or 1) - 1)  # the last core trains
    typer.echo(train_nano(RECIPE, out, tuple(parts) if parts else None, start=start, workers=workers, report=say))


@nano_app.command("evaluate")
def evaluate(
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of the caption grammar.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of prompts and pictures.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 25,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance; nano's own if not given.")] = None,
    between: Annotated[int, typer.Option(min=0, help="Pairs of phrases to draw the way between; 0: none.")] = 0,
    precision: Precision = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Also write the pictures as one PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge what nano draws, its VAE, and the judges on drawn pictures that they have never seen."""
    target = None if sheet is None else new_file(sheet)
    from twinact.bench.calibrate import calibrate
    from twinact.bench.judges import Judges
    from twinact.nano import judges_dir
    from twinact.nano.evaluate import contact_sheet, evaluate_between, evaluate_nano, evaluate_vae
    from twinact.suited import suited_here
    from twinact.workflow import default_space

    judges = Judges.load(judges_dir())
    chosen = suited_here("nano", precision).precision
    backbone = open_model("nano", chosen)
    with progress("drawing") as advance:
        drawn, pictures = evaluate_nano(
            backbone, judges, prompts, seed, steps=steps, guidance=guidance, progress=advance
        )
    with progress("decoding what the VAE encoded") as advance:
        vae = evaluate_vae(backbone, max(prompts, 100), seed, advance)
    with progress("calibrating the judges") as advance:
        calibrated = calibrate(judges, backbone, max(prompts, 500), seed, advance)[0]
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": backbone.model_id,
        "precision": chosen,
        "nano": drawn,
        "vae": vae,
        "judges": calibrated,
    }
    if between:
        with progress("drawing between phrases") as advance:
            facts["between phrases"] = evaluate_between(
                backbone,
                default_space(backbone),
                judges,
                between,
                seed,
                steps=steps,
                guidance=guidance,
                progress=advance,
            )
    if target is not None:
        contact_sheet(pictures).save(target)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    shares = drawn | {"ways between phrases monotone": facts.get("between phrases", {}).get("monotone")}
    for name, value in shares.items():
        if isinstance(value, dict) and value.get("share") is not None:
            typer.echo(f"{name}: {100 * value['share']:.0f} % [{100 * value['low']:.0f}, {100 * value['high']:.0f}]")
    typer.echo(f"VAE: {facts['vae']['psnr, mean dB']} dB; {drawn['pictures per second']} pictures a second")


@app.command("exemplars")
def exemplars(
    out: Annotated[Path, typer.Option("--out", help="Folder for the folders, one per custom action.")],
    size: Annotated[int | None, typer.Option(min=16, max=2048, help="Side in pixels; nano's if not given.")] = None,
) -> None:
    """Draw the exemplar folders of all custom actions, with captions and the true poses."""
    new_folder(out)
    from twinact.nano.recipe import RECIPE
    from twinact.world.splits import CUSTOM_ACTIONS, write_exemplars

    for action in CUSTOM_ACTIONS.values():
        write_exemplars(action, out / action.name, size or RECIPE.image_size, RECIPE.places)
        typer.echo(out / action.name)


@app.command("gallery")
def gallery(
    out: Annotated[Path, typer.Option("--out", help="Folder for the sheets; the page <out>.md shows them.")],
) -> None:
    """Draw contact sheets of actors, phrases and places, and a page with them."""
    from twinact.world.gallery import write_gallery

    with progress("drawing the gallery") as advance:
        page = write_gallery(out, advance)
    typer.echo(page)
