"""Golden values: a short run on weights that never change. Who changes them means to, and says so in the changelog."""

from pathlib import Path

import pytest

from small import INVERSION
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig, RunConfig
from twinact.data.exemplars import Exemplars
from twinact.methods import make_method
from twinact.methods.textual_inversion import TextualInversion
from twinact.readers import LatentActionEncoder
from twinact.space import ActionSpace
from twinact.training.loop import train

TWINACT = LearnConfig(name="leap", steps=6, batch_size=4, seed=3)


@pytest.mark.parametrize(
    ("config", "loss", "numbers"),
    [
        (TWINACT, 1.114708, [0.002083076, -0.003514433, 0.002806444, 0.0168589,
                             0.01698205, 0.01240421, 0.008960418, -0.01506660]),
        (INVERSION, 1.105723, [-0.01375359, 0.01393858, -0.0009072258, 0.01314342,
                               0.01203995, 0.01546228, 0.01337854, -0.007521223]),
    ],
    ids=["twinact", "textual-inversion"],
)  # fmt: skip
def test_short_run_ends_at_the_known_numbers(
    config: LearnConfig,
    loss: float,
    numbers: list[float],
    backbone: Backbone,
    space: ActionSpace,
    encoder: LatentActionEncoder,
    exemplars: Exemplars,
    tmp_path: Path,
) -> None:
    """Single precision on the CPU; the numbers are the loss of the last step and the first 8 of the vectors."""
    result = train(make_method(config, backbone, space, encoder), backbone, exemplars, config, tmp_path)
    assert result.terms["loss"] == pytest.approx(loss, rel=1e-3)
    assert result.action.vectors[0].flatten()[:8].tolist() == pytest.approx(numbers, rel=1e-3)


@pytest.mark.slow
def test_bf16_learns_nearly_the_same(backbone: Backbone, exemplars: Exemplars, tmp_path: Path) -> None:
    exact, rough = (
        train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / one, run=RunConfig(precision=one))
        for one in ("fp32", "bf16")
    )
    assert rough.terms["loss"] != exact.terms["loss"]
    assert rough.terms["loss"] == pytest.approx(exact.terms["loss"], rel=0.02)
