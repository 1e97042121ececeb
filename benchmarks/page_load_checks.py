"""What the page's folder and its pictures must be after all jobs are done; for page_load.py."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from page_load_visitors import Drawn, Job
from twinact.action import Action
from twinact.app.folder import AT_ONCE, WorkFolder
from twinact.app.run_state import SAID
from twinact.app.runs import Runs
from twinact.app.studio import QUICK_STEPS, Sheet, Studio
from twinact.bench.examples import examples
from twinact.data.exemplars import read_exemplars
from twinact.errors import TwinactError
from twinact.jobs.exemplar_pose import with_keypoints
from twinact.runs.folder import RunFolder


def problems(root: Path, jobs: Sequence[Job], fresh: Path) -> list[str]:
    """What is lost, done twice or crossed, a line each; none is what should be.

    Args:
        root: The page's folder.
        jobs: That were asked for.
        fresh: Folder for exemplars that are made anew, to hold those of the jobs against.
    """
    found = []
    for job in jobs:
        try:
            found += [f"{job.name}: {problem}" for problem in _of_job(root, job, fresh)]
        except (OSError, TwinactError, KeyError) as error:
            found.append(f"{job.name}: {type(error).__name__}: {error}")
    asked = {job.name for job in jobs}
    runs = set(WorkFolder(root).runs()) - {name + AT_ONCE for name in asked}
    found += [f"{name}: nobody has asked for it" for name in sorted(runs - asked)]
    return found


def _of_job(root: Path, job: Job, fresh: Path) -> list[str]:
    folder = WorkFolder(root)
    state = Runs(folder, "nano").state(job.name)
    if state.phase != "done":
        return [f"lost: it is {state.phase} ({state.problem})"]
    action = Action.load(folder.run(job.name) / f"{job.name}.action.safetensors")
    config = action.meta["config"] or {}
    steps = [record["step"] for record in RunFolder(folder.run(job.name), job.name).log.records()]
    said = (folder.run(job.name) / SAID).read_text(encoding="utf-8")
    own = folder.exemplars(job.name)
    if not fresh.joinpath(job.example).exists():
        examples()[job.example](fresh / job.example, 128)
    facts = {
        "name": (action.name, job.name),
        "start": (config.get("start"), job.start),
        "steps": (config.get("steps"), job.steps),
        "steps of its log": (steps, list(range(1, job.steps + 1))),
        "beginnings": (said.count(f"learning {job.name} on"), 1),
        "files of its exemplars": (_hashes(own), _hashes(fresh / job.example)),
        "exemplars": (sorted(action.meta["exemplars"]), sorted(with_keypoints(read_exemplars(own)).hashes)),
    }
    return [f"{what} is {is_so}, and should be {should}" for what, (is_so, should) in facts.items() if is_so != should]


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def pictures_told(root: Path, drawn: Sequence[Drawn]) -> dict[str, Any]:
    """How the pictures that browsers got differ from those that the model draws for what they had asked for.

    A picture of another action, prompt or seed counts as crossed: it is nearer to what another browser should have got.
    """
    folder = WorkFolder(root)
    studio = Studio(folder, "nano")
    shown, own = [], []
    for one in drawn:
        sheet = Sheet((one.prompt,), seeds=(one.seed,), steps=QUICK_STEPS, guidance=studio.backbone.guidance)
        whole = (*studio.draw(sheet, studio.load(one.action)), *studio.draw(sheet, None))
        own += [_as_sent(picture) for picture in whole]
        shown += [_pixels(data) for data in one.pictures]
    pixels, wanted = np.stack(shown), np.stack(own)
    away = np.array([np.abs(wanted - picture).mean(axis=(1, 2, 3)) for picture in pixels])  # (shown, wanted)
    crossed = [i for i, row in enumerate(away) if row.argmin() != i and row.min() < row[i]]
    return {
        "count": len(shown),
        "same pixels": int((away.diagonal() == 0).sum()),
        "largest mean difference, of 255": round(float(away.diagonal().max()), 2),
        "least difference between two": round(float((away + 1e9 * np.eye(len(away))).min()), 2),
        "problems": [f"picture {i % 2 + 1} of {drawn[i // 2]} is another one's" for i in crossed],
    }


def _as_sent(picture: Image.Image) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Pixels after the same lossy file that the page sends."""
    file = io.BytesIO()
    picture.save(file, format="webp")
    return _pixels(file.getvalue())


def _pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float32)
