"""How far the judges can be trusted: figures, the hardest drawn pictures beside what was read from them, and whether
they err where the action encoder errs, which losses see.

python benchmarks/judges.py benchmarks/results/judges.json docs/images/judges.png
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twinact.backbones.backbone import Backbone
from twinact.backbones.shipped import judges_dir, model_dir
from twinact.data.pictures import pixels_of
from twinact.jobs.models import open_model
from twinact.nano.calibrate import Case, calibrate, drawn_scenes, hardest, judged
from twinact.readers import LatentActionEncoder, load_action_encoder
from twinact.readers.body import SEGMENTS
from twinact.readers.latent import segment_directions
from twinact.world.draw import joints
from twinact.world.judges.judges import Judges

COUNT, SEED = 2000, 11


def off(found: torch.Tensor, true: torch.Tensor) -> np.ndarray:
    """Signed angles (b, segments) in degrees from true to found directions, both (b, segments, 2)."""
    (x, y), (u, v) = found.unbind(2), true.unbind(2)
    return torch.rad2deg(torch.atan2(u * y - v * x, u * x + v * y)).numpy()


@torch.no_grad()
def beside_the_encoder(cases: Sequence[Case], backbone: Backbone, encoder: LatentActionEncoder) -> dict[str, Any]:
    """Errors of the segments' directions as the encoder and the judges read them from the same pictures, as JSON."""
    true, seen = (
        segment_directions(torch.from_numpy(np.stack([joints(scene) for scene in scenes])).float(), SEGMENTS)
        for scenes in ([case.scene for case in cases], [case.seen for case in cases])
    )
    latents = [backbone.encode_image(chunk) for chunk in pixels_of([case.picture for case in cases]).split(64)]
    by_judges, by_encoder = off(seen, true), off(torch.cat([encoder.directions(chunk) for chunk in latents]), true)
    far_judges, far_encoder = np.abs(by_judges) > 20, np.abs(by_encoder) > 20
    near = ~far_judges & ~far_encoder
    return {
        "judges, median degrees": round(float(np.median(np.abs(by_judges))), 2),
        "judges, 90th percentile": round(float(np.quantile(np.abs(by_judges), 0.9)), 2),
        "encoder, median degrees": round(float(np.median(np.abs(by_encoder))), 2),
        "encoder, 90th percentile": round(float(np.quantile(np.abs(by_encoder), 0.9)), 2),
        "share off by over 20 degrees, judges": round(float(far_judges.mean()), 4),
        "share off by over 20 degrees, encoder": round(float(far_encoder.mean()), 4),
        "share off by over 20 degrees, both": round(float((far_judges & far_encoder).mean()), 4),
        "correlation of signed errors within 20 degrees": round(
            float(np.corrcoef(by_judges[near], by_encoder[near])[0, 1]), 3
        ),
    }


def main(results: Path, sheet: Path) -> None:
    """Write both files."""
    backbone = open_model("nano")
    judges, encoder = Judges.load(judges_dir()), load_action_encoder(model_dir())
    figures, cases = calibrate(judges, backbone, COUNT, SEED)
    free = judged(judges, drawn_scenes(COUNT, SEED, free=True))
    figures["beside the action encoder"] = {
        "poses of the captions": beside_the_encoder(cases, backbone, encoder),
        "poses drawn freely": beside_the_encoder(free, backbone, encoder),
    }
    facts = {"date": datetime.now(UTC).date().isoformat(), "model": backbone.model_id, "pictures": COUNT, "seed": SEED}
    results.write_text(json.dumps(facts | figures, indent=2) + "\n")
    hardest(cases).save(sheet, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
