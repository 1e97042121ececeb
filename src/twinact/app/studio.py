"""The model of the page: opened once, used by one at a time, for reading, learning at once and drawing."""

import contextvars
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.app.exemplars import Checked, check
from twinact.app.folder import AT_ONCE, WorkFolder
from twinact.app.mixing import Mix, mixed
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig
from twinact.console import say
from twinact.errors import DataError
from twinact.intent import Meant, intended_pose
from twinact.jobs.job import Job
from twinact.jobs.less_memory import Drawing
from twinact.jobs.models import default_space, open_model
from twinact.jobs.resources import choose_resources
from twinact.jobs.run import run_job
from twinact.lora import scaled
from twinact.phrases.wording import said
from twinact.readers.choice import read_photographs
from twinact.readers.common import common_pose
from twinact.space import ActionSpace
from twinact.space.ordering import energy_let_in, shipped_words

MAX_PICTURES = 64
"""That are drawn at one press of a button."""
QUICK_STEPS = 9
"""Denoising steps of pictures that follow a slider."""
_OF_START = ("clauses", "person", "reader", "seed", "slots", "start")
_AT_ONCE = 4  # pictures, so that progress is seen

Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Sheet:
    """Pictures to draw.

    Attributes:
        prompts: Each with the placeholder.
        seeds: Seeds of every prompt.
        words: What stands in place of the placeholder where pictures of words alone are drawn; None draws none.
        steps, guidance: None takes the model's own.
        negative_prompt: What guidance leads away from.
        lora_weight: Strength of the action's LoRA.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    words: str | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str = ""
    lora_weight: float = 1.0

    @property
    def shots(self) -> list[tuple[str, int]]:
        """Prompt and seed of every picture."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


class Studio:
    """One model and the folder of the page.

    Args:
        folder: Of the page.
        model: As ``--model`` takes it.
    """

    def __init__(self, folder: WorkFolder, model: str) -> None:
        self.folder, self.model = folder, model
        self._lock = threading.RLock()  # held while something is opened
        # Every thread that has ever used the model keeps some of its memory, and a page has dozens of threads.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._backbone: Backbone | None = None
        self._pen: Drawing  # of the model, made with it
        self._space: ActionSpace | None = None

    @property
    def backbone(self) -> Backbone:
        """The model; opened when it is first asked for, in the precision that the command line would choose."""
        with self._lock:
            if self._backbone is None:
                chosen = choose_resources(self.model)
                self._backbone = open_model(self.model, chosen.precision, chosen.memory)
                self._pen = Drawing(self._backbone, chosen.memory, _AT_ONCE, say)
            return self._backbone

    @property
    def space(self) -> ActionSpace:
        """The model's own action space."""
        with self._lock:
            if self._space is None:
                self._space = default_space(self.backbone).to("cpu")
            return self._space

    @cached_property
    def meant(self) -> Meant | None:
        """Tells what the model means by words; None where nobody has measured it."""
        return Meant.of(self.backbone, self.space)

    @property
    def quick(self) -> bool:
        """Whether an action is learned in about a second, since the model says early which pose it means."""
        return intended_pose(self.backbone, self.space.poses) is not None

    def let_in(self) -> tuple[Float[Tensor, "s r"], Float[Tensor, "s r"]]:
        """What the first components of the space keep of its phrases, and let in of words that are no actions.

        See `twinact.space.ordering.energy_let_in`.

        Raises:
            DataError: The model spells all of these words in pieces.
        """
        tables = self.backbone.token_tables()
        return energy_let_in(self.space, tables, shipped_words(tables))

    def check(self, folder: Path, reader: str = "auto", person: int = 1) -> Checked:
        """Exemplars as `twinact.app.exemplars.check` sees them."""
        backbone = self.backbone
        return self._in_turn(lambda: check(folder, backbone, reader, person))

    def learn_at_once(self, name: str, given: Mapping[str, Any], tell: Callable[[str], None]) -> Action:
        """The action that phrases come nearest to, as ``twinact learn --steps 0`` makes it, in a run folder of its own.

        Args:
            name: Of the action; its exemplars lie in the folder already.
            given: Settings of the run; those that choose the start hold here, too.
            tell: Receives what was seen.
        """
        of_start = {key: value for key, value in given.items() if key in _OF_START}
        config = LearnConfig.from_dict({**of_start, "name": name + AT_ONCE, "steps": 0})
        job = Job(
            exemplars=self.folder.exemplars(name),
            config=config,
            run_dir=self.folder.run(name + AT_ONCE),
            model=self.model,
        )
        backbone = self.backbone
        return self._in_turn(lambda: run_job(job, backbone=backbone, tell=tell).action)

    def load(self, label: str) -> Action:
        """One of the folder's actions."""
        return Action.load(self.folder.action(label))

    def mix(self, mix: Mix, name: str | None = None) -> tuple[Action, str]:
        """The action that a mix of the folder's actions makes, and a remark; see `twinact.app.mixing.mixed`."""
        labels = {label for label in (mix.base, mix.other) if label is not None}
        actions, space, meant = {label: self.load(label) for label in labels}, self.space, self.meant
        return self._in_turn(lambda: mixed(mix, actions, space, name, meant))

    def draw(self, sheet: Sheet, action: Action | None, progress: Progress | None = None) -> list[Image.Image]:
        """Pictures of an action, or of words alone where there is none, in the order of `Sheet.shots`.

        Raises:
            DataError: They are too many, or a prompt does not say where the action goes.
            TwinactError: As `twinact.sample.generate`.
        """
        shots = sheet.shots
        if not 0 < len(shots) <= MAX_PICTURES:
            raise DataError(f"{len(shots)} pictures were asked for; draw 1 to {MAX_PICTURES} at once")
        backbone = self.backbone
        if action is not None:
            action.check(model_id=backbone.model_id)
        words = [prompt if action is not None else said(prompt, sheet.words or "") for prompt, _ in shots]
        images = self._pen.draw(
            words,
            None if action is None or not action.vectors else {PLACEHOLDER: action.vectors},
            loras=[] if action is None else [scaled(action.lora, sheet.lora_weight)],
            seeds=[seed for _, seed in shots],
            steps=sheet.steps,
            guidance=sheet.guidance,
            negative_prompt=sheet.negative_prompt,
            advice="close what else uses it, or open the page on a smaller model",
        )

        def drawn() -> list[Image.Image]:
            found = []
            for image in images:
                found.append(image)
                if progress is not None:
                    progress(len(found), len(shots))
            return found

        return self._in_turn(drawn)

    def phrases_like(self, picture: Image.Image, path: Path, count: int = 8) -> list[tuple[str, float]]:
        """The phrases that look most like what a picture shows, with the expected distance of each, nearest first.

        Raises:
            DataError: Nobody knows what the phrases of this model look like, or nobody is seen.
            TwinactError: As `twinact.readers.choice.read_photographs`.
        """
        poses = self.space.poses
        if poses is None:
            raise DataError("this model's action space holds no poses of its phrases; give one that has them")
        backbone = self.backbone
        common = common_pose(self._in_turn(lambda: read_photographs([picture], [path], "auto", backbone)))
        if not bool(common.weights.any()):
            raise DataError("nobody is seen in this picture; give one that shows the whole body")
        found = poses.nearest(*common.rows, 1, count)
        return [(self.space.phrases[numbers[0]], distance) for numbers, distance in found]

    def _in_turn(self, work: Callable[[], T]) -> T:
        """What work with the model gives, in the model's thread; not to be called there."""
        context = contextvars.copy_context()  # gradio finds by it whose progress is told
        return self._thread.submit(context.run, work).result()

    def command(self, sheet: Sheet, label: str) -> str:
        """The command that draws a sheet with one of the folder's actions."""
        words = ["twinact", "generate", self.folder.told(self.folder.action(label))]
        words += [] if self.model == "nano" else ["--model", self.model]
        for prompt in sheet.prompts:
            words += ["--prompt", prompt]
        words += ["--seed", str(sheet.seeds[0]), "--count", str(len(sheet.seeds))]
        for option, value, usual in (
            ("--steps", sheet.steps, None),
            ("--guidance", sheet.guidance, None),
            ("--negative-prompt", sheet.negative_prompt, ""),
            ("--lora-weight", sheet.lora_weight, 1.0),
        ):
            words += [] if value == usual else [option, str(value)]
        return shlex.join(words)


def grid(actors: Sequence[str], places: Sequence[str]) -> tuple[str, ...]:
    """A prompt with the placeholder for every actor in every place."""
    return tuple(" ".join(f"{actor} {PLACEHOLDER} {place}".split()) for actor in actors for place in places or [""])
