"""Carries out one job: check what is given, choose how to run, open the model, learn, report."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from twinact.backbones.backbone import Backbone
from twinact.configs import CLAUSE_MARK, RunConfig
from twinact.console import say
from twinact.data.captions import default_caption, unsaid
from twinact.data.exemplars import Exemplars, Photographs, check_captions
from twinact.data.shapes import side_multiple
from twinact.errors import OutOfMemory
from twinact.intent import degrees
from twinact.jobs.exemplar_pose import check_pictures, given_exemplars, pose_target, with_keypoints
from twinact.jobs.job import Advance, Job
from twinact.jobs.known import check_start, tell_strange_pictures, tell_unknown_words
from twinact.jobs.less_memory import lower_for_learning
from twinact.jobs.models import adopted, default_space, open_with_message, precision_of
from twinact.jobs.resources import run_config
from twinact.methods import make_method
from twinact.readers import load_action_encoder
from twinact.report.run_report import report_run
from twinact.runs.folder import MARKER, RunFolder, settings_of
from twinact.runs.previews import Previews
from twinact.runs.trackers import check_installed, tracking
from twinact.space import ActionSpace
from twinact.space.action_space import CONJUNCTION
from twinact.space.build import SPACE_FILE
from twinact.storage import check_folder
from twinact.training.loop import StepRecord, TrainResult, encode_exemplars, train
from twinact.training.processes import this_process
from twinact.training.start import posed_start, starting_phrase


@dataclass(frozen=True)
class Preflight:
    """What is known of a job before a model of gigabytes is read.

    Attributes:
        photographs: Photographs of the action.
        begun: Settings of the run in its folder; None for a new one.
        space: The given space, else the one in the run folder, else None.
    """

    photographs: Photographs
    begun: dict[str, Any] | None
    space: ActionSpace | None


def run_job(
    job: Job,
    *,
    backbone: Backbone | None = None,
    opening: Callable[[str, str, str], Backbone] = open_with_message,
    advance: Advance | None = None,
    tell: Callable[[str], None] = say,
) -> TrainResult:
    """Learn the action of a job, or go on with a run that was stopped, or find that it is done.

    Where memory runs out with memory normal, the run goes on once with low, to the same bits, and says so.

    Without ``config.start``, a method in an action space begins at the phrase under which the model finds the
    exemplars likeliest. The run folder also receives the space (`SPACE_FILE`), so that the action can be moved on any
    machine, previews if they are asked for, and a report.

    Args:
        job: What to learn, with what, and where to.
        backbone: The model of the job, if it is open already; its precision is then used unless another is given.
        opening: Opens the model otherwise, from its name, a precision and a memory preset.
        advance: Receives progress.
        tell: Receives what a person should know: captions that are missing, what was chosen.

    Raises:
        TwinactError: As `preflight`, `twinact.jobs.resources.run_config`, `make_method` and `train`.
        KeyboardInterrupt: The run was stopped; its checkpoint is saved, or what the search has found.
    """
    seen = preflight(job, tell)
    given = dict(job.run)
    if backbone is not None:
        given = {"precision": precision_of(backbone), "memory": RunConfig.memory, **given}
        if seen.begun is None:  # a run that was begun knows its parts
            given.setdefault("accumulate", RunConfig.accumulate)
    run = run_config(given, job.model, job.config.batch_size, seen.begun)
    while True:
        try:
            if backbone is None:
                backbone = opening(job.model, run.precision, run.memory)
            return _carry_out(job, seen, run, backbone, advance, tell)
        except OutOfMemory as error:
            run = replace(run, memory=lower_for_learning(run.memory, error, tell))
        seen = replace(seen, begun=settings_of(job.run_dir))


def _carry_out(
    job: Job, seen: Preflight, run: RunConfig, backbone: Backbone, advance: Advance | None, tell: Callable[[str], None]
) -> TrainResult:
    """`run_job` with an open model, once it is known how to run."""
    group = this_process()
    given = None if seen.space is None else adopted(seen.space, backbone, tell)
    target, poses = None, None if given is None else given.poses
    if job.config.method.takes_pose:
        target = pose_target(job.config, backbone, seen.photographs, tell, poses)
    config = replace(job.config, method=job.config.method.settled(target is not None))
    check_pictures(job.exemplars, config.method)
    encoder = None if backbone.folder is None else load_action_encoder(backbone.folder)
    exemplars = seen.photographs.fitted(backbone.image_size, None if backbone.square else side_multiple(backbone))
    if config.method.denoises:
        _tell_shapes(exemplars, tell)
    latents = None
    if not RunFolder(job.run_dir, config.name).done:
        group.on_main(lambda: check_captions(exemplars, backbone, config.method.most_vectors(config.slots)))
        tell_unknown_words(backbone, exemplars.captions, tell)
        if target is None:
            tell_strange_pictures(backbone, encoder, seen.photographs, tell)
        latents = encode_exemplars(backbone, exemplars, run.memory)

    def searching(done: int, total: int) -> None:
        if advance is not None:
            advance(done, total, f"{config.name}: looking for the nearest phrase")

    space, spent = None, 0
    if config.method.takes_space:
        space = group.on_main(lambda: given or default_space(backbone, slots=config.slots))
        if config.start is not None:
            for phrase in config.start.split(CLAUSE_MARK):
                check_start(phrase.strip(), backbone, space.phrases)
        make_method(config, backbone, space, encoder, target)  # what does not fit is told before the search
        if config.start is None and seen.begun is not None:
            config = replace(config, start=seen.begun["start"])
        elif config.start is None and target is not None and space.poses is not None:
            found = group.on_main(partial(posed_start, backbone, space, target, config, run, progress=searching))
            words, off = f" {CONJUNCTION} ".join(found.phrases), degrees(found.distance)
            tell(f"start: {words}, {off:.0f}° from the exemplars' pose")
            config, spent = replace(config, start=f"{CLAUSE_MARK} ".join(found.phrases)), found.passes
        elif config.start is None and config.method.seeks_start:
            search = partial(starting_phrase, backbone, space, exemplars, latents, job.run_dir, run, searching)
            start, spent = group.on_main(search)
            config = replace(config, start=start)
    method = make_method(config, backbone, space, encoder, target)

    def progress(record: StepRecord) -> None:
        if tracker is not None:
            tracker.log(record.step, {**record.terms, "learning_rate": record.learning_rate, "seconds": record.seconds})
        if advance is not None:
            advance(record.step, record.steps, f"{config.name}: learning")

    with tracking(run.tracker if group.is_main else "none", job.run_dir, config.to_dict()) as tracker:
        result = train(
            method,
            backbone,
            exemplars,
            config,
            job.run_dir,
            progress,
            run=run,
            latents=latents,
            search=spent,
            after_step=Previews(backbone, job.run_dir, config, run) if run.preview_every else None,
        )

    def finish() -> None:
        if space is not None and not (job.run_dir / SPACE_FILE).is_file():  # a folder without a run must stay empty
            space.save(job.run_dir / SPACE_FILE)
        report_run(job.run_dir, seen.photographs, result.action)

    group.on_main(finish)
    return result


def _tell_shapes(exemplars: Exemplars, tell: Callable[[str], None]) -> None:
    """Tell in which shapes exemplars are learned, if not all in the model's square."""
    counts = Counter(exemplars.shapes)
    if set(counts) != {(exemplars.size, exemplars.size)}:
        told = ", ".join(f"{width} × {height} ({count})" for (width, height), count in counts.most_common())
        tell(f"pictures are learned in their own shapes, each step in one: {told}")


def preflight(job: Job, tell: Callable[[str], None] = say) -> Preflight:
    """Look at everything that a job names except the model, and tell what a person may have overlooked.

    Raises:
        ConfigError: The run folder holds a run with other settings.
        DataError: The exemplars cannot be used, or the run folder holds something else or cannot be written.
        CheckpointError: The space cannot be used.
    """
    begun = this_process().on_main(lambda: settings_of(job.run_dir))
    if not RunFolder(job.run_dir, job.config.name).done:
        check_folder(job.run_dir)
    check_installed(str(job.run.get("tracker", RunConfig.tracker)))
    stored = job.run_dir / SPACE_FILE
    file = job.space or (stored if job.config.method.takes_space and stored.is_file() else None)
    space = None if file is None else ActionSpace.load(file)
    photographs = given_exemplars(job.exemplars, job.config.actor)
    if job.config.method.takes_pose:
        photographs = with_keypoints(photographs)
    if begun is not None:  # of what is known by now; all of it is compared when the run goes on
        known = {key: value for key, value in job.config.to_dict().items() if value is not None}
        MARKER.check_same(job.run_dir, begun, {**begun, **known, "exemplars": photographs.hashes})
        if not RunFolder(job.run_dir, job.config.name).done:
            tell(f"going on with the run in '{job.run_dir}'")
    captions, masked = photographs.captions, sum(mask is not None for mask in photographs.masks)
    bare = captions.count(default_caption(job.config.actor))
    if bare:
        tell(
            f"{bare} of {len(captions)} pictures have no caption: {default_caption(job.config.actor)!r} is said of them"
        )
    missing = [f"the {what} in {count}" for what, count in unsaid(captions).items() if count]
    if missing:
        tell(
            f"of {len(captions)} captions, what is left unsaid: {' and '.join(missing)}; learning by denoising takes "
            "it for the action unless a .txt beside each picture names actor and place ('a woman <act> in a park')"
        )
    if masked:
        tell(f"{masked} of {len(captions)} pictures have a mask: only what is white in it counts")
    return Preflight(photographs, begun, space)
