"""A mix: actions taken together, limbs moved, and a pull towards a phrase, as one record without widgets."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from twinact.action import Action
from twinact.errors import ConfigError
from twinact.report.explanation import out_of_reach
from twinact.space import ActionSpace
from twinact.space.sliders import Ask
from twinact.storage import ACTION_SUFFIX


@dataclass(frozen=True)
class Mix:
    """What is made of an action, in this order.

    Attributes:
        base: Label of the action that is moved.
        other: Label of a second action, or None.
        weights: Of the base and the other, where they are summed; None balances them.
        part: Part of the body that the other gives; None sums them.
        sliders: Amounts from -1 to 1 by the names of `twinact.space.sliders.SLIDERS`.
        toward: Phrase that it is moved towards, or None.
        amount: Share of the way there.
    """

    base: str
    other: str | None = None
    weights: tuple[float, float] | None = None
    part: str | None = None
    sliders: Mapping[str, float] = field(default_factory=dict)
    toward: str | None = None
    amount: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether it changes anything."""
        return self.other is not None or any(self.sliders.values()) or bool(self.toward and self.amount)


def mixed(
    mix: Mix, actions: Mapping[str, Action], space: ActionSpace, name: str | None = None, ask: Ask | None = None
) -> tuple[Action, str]:
    """The action that a mix makes, and a remark where phrases do not reach what was asked.

    Args:
        mix: What to make.
        actions: By the labels in the mix.
        space: Of all of them.
        name: Of the result; the base's own if None.
        ask: As `Action.slid` takes it.

    Raises:
        TwinactError: As the methods of `Action`.
    """
    action, said = actions[mix.base], list[Action]()
    if mix.other is not None:
        other = actions[mix.other]
        if other.name == action.name:
            raise ConfigError(f"both actions are called {action.name!r}; take two of different names")
        if mix.part is not None:
            action = action.with_parts(space, [(other, [mix.part])], name, ask)
            said.append(action)
        else:
            action = action.combined(space, [other], mix.weights, name)
    for slider, amount in mix.sliders.items():
        if amount:
            action = action.slid(space, slider, amount, name, ask)
            said.append(action)
    if mix.toward and mix.amount:
        action = action.toward(space, mix.toward, mix.amount, name)
    return action, out_of_reach(*said)


def commands(mix: Mix, files: Mapping[str, str], names: Mapping[str, str], model: str, out: Path) -> list[str]:
    """The commands that make the same action, each from the result of the one before.

    Args:
        mix: What to make.
        files: Label → its file, as commands name it.
        names: Label → name of the action.
        model: As ``--model`` takes it.
        out: File of the result, as commands name it.
    """
    steps: list[list[str]] = []
    if mix.other is not None:
        words = ["combine", files[mix.base], files[mix.other]]
        if mix.part is not None:
            words += ["--parts", f"{mix.part} of {names[mix.other]}"]
        elif mix.weights is not None:
            words += ["--weights", ",".join(f"{weight:g}" for weight in mix.weights)]
        steps.append(words)
    ways = [("--slider", name, amount) for name, amount in mix.sliders.items() if amount]
    ways += [("--toward", mix.toward, mix.amount)] if mix.toward and mix.amount else []
    for option, what, amount in ways:
        steps.append(["adjust", files[mix.base], option, what, f"--amount={amount:g}"])
    lines, stem = [], str(out).removesuffix(ACTION_SUFFIX)
    for number, words in enumerate(steps, 1):
        target = f"{stem}{ACTION_SUFFIX}" if number == len(steps) else f"{stem}-{number}{ACTION_SUFFIX}"
        if number > 1:
            words[1] = f"{stem}-{number - 1}{ACTION_SUFFIX}"
        words += [] if model == "nano" else ["--model", model]
        lines.append(shlex.join(["twinact", *words, "--out", target]))
    return lines
