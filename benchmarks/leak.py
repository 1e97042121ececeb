"""What leaks when captions do not name the exemplars' actor, on half of the actions that settings are chosen on.

python benchmarks/leak.py benchmarks/results/leak.json [steps]

Captions say "<act> in a park" instead of "a panda <act> in a park", so that whatever the pictures have in common,
besides the place, must go into the learned vectors. Takes about a tenth of the time of `twinact bench custom`.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from twinact import PLACEHOLDER
from twinact.bench.compare import summary
from twinact.bench.judges import Judges
from twinact.bench.metrics import score
from twinact.bench.tasks import asks
from twinact.configs import METHODS, LearnConfig, RunConfig
from twinact.nano import judges_dir
from twinact.nano.recipe import RECIPE
from twinact.sample import generate
from twinact.suited import suited_here
from twinact.workflow import action_encoder, learn, open_model
from twinact.world.splits import DEV_ACTIONS, write_exemplars

ACTIONS, ACTORS = tuple(DEV_ACTIONS.values())[::2], 6


def main(target: Path, steps: int) -> None:
    """Learn dev actions with both methods from captions with and without the actor, draw others, and judge."""
    run = RunConfig(precision=suited_here("nano").precision)
    backbone, encoder, judges = open_model("nano", run.precision), action_encoder("nano"), Judges.load(judges_dir())
    scores = {(method, named): [] for method in METHODS for named in (True, False)}
    for action in ACTIONS:
        asked = asks(action, RECIPE.actors, RECIPE.places, ACTORS)
        for method, named in scores:
            with tempfile.TemporaryDirectory() as folder:
                exemplars = Path(folder) / "exemplars"
                write_exemplars(action, exemplars, backbone.image_size, RECIPE.places)
                if not named:
                    captions = json.loads((exemplars / "captions.json").read_text())
                    unnamed = {name: text[text.index(PLACEHOLDER) :] for name, text in captions.items()}
                    (exemplars / "captions.json").write_text(json.dumps(unnamed))
                config = LearnConfig(name=action.name, method=method, steps=steps)
                learned = learn(exemplars, config, Path(folder) / "run", backbone=backbone, encoder=encoder, run=run)
            pictures = generate(
                backbone, [ask.prompt for ask in asked], {PLACEHOLDER: learned.action.vectors},
                seeds=[ask.seed for ask in asked], guidance=RECIPE.guidance,
            )  # fmt: skip
            verdicts = judges.judge([np.asarray(picture) for picture in pictures])
            scores[method, named].append(score(verdicts, [ask.asked for ask in asked]))
        print(action.name, {f"{m}, actor named: {n}": str(s[-1].leak) for (m, n), s in scores.items()}, flush=True)
    results = {
        "model": backbone.model_id,
        "precision": run.precision,
        "steps": steps,
        "actions": [action.name for action in ACTIONS],
        "actors per action": ACTORS,
        "captions with the actor": {method: summary(scores[method, True]) for method in METHODS},
        "captions without the actor": {method: summary(scores[method, False]) for method in METHODS},
    }
    target.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else LearnConfig.steps)
