"""The command line on the other architectures makes what Python makes, for each text encoder and without network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import done
from families import FAMILIES, pixels
from small import PHRASES, exemplars_in, learn
from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.configs import LearnConfig, TwinActConfig
from twinact.jobs.models import open_model
from twinact.sample import generate
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE

OTHERS = ("sdxl", "sd3", "klein")
PROMPT = f"a robot {PLACEHOLDER} on the moon"


def made(*arguments: str | Path) -> list[Path]:
    """Paths that a command printed."""
    return [Path(line) for line in done(*arguments).stdout.splitlines()]


@pytest.mark.usefixtures("no_network")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["flux", *OTHERS])
def test_from_pictures_to_other_tools_and_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FAMILIES[name].make().save_pretrained("model")
    exemplars_in(tmp_path / "leap", 2)
    Path("phrases.txt").write_text("\n".join(["# Body", *PHRASES[:4], ""]))
    here, exact = ("--model", "model"), ("--precision", "fp32")

    (few,) = made("space", "build", *here, "--phrases", "phrases.txt", "--slots", "2", "--out", "few")
    space = ActionSpace.load(few)
    settings = ("--space", few, "--slots", "2", "--steps", "2", "--batch-size", "2")
    (learned,) = made("learn", "leap", *here, *exact, *settings, "--out", "run")
    backbone = open_model("model")
    config = LearnConfig(name="leap", slots=2, steps=2, batch_size=2, method=TwinActConfig(similarity_weight=0.0))
    action, ours = Action.load(learned), learn("leap", config, "ours", backbone=backbone, space=space).action
    assert action.space_hash == ours.space_hash == space.hash
    # Not to the bit: two copies of the weights lie elsewhere in memory, and so do sums run.
    torch.testing.assert_close(action.coefficients, ours.coefficients, rtol=0, atol=1e-4)

    (drawn,) = made("generate", learned, *here, *exact, "--prompt", PROMPT, "--steps", "2", "--seed", "7")
    expected = generate(backbone, [PROMPT], {PLACEHOLDER: action.vectors}, seeds=[7], steps=2)
    with Image.open(drawn) as picture:
        assert np.abs(pixels([picture]) - pixels(expected)).max() <= 1

    exported = made("export", learned, *here)
    (back,) = made("import", exported[0], "--name", "back", *here, "--out", "back")
    vectors = Action.load(back).vectors
    assert len(vectors) == len(action.vectors) == len(backbone.token_tables())
    assert all(map(torch.equal, vectors, action.vectors))

    (more,) = made("adjust", learned, "--component", "0:0", "--amount", "2", "--out", "more")
    mixing = ("--weights", "0.5,0.5", "--space", learned.parent / SPACE_FILE)
    (both,) = made("combine", learned, more, *mixing, "--out", "both")
    moved = Action.load(more).coefficients
    assert moved is not None and action.coefficients is not None
    assert moved[0, 0, 0] - action.coefficients[0, 0, 0] == pytest.approx(2, abs=1e-5)
    mask = torch.ones(moved.shape[:2], dtype=torch.bool) if action.mask is None else action.mask
    between = space.vectors((moved + action.coefficients) / 2, mask)
    for vector, wanted in zip(Action.load(both).vectors, between, strict=True):
        torch.testing.assert_close(vector, wanted)
