"""``twinact nano`` and ``twinact world``: make and measure the embedded model, and draw from its world."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from twinact.cli.options import SCHEMA_VERSION, AsJson, Precision, open_model
from twinact.cli.outputs import make_folder, new_file, new_folder
from twinact.configs import GUIDANCES, MAX_PICTURES, MAX_SEED, check_number
from twinact.configs.settings import check_choice
from twinact.console import progress, say
from twinact.errors import ConfigError, DataError

nano_app = typer.Typer(help="Make and measure the embedded model.", no_args_is_help=True)
app = typer.Typer(help="Draw from the procedural world.", no_args_is_help=True)


@nano_app.command("train")
def train(
    out: Annotated[Path, typer.Option("--out", help="Run folder; the model comes into its folder 'nano'.")],
    parts: Annotated[list[str] | None, typer.Option(help="Train only this part; may be given again.")] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="Model folder whose weights every part begins with.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processes that draw pictures; all cores but one if not given.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another number in the recipe, such as unet.minutes=8; may be given again."),
    ] = None,
) -> None:
    """Train nano from the world, from nothing or from a model. Stopped runs go on when the command is given again."""
    say("preparing the training of nano")
    from twinact.nano.recipe import RECIPE, changed
    from twinact.nano.train import PARTS, train_nano

    for part in parts or ():
        check_choice("part", part, PARTS)
    workers = workers or max(1, (os.cpu_count() or 1) - 1)  # the last core trains
    recipe = changed(RECIPE, change or ())
    typer.echo(train_nano(recipe, out, tuple(parts) if parts else None, start=start, workers=workers, report=say))


@nano_app.command("evaluate")
def evaluate(
    model: Annotated[str, typer.Option("--model", help="'nano', or a folder that 'nano train' made.")] = "nano",
    prompts: Annotated[int, typer.Option(min=1, max=MAX_PICTURES, help="Prompts of the caption grammar.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of prompts and pictures.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Denoising steps; the model's own if not given.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance; nano's own if not given.")] = None,
    between: Annotated[
        int, typer.Option(min=0, max=MAX_PICTURES, help="Pairs of phrases to draw the way between; 0: none.")
    ] = 0,
    ceiling: Annotated[
        int,
        typer.Option(
            min=0, max=1_000_000, help="Steps in which free vectors are fitted to the free dev actions; 0: none."
        ),
    ] = 0,
    precision: Precision = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Also write one PNG: every picture to the right of its true drawing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge what nano draws, its VAE, and the judges on drawn pictures that they have never seen.

    The model's own judges are taken where its folder has some, else the shipped ones.
    """
    if guidance is not None:
        check_number("--guidance", guidance, GUIDANCES)
    target = None if sheet is None else _new_sheet(sheet)
    say(f"evaluating {model}")
    from twinact.backbones import as_folder
    from twinact.backbones.shipped import judges_dir, model_dir
    from twinact.bench.ceiling import free_ceilings
    from twinact.intent import intended_pose
    from twinact.jobs.models import default_space
    from twinact.jobs.resources import choose_resources
    from twinact.nano.calibrate import calibrate
    from twinact.nano.evaluate import evaluate_between, evaluate_nano, evaluate_vae, measured_pairs
    from twinact.nano.evaluate_poses import evaluate_intent, evaluate_reader
    from twinact.readers import load_action_encoder
    from twinact.readers.own import LatentPoseReader
    from twinact.sheets import contact_sheet, png_bytes
    from twinact.storage import atomic_write_bytes
    from twinact.world.judges.judges import Judges

    folder = model_dir() if model == "nano" else as_folder(model)
    chosen = choose_resources(model, precision).precision
    began = time.perf_counter()
    backbone = open_model(model, chosen)
    seconds = time.perf_counter() - began
    own_judges = folder / "judges"
    judges = Judges.load(own_judges if own_judges.is_dir() else judges_dir())
    if between:  # too few pairs are told before anything is drawn
        space = default_space(backbone)
        pairs = measured_pairs(space, between, seed)
    with progress("drawing") as advance:
        drawn, pictures = evaluate_nano(
            backbone, judges, prompts, seed, steps=steps, guidance=guidance, progress=advance
        )
    if target is not None:
        atomic_write_bytes(target, png_bytes(contact_sheet(pictures, columns=4), optimize=True), new=True)
    with progress("decoding what the VAE encoded") as advance:
        vae = evaluate_vae(backbone, max(prompts, 100), seed, advance)
    intent, poses = intended_pose(backbone), {}
    encoder = load_action_encoder(folder)
    if intent is not None and encoder is not None:
        say("reading poses")
        reader = LatentPoseReader(encoder, backbone)
        poses = {
            "read off drawings": evaluate_reader(reader, max(prompts, 100), seed),
            "meant at the first step": evaluate_intent(backbone, intent, reader, prompts, steps=steps),
        }
    with progress("calibrating the judges") as advance:
        calibrated = calibrate(judges, backbone, max(prompts, 100), seed, advance)[0]
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": backbone.model_id,
        "precision": chosen,
        "seconds to load": round(seconds, 2),
        "nano": drawn,
        "vae": vae,
        "poses": poses,
        "judges": calibrated,
    }
    if ceiling:
        with progress("fitting free vectors") as advance:
            facts["ceiling on the free dev actions"] = free_ceilings(backbone, judges, ceiling, advance)
    if between:
        with progress("drawing between phrases") as advance:
            facts["between phrases"] = evaluate_between(
                backbone, space, judges, pairs, seed, steps=steps, guidance=guidance, progress=advance
            )
    for line in [json.dumps(facts, indent=2)] if as_json else _told(facts):
        typer.echo(line)


def _new_sheet(path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise ConfigError(f"sheet '{path}' must be a PNG; give a name that ends in .png")
    if not path.parent.is_dir():
        raise DataError(f"folder '{path.parent}' of the sheet does not exist; make it or give another")
    return new_file(path)


def _told(facts: Mapping[str, Any]) -> Iterator[str]:
    """The figures of an evaluation in lines for a person; what was never asked is left out."""
    drawn, vae = facts["nano"], facts["vae"]
    yield (
        f"{facts['model']} in {facts['precision']}: loaded in {facts['seconds to load']} s, "
        f"{drawn['pictures per second']} pictures a second"
    )
    yield f"VAE: {vae['psnr, mean dB']} dB [{vae['low']}, {vae['high']}], lowest {vae['psnr, lowest dB']} dB"
    asked = {name: value for name, value in drawn.items() if isinstance(value, dict) and "share" in value}
    tables = {f"{drawn['prompts']} prompts of each kind": asked} | {
        n: drawn[n] for n in ("phrases by heading", "phrases by actor")
    }
    if "between phrases" in facts:
        tables["ways between phrases"] = {"monotone": facts["between phrases"]["monotone"]}
    for title, rows in tables.items():
        yield title
        yield from (f"  {name}: {_figure(row)} of {row['count']}" for name, row in rows.items() if row["count"])
    yield "seen where nothing is said, over the share in training"
    yield f"  {'; '.join(f'{name} {ratio}' for name, ratio in drawn['unsaid'].items())}"
    for title in ("poses", "ceiling on the free dev actions"):
        for name, row in facts.get(title, {}).items():
            yield f"{title}, {name}: {'; '.join(f'{what} {_figure(value)}' for what, value in row.items())}"
    failing = drawn["phrases that fail"]
    yield f"phrases: {len(drawn['phrases'])}, of which {len(failing)} were asked more than once and never right"
    yield from (f"  {name}: {drawn['phrases'][name]}" for name in failing)
    for title, rows in facts["judges"].items():
        yield f"judges, {title}"
        yield f"  {'; '.join(f'{name} {_figure(row)}' for name, row in rows.items() if _figure(row))}"


def _figure(value: Any) -> str:
    """A share with its interval, or a number; nothing for a share of no pictures."""
    if not isinstance(value, dict):
        return str(value)
    if not value["count"]:
        return ""
    return f"{100 * value['share']:.0f} % [{100 * value['low']:.0f}, {100 * value['high']:.0f}]"


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
        folder = make_folder(out / action.name)
        write_exemplars(action, folder, size or RECIPE.image_size, RECIPE.places)
        typer.echo(folder)


@app.command("gallery")
def gallery(
    out: Annotated[Path, typer.Option("--out", help="Folder for the sheets; the page <out>.md shows them.")],
) -> None:
    """Draw contact sheets of actors, phrases and places, and a page with them."""
    from twinact.world.gallery import write_gallery

    with progress("drawing the gallery") as advance:
        page = write_gallery(out, advance)
    typer.echo(page)
