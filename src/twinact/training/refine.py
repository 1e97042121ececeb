"""Refines an action from the pose that it should show; it needs no exemplars.

Words for parts of a body that are said together are not always taken as they are meant one by one, and a customised
actor's LoRA bends what an action means. From there, the coefficients are learned on as TwinAct learns them, by the
distance between the wanted pose and the one that the model means.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import explain_out_of_memory
from twinact.backbones.weights import same_model
from twinact.configs import REFINE_STEPS, LearnConfig, TwinActConfig
from twinact.configs.settings import check_text
from twinact.errors import CheckpointError, ConfigError, TwinactError
from twinact.intent import PoseTarget
from twinact.intent.intended_pose import degrees, intended_pose
from twinact.intent.prompts import other_prompts
from twinact.lora import attached
from twinact.space import ActionSpace
from twinact.space.clauses import Point
from twinact.training.gradients import LossScale
from twinact.training.loop import rate_share

_LAST = 10  # steps whose mean says how far off the pose is in the end


def chords_in_step(
    backbone: Backbone,
    space: ActionSpace,
    target: PoseTarget,
    point: Point,
    prompts: int,
    step: int,
    who: str | None = None,
    spoken: Mapping[str, Sequence[Tensor]] | None = None,
) -> Float[Tensor, "prompts rows"]:
    """`PoseTarget.chords` of a point, in prompts and noise that follow from the step; differentiable in the point.

    `who` is in all prompts, and `spoken` are the vectors of placeholders in it.
    """
    generator = torch.Generator().manual_seed(1 + step)
    texts = other_prompts(generator, prompts, who=who)
    noise = torch.randn((prompts, *backbone.latent_shape), generator=generator).to(backbone.device, backbone.dtype)
    with torch.autocast(backbone.device.type, enabled=False):
        vectors = {PLACEHOLDER: space.vectors(*point), **(spoken or {})}
    return target.chords(backbone, backbone.encode_text(texts, vectors), noise)


def refined(
    backbone: Backbone,
    space: ActionSpace,
    action: Action,
    *,
    name: str | None = None,
    who: str | None = None,
    vectors: Mapping[str, Sequence[Float[Tensor, "*_ _ _"]]] | None = None,
    loras: Sequence[Mapping[str, Tensor]] = (),
    steps: int = REFINE_STEPS,
    progress: Callable[[int, int], None] | None = None,
) -> Action:
    """An action learned on from where it is, until the model means the pose that the action should show.

    With an actor's vectors and LoRAs, it is the actor who is to show the pose. The action that this gives is for
    drawing with them. Actions remember limbs and no height above the ground, so nothing holds a jump in the air.

    Args:
        backbone: The action's model.
        space: Its own space.
        action: With a pose, as exemplars, sliders and parts of several actions leave one.
        name: Name of the result; its own name if None.
        who: Words for the one who does it, perhaps with a placeholder; None: actors that most models know.
        vectors: Of the placeholders in `who`, as `Backbone.encode_text` takes them.
        loras: Attached meanwhile, beside the action's own; see `twinact.lora`.
        steps: 1 or more, of two prompts each.
        progress: Called with the finished steps, and all.

    Returns:
        The action with the same pose; the last step of its history tells under "off" how many degrees the model's is
        from that, over all limbs.

    Raises:
        ConfigError: It shows no pose or lies in no space, nobody has measured which pose the model means, or `who` says
            the action, too.
        CheckpointError: The space, the model or that of a LoRA is another one.
        OutOfMemory: A step does not fit into memory.
        TwinactError: Learning led to numbers that are not finite.
    """
    space, (start, mask) = space.to(backbone.device), action.whole_point(space)
    if who is not None:
        check_text("who", who)
        if PLACEHOLDER in who or not who.strip():
            raise ConfigError(f"who {who!r} must say somebody, and not {PLACEHOLDER}, which follows; e.g. 'a woman'")
    if not same_model(backbone.model_id, action.model_id):  # what is known of a pose is known of its own model
        raise CheckpointError(
            f"action {action.name!r} was made for model {action.model_id!r}, this is model {backbone.model_id!r}: "
            "load the model that it was made for"
        )
    intent, pose = intended_pose(backbone, space.poses), action.meta.get("pose")
    if not pose:
        raise ConfigError(
            f"action {action.name!r} shows no pose to refine it from: learn it from exemplars whose pose can be read, "
            "or move it by a slider"
        )
    if intent is None:
        raise ConfigError(f"model {backbone.model_id!r} is not known to show its pose early: build a space with poses")
    known = (torch.tensor(pose["directions"]), torch.tensor(pose["weights"]))
    # Actions remember no height above the ground.
    directions, weights = (torch.cat([one, torch.zeros_like(one[:1])]) for one in known)
    target = PoseTarget(directions, weights, intent)
    settings = TwinActConfig(pose_weight=1.0)
    config = LearnConfig(name="refined", method=settings, steps=steps)
    u, mask = start.to(backbone.device).clone().requires_grad_(True), mask.to(backbone.device)
    optimizer = torch.optim.Adam([u], lr=config.rate, betas=(0.9, 0.99))
    away: list[float] = []
    scale = LossScale.of("fp16" if backbone.dtype == torch.float16 else "fp32")
    memory = explain_out_of_memory("refining", "close what else uses it, or take a machine with more")
    # Readers of pictures decode, wherever the autoencoder rests.
    with memory, attached(backbone, [action.lora, *loras]), backbone.autoencoder_on_device(), torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = config.rate * rate_share(config, step)
            prompts = settings.prompts_per_step
            chords = chords_in_step(backbone, space, target, (u, mask), prompts, step, who, vectors)
            away.append(float(target.distance(chords.detach()).mean()))
            loss = target.excess(chords).mean() + settings.prior_weight * u.square().mean()
            optimizer.zero_grad()
            (scale.value * loss).backward()  # Adam's steps do not depend on the scale
            assert u.grad is not None
            if bool(u.grad.isfinite().all()):
                optimizer.step()
            elif not scale.lowered():
                raise TwinactError(f"refining {action.name!r}: numbers in step {step + 1} are not finite")
            if progress is not None:
                progress(step + 1, steps)
    off = degrees(sum(away[-_LAST:]) / len(away[-_LAST:]))
    # Who it is stays unsaid: trigger words may be names of people.
    told = {"refined": steps, **({} if who is None else {"for": "one actor"}), "off": round(off, 1)}
    return action.learned_on(space, (u.detach(), mask), told, name)
