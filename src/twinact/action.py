"""A learned action: a point in the action space, and the token vectors that it means to the text encoders.

An action has one clause or several, which "and" joins in the prompt; each is a point of its own. Slots are counted over
all clauses: with three slots a clause, slot 4 is the second one of the second clause.

Actions are never changed in place: moving one gives a new one, with its vectors made anew from the space.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from twinact.backbones.token_lora import alike
from twinact.backbones.weights import difference, same_model, same_words
from twinact.configs import AMOUNTS, check_name, check_number
from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.space import ActionSpace
from twinact.space.clauses import Point, blended, check_point, point_of, stepped, summed
from twinact.space.explain import Explanation, explain
from twinact.space.limb_words import LimbWords
from twinact.space.sliders import Ask, Posed, compose, limbs_given, slide
from twinact.space.stored_action import FORMAT_VERSION, HEADER, check_vectors, parts_of, tensors_of
from twinact.storage import read_safetensors, write_safetensors


@dataclass(frozen=True, eq=False)
class Action:
    """An action by name. Letters in shapes: c clauses, s slots, r rank, k token vectors, w width of one encoder.

    Attributes:
        name: 2 to 32 of a-z, 0-9, _ and -, starting with a letter and no number such as
            "inf"; lower case, as tokenizers have no other. New ones have up to 28.
        vectors: One (k, w) tensor per text encoder, as `Backbone.encode_text` takes them. Kept, like the coefficients,
            as a float32 copy on the CPU. None at all in what is only a LoRA of another tool. Without coefficients, k
            may differ between encoders, and there may be vectors for every cross-attention layer, (layers, k, w), and
            every time, (times, layers, k, w).
        model_id: The backbone that it was made for.
        coefficients: Whitened coefficients; None for an action that lies in no space (plain textual inversion).
        space_hash: The space of the coefficients; "" without coefficients.
        mask: Which slots of each clause are present; None means all. Coefficients of absent slots are zero and mean
            nothing.
        lora: A LoRA in the form of `twinact.lora`, copied like the vectors; empty for most actions. A `TokenLora`
            stays one.
        meta: Where it comes from, as strict JSON: exemplar hashes, captions, config, seed, versions.
    """

    name: str
    vectors: Sequence[Tensor]
    model_id: str
    coefficients: Float[Tensor, "c s r"] | None = None
    space_hash: str = ""
    mask: Bool[Tensor, "c s"] | None = None
    lora: Mapping[str, Tensor] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses what could not be saved, loaded or used.

        Raises:
            ConfigError: The name is not allowed, or parts do not fit together.
            DataError: A number is not finite.
        """
        check_name(self.name, stored=True)
        # Copies: a training run goes on changing the tensors that it hands over.
        object.__setattr__(self, "vectors", tuple(_stored(vectors) for vectors in self.vectors))
        object.__setattr__(self, "coefficients", None if self.coefficients is None else _stored(self.coefficients))
        object.__setattr__(self, "lora", alike(self.lora, {key: _stored(one) for key, one in self.lora.items()}))
        check_vectors(
            self.name, self.vectors, free=self.coefficients is None, bare=not self.vectors and bool(self.lora)
        )
        rows = {vectors.shape[0] for vectors in self.vectors}
        if (self.coefficients is None) != (self.space_hash == ""):
            raise ConfigError(f"action {self.name!r} needs both coefficients and a space hash, or neither")
        if self.mask is not None and self.coefficients is None:
            raise ConfigError(f"action {self.name!r} has a mask without coefficients: leave absent slots out")
        if self.coefficients is not None:
            check_point(self.name, self.coefficients, self.mask, rows.pop())
        for tensor in (*self.vectors, *self.lora.values(), *([] if self.coefficients is None else [self.coefficients])):
            if not bool(tensor.isfinite().all()):
                raise DataError(f"action {self.name!r} holds a number that is not finite: train it with a lower rate")

    @property
    def slots(self) -> int:
        """The token positions that it takes in a prompt, in the text encoder in which it takes most."""
        return max((vectors.shape[-2] for vectors in self.vectors), default=0)

    @property
    def by_layer(self) -> bool:
        """Whether its vectors differ between the layers of a denoiser, as those of `xti` and `neti` do."""
        return any(vectors.ndim > 2 for vectors in self.vectors)

    @property
    def lora_parts(self) -> set[str]:
        """Networks that the LoRA adapts, by their names in the pipeline."""
        return {key.partition(".")[0] for key in self.lora}

    @classmethod
    def from_coefficients(
        cls,
        name: str,
        space: ActionSpace,
        coefficients: Float[Tensor, "*c s r"],
        *,
        mask: Bool[Tensor, "*c s"] | None = None,
        lora: Mapping[str, Tensor] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> "Action":
        """The action at a point of a space.

        Args:
            name: Its name.
            space: The space of the point.
            coefficients: Whitened coefficients; of one clause without the first dimension.
            mask: Slots that are present, as `ActionSpace.project_phrase` gives them; None means all.
            lora, meta: Kept as they are.
        """
        coefficients = coefficients.detach().to(space.sigma.device, torch.float32)
        coefficients = coefficients.unsqueeze(0) if coefficients.ndim == 2 else coefficients
        shape = coefficients.shape[:2]
        mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask.reshape(shape).cpu()
        coefficients = coefficients * mask.to(coefficients).unsqueeze(-1)
        return cls(
            name=name,
            vectors=space.vectors(coefficients, mask.to(coefficients.device)),
            model_id=space.model_id,
            coefficients=coefficients,
            space_hash=space.hash,
            mask=None if bool(mask.all()) else mask,
            lora=lora or {},
            meta=dict(meta or {}),
        )

    def adjusted(
        self, space: ActionSpace, component: tuple[int, int], amount: float, name: str | None = None
    ) -> "Action":
        """The action moved along one component.

        Args:
            space: Its own space.
            component: (slot, index), counted from 0; slots over all clauses.
            amount: Step in standard deviations of the phrases; any sign.
            name: Name of the result; its own name if None.

        Raises:
            ConfigError: It has no coefficients or not this component, or the amount is not in `AMOUNTS`.
            CheckpointError: The space is another one.
        """
        check_number("amount", amount, AMOUNTS)
        moved = stepped(space, self.whole_point(space), component, amount, self.name)
        return self._moved(space, moved, name, {"adjusted": [*component, float(amount)]})

    def toward(
        self, space: ActionSpace, target: "Action | Tensor | str", amount: float, name: str | None = None
    ) -> "Action":
        """The action moved on the straight line to another point, in whitened coefficients.

        Every clause of the target draws the clause that is most like it, once. A slot or a clause that only one of the
        two has cannot be blended: it keeps the coefficients of the one that has it.

        Args:
            space: Its own space.
            target: Another action of the space, whitened coefficients of one clause or more, or a phrase of the space.
            amount: 0 gives the action itself, 1 the target; above 1 goes beyond, below 0 away from it.
            name: Name of the result; its own name if None.

        Raises:
            ConfigError: It or the target has no coefficients, the target is not of the space, or the amount is not in
                `AMOUNTS`.
            CheckpointError: An action belongs to another space.
        """
        check_number("amount", amount, AMOUNTS)
        start = self.whole_point(space)
        if amount == 0:
            return replace(self, name=_new_name(name, self.name))
        if isinstance(target, Action):
            goal, label = target.whole_point(space), target.name
        else:
            goal, label = point_of(space, target), target if isinstance(target, str) else "coefficients"
        return self._moved(space, blended(space, start, goal, amount), name, {"toward": label, "amount": float(amount)})

    def combined(
        self,
        space: ActionSpace,
        others: Sequence["Action"],
        weights: Sequence[float] | None = None,
        name: str | None = None,
    ) -> "Action":
        """Several actions at once: the weighted sum of their deviations from the mean action, slot by slot.

        Every clause is summed with the one of the longest action that is most like it.

        Averaging would wash all of them out: the mean of two unrelated actions is 0.7 times as far from the mean
        action as either. So without weights each slot of the average is lengthened to the root mean square length
        of its parts. Unrelated actions then keep 1/sqrt(n) of their strength each, an action combined with itself
        stays as it is, and the result is never further out than the plain sum. Weights, when given, are used as they
        are: [1, 1] is the full sum of both (a head and a leg action that hardly overlap), [1, -1] takes one out.

        Args:
            space: The space of all of them.
            others: At least one more action.
            weights: One for this action and one for each of the others, any sign; None as described.
            name: Name of the result; its own name if None.

        Raises:
            ConfigError: An action has no coefficients or carries a LoRA, or weights are too few, or not in `AMOUNTS`.
            CheckpointError: An action belongs to another space.
        """
        parts = [self, *others]
        if not others:
            raise ConfigError(f"only action {self.name!r} is given: combining needs 2 or more")
        if weights is not None and len(weights) != len(parts):
            raise ConfigError(f"{len(weights)} weights for {len(parts)} actions: give one for each, or none")
        for weight in weights or ():
            check_number("weight", weight, AMOUNTS)
        _check_without_lora(parts)
        whole = summed(space, [part.whole_point(space) for part in parts], weights)
        step = {"combined": [part.name for part in parts], "weights": None if weights is None else list(weights)}
        return self._moved(space, whole, name, step)

    def slid(
        self, space: ActionSpace, slider: str, amount: float, name: str | None = None, ask: Ask | None = None
    ) -> "Action":
        """The action with a limb moved by a named slider, by words that are found in the poses of the phrases.

        The limb goes the share `amount` of the way to where the slider ends, at -1 or at 1, as far as phrases reach: by
        how many degrees they are off lies under "off" in the last step of the history.

        Args:
            space: Its own space, with a pose table.
            slider: One of `twinact.space.sliders.SLIDERS`.
            amount: From -1 to 1; 0 gives the action itself.
            name: Name of the result; its own name if None.
            ask: Tells what the model means by likely words, as `twinact.intent.Meant` does; None: nobody does.

        Raises:
            ConfigError: It has no coefficients, the space no poses, there is no such slider, or the amount is out of
                range.
            CheckpointError: The space is another one.
        """
        words = LimbWords(space)
        moved = slide(words, self._posed(words), slider, amount, ask)
        if amount == 0:
            return replace(self, name=_new_name(name, self.name))
        return self._spoken(space, moved, name, {"slid": slider, "amount": float(amount), "off": round(moved.off, 1)})

    def with_parts(
        self,
        space: ActionSpace,
        parts: Sequence[tuple["Action", Sequence[str]]],
        name: str | None = None,
        ask: Ask | None = None,
    ) -> "Action":
        """The action with parts of the body as other actions have them, found in the poses of the phrases.

        Clauses that are about the wanted parts alone are kept; what others say of them is said anew.

        Args:
            space: The space of all of them, with a pose table.
            parts: Other actions, and which of `twinact.space.limbs.PARTS` each gives. This one keeps the rest.
            name: Name of the result; its own name if None.
            ask: As `slid` takes it.

        Raises:
            ConfigError: There is no such part, it is given twice, the space has no poses, or an action has no
                coefficients or carries a LoRA.
            CheckpointError: An action belongs to another space.
        """
        _check_without_lora([other for other, _ in parts])
        givers = limbs_given(self, parts)
        words = LimbWords(space)
        whole = compose(words, [(action._posed(words), limbs) for action, limbs in givers], ask)
        told = {action.name: [limb.name for limb in limbs] for action, limbs in givers}
        return self._spoken(space, whole, name, {"parts": told, "off": round(whole.off, 1)})

    def explain(self, space: ActionSpace, k: int = 5) -> Explanation:
        """The nearest phrases and the k largest coefficients, and how far outside the phrases the action lies.

        Of k phrases, each clause has an equal share, at least one.

        Raises:
            ConfigError: It has no coefficients, or k is below 1.
            CheckpointError: The space is another one.
        """
        return explain(space, *self.whole_point(space), k)

    def check(self, *, space_hash: str | None = None, model_id: str | None = None) -> None:
        """Makes sure that the action belongs to a space and a backbone; None is not checked.

        An action without coefficients depends on no space and passes for any. Token vectors touch no weights: an action
        without LoRA passes for every model with the same text encoders and tokenizers, as a base, its distilled model
        and its fine-tunes have them.

        Raises:
            CheckpointError: It was made for another one; the message names both.
        """
        if space_hash is not None and self.space_hash not in ("", space_hash):
            raise CheckpointError(
                f"action {self.name!r} was made in space {self.space_hash[:12]}, this is space {space_hash[:12]}: "
                "load the space that it was made in, or imitate the action again"
            )
        fits = same_model if self.lora else same_words
        if model_id is not None and not (same_model(self.model_id, model_id) or fits(self.model_id, model_id)):
            raise CheckpointError(
                f"action {self.name!r} was made for model {self.model_id!r}, this is model {model_id!r} "
                f"({difference(self.model_id, model_id)}): load the model that it was made for, "
                "or imitate the action again"
            )

    def point(self, space: ActionSpace) -> Float[Tensor, "c s r"]:
        """The coefficients, after making sure that they are of this space.

        Raises:
            ConfigError: It has no coefficients.
            CheckpointError: The space is another one.
        """
        if self.coefficients is None:
            raise ConfigError(
                f"action {self.name!r} has no coefficients, because it was learned outside the action space (plain "
                "textual inversion): it cannot be moved, combined or explained; imitate it with method 'twinact'"
            )
        self.check(space_hash=space.hash, model_id=space.model_id)
        return self.coefficients

    def whole_point(self, space: ActionSpace) -> Point:
        """The coefficients, as `point` gives them, with the mask that None stands for."""
        u = self.point(space)
        return u, torch.ones(u.shape[:2], dtype=torch.bool) if self.mask is None else self.mask

    def learned_on(self, space: ActionSpace, point: Point, step: Mapping[str, Any], name: str | None) -> "Action":
        """The action at another point of its own space that is to show the same pose; `step` is what history tells."""
        moved = self._moved(space, point, name, step)
        return replace(moved, meta={**moved.meta, "pose": self.meta["pose"]})

    def save(self, path: str | os.PathLike[str], *, new: bool = False) -> Path:
        """Writes one safetensors file (by convention `*.action.safetensors`), whole or not at all.

        Raises:
            NameTaken: `new`, and something has the name; otherwise what is there is replaced.
            CheckpointError: `meta` is not strict JSON.
            DataError: The file cannot be written.
        """
        told = {key: getattr(self, key) for key in HEADER} | {"meta": dict(self.meta)}
        header = {"kind": "action", "version": FORMAT_VERSION, **told}
        tensors = tensors_of(self.vectors, self.coefficients, self.mask, self.lora)
        return write_safetensors(path, tensors, header, new=new)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Action":
        """Reads a file that `save` wrote; `check` then says whether it fits a space and a backbone.

        Raises:
            CheckpointError: It is missing, corrupt, no action, or of a later format version.
        """
        tensors, header = read_safetensors(path, "action", FORMAT_VERSION, HEADER)
        try:
            return cls(**parts_of(tensors), **{key: header[key] for key in HEADER})
        except (ConfigError, DataError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a usable action: {error}; make it again") from error

    def _posed(self, words: LimbWords) -> Posed:
        return Posed.of(words, self.whole_point(words.space), self.meta.get("pose"), self.name)

    def _spoken(self, space: ActionSpace, posed: Posed, name: str | None, step: dict[str, Any]) -> "Action":
        """A new action with a pose that it remembers, so that it can be moved on from there."""
        if len(posed.point[0]) == 0:  # it leaves all limbs at rest, and some words there must be
            raise ConfigError(f"action {self.name!r} would have no words left: take other parts")
        moved = self._moved(space, posed.point, name, step)
        return replace(moved, meta={**moved.meta, "pose": posed.to_dict()})

    def _moved(self, space: ActionSpace, point: Point, name: str | None, step: Mapping[str, Any]) -> "Action":
        """A new action at a point that remembers how it came to be."""
        u, mask = point
        kept = {key: value for key, value in self.meta.items() if key != "pose"}  # it shows another one now
        meta = {**kept, "history": [*(self.meta.get("history") or []), {"from": self.name, **step}]}
        return self.from_coefficients(_new_name(name, self.name), space, u, mask=mask, lora=self.lora, meta=meta)


def _new_name(given: str | None, own: str) -> str:
    """The name of what an action becomes; it may keep one that is longer than new ones."""
    if given is None:
        return own
    check_name(given)
    return given


def _stored(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


def _check_without_lora(actions: Sequence[Action]) -> None:
    for action in actions:
        if action.lora:
            raise ConfigError(f"action {action.name!r} carries a LoRA, which cannot be combined: use one without")
