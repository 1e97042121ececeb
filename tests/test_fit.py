"""What the training loop of nano's parts tells while it is at work."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from twinact.nano.fit import fit_module
from twinact.nano.recipe import Fit


def test_the_line_about_progress_tells_speed_and_waiting(tmp_path: Path) -> None:
    torch.manual_seed(0)  # a loss that is told as 1e-05 would not match
    module, told = nn.Linear(3, 1), []

    def slow(_start: int) -> Iterator[torch.Tensor]:
        while True:
            time.sleep(0.1)
            yield torch.ones(8, 3)

    fit_module(
        module, slow, lambda _step, x: {"loss": module(x).square().mean()}, Fit(16, 8, 1e-3), tmp_path, told.append
    )
    (line,) = told
    found = re.search(r": 2/2 \{'loss': [\d.]+\} \d+/s, (\d+)% of the time waiting for data, 0\.0 min left$", line)
    assert found and 50 <= int(found[1]) <= 100
    (logged,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert abs(100 * logged["waiting"] - int(found[1])) <= 1
