"""Draw the README's picture from a folder that `twinact demo` wrote: exemplars left, the learned action right.

python benchmarks/overview.py demo docs/images/overview.png
"""

import sys
from pathlib import Path

from PIL import Image

from twinact.action import Action
from twinact.jobs.models import open_model
from twinact.sample import generate
from twinact.world.captions import with_article
from twinact.world.places import PLACES

CELL, GAP, ROWS = 128, 16, 2
# Actors that the exemplars do not show; the first picture of each is taken, good or bad.
PROMPTS = (
    ("robot", "moon"), ("frog", "beach"), ("woman in a red dress", "stage"), ("tiger", "snowy mountain"),
    ("astronaut", "underwater"), ("ninja", "park"), ("skeleton", "castle"), ("fox", "desert"),
)  # fmt: skip


def main(demo: Path, target: Path) -> None:
    """Two rows: four exemplars, a gap, and eight drawings."""
    exemplars = [Image.open(path).convert("RGB") for path in sorted((demo / "exemplars").glob("*.png"))[: 2 * ROWS]]
    action = Action.load(demo / "learn-twinact" / f"{exemplar_name(demo)}.action.safetensors")
    prompts = [f"{with_article(actor)} <act> {PLACES[place].text}" for actor, place in PROMPTS]
    drawn = generate(open_model("nano"), prompts, {"<act>": action.vectors}, seeds=range(len(prompts)))
    left, right = len(exemplars) // ROWS, len(drawn) // ROWS
    sheet = Image.new("RGB", ((left + right) * CELL + GAP, ROWS * CELL), "white")
    for pictures, columns, start in ((exemplars, left, 0), (drawn, right, left * CELL + GAP)):
        for number, picture in enumerate(pictures):
            place = (start + number % columns * CELL, number // columns * CELL)
            sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), place)
    sheet.save(target, optimize=True)


def exemplar_name(demo: Path) -> str:
    """The name of the demo's action, by which its exemplars are called."""
    return next((demo / "exemplars").glob("*.png")).stem.rsplit("_", 1)[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
