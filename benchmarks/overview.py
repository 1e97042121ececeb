"""Draw the overview picture from a folder that `twinact bench custom` wrote: exemplars left, TwinAct right.

python benchmarks/overview.py runs/bench docs/images/overview.png comet flex-lunge half-squat-v
"""

import sys
from pathlib import Path

from PIL import Image

from twinact.nano.recipe import RECIPE
from twinact.world.draw import draw
from twinact.world.splits import CUSTOM_ACTIONS, exemplar_scenes

CELL, GAP, DRAWN = 96, 10, 6


def main(bench: Path, target: Path, names: list[str]) -> None:
    """One row per action: three exemplars, a gap, and the first pictures of actors that the exemplars do not show."""
    rows = []
    for name in names:
        scenes = exemplar_scenes(CUSTOM_ACTIONS[name], RECIPE.places)[:3]
        exemplars = [Image.fromarray(draw(scene, RECIPE.image_size)) for scene in scenes]
        learned = []
        for path in sorted((bench / "twinact" / name / "pictures").glob("*.png"))[:DRAWN]:
            with Image.open(path) as picture:
                learned.append(picture.convert("RGB"))
        rows.append((exemplars, learned))
    width = (3 + DRAWN) * CELL + 4 * GAP
    sheet = Image.new("RGB", (width, len(rows) * (CELL + GAP) - GAP), "white")
    for row, (exemplars, learned) in enumerate(rows):
        for column, picture in enumerate([*exemplars, *learned]):
            left = column * CELL + (4 * GAP if column >= 3 else 0)
            sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, row * (CELL + GAP)))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
