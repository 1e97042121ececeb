"""A learned action: a point in the action space, and the token vectors that it means to the text encoders.

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

from twinact.backbones.weights import same_model
from twinact.configs import check_name
from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.files import read_safetensors, write_safetensors
from twinact.space import ActionSpace

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Explanation:
    """What an action is made of.

    Attributes:
        phrases: (phrase, cosine similarity, share) of the nearest phrases, best first. Shares are the similarities
            above zero, made to sum to 1: a reading aid, not a decomposition.
        components: (slot, index, value) of the largest coefficients by size, in standard deviations of the phrases.
        norm: Length of the coefficients relative to the median phrase over the same slots. 1 is typical.
        largest_phrase_norm: The same for the phrase furthest from the mean; a larger `norm` lies outside the phrases.
    """

    phrases: tuple[tuple[str, float, float], ...]
    components: tuple[tuple[int, int, float], ...]
    norm: float
    largest_phrase_norm: float


@dataclass(frozen=True, eq=False)
class Action:
    """An action by name. Letters in shapes: s slots, r rank, k slots that are present, w width of one encoder.

    Attributes:
        name: 2 to 32 of a-z, 0-9, _ and -, starting with a letter and no number such as
            "inf"; lower case, as tokenizers have no other. New ones have up to 28.
        vectors: One (k, w) tensor per text encoder, as `Backbone.encode_text` takes them. Kept, like
            the coefficients, as a float32 copy on the CPU. None at all in what is only a LoRA of another tool.
        model_id: The backbone that it was made for.
        coefficients: Whitened coefficients; None for an action that lies in no space (plain textual inversion).
        space_hash: The space of the coefficients; "" without coefficients.
        mask: Which slots are present; None means all. Coefficients of absent slots are zero and mean nothing.
        lora: A LoRA in the form of `twinact.lora`, copied like the vectors; empty for most actions.
        meta: Where it comes from, as strict JSON: exemplar hashes, captions, config, seed, versions.
    """

    name: str
    vectors: Sequence[Tensor]
    model_id: str
    coefficients: Float[Tensor, "s r"] | None = None
    space_hash: str = ""
    mask: Bool[Tensor, " s"] | None = None
    lora: Mapping[str, Tensor] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses what could not be saved, loaded or used.

        Raises:
            ConfigError: The name is not allowed, or parts do not fit together.
            DataError: A number is not finite.
        """
        check_name(self.name, kept=True)
        # Copies: a training run goes on changing the tensors that it hands over.
        object.__setattr__(self, "vectors", tuple(_stored(vectors) for vectors in self.vectors))
        object.__setattr__(self, "coefficients", None if self.coefficients is None else _stored(self.coefficients))
        object.__setattr__(self, "lora", {key: _stored(weight) for key, weight in self.lora.items()})
        rows = {vectors.shape[0] for vectors in self.vectors if vectors.ndim == 2}
        bare = not self.vectors and bool(self.lora) and self.coefficients is None
        if (len(rows) != 1 and not bare) or 0 in rows or any(vectors.ndim != 2 for vectors in self.vectors):
            shapes = [tuple(vectors.shape) for vectors in self.vectors]
            raise ConfigError(f"vectors of action {self.name!r} have shapes {shapes}: need equal (slots, width) each")
        if (self.coefficients is None) != (self.space_hash == ""):
            raise ConfigError(f"action {self.name!r} needs both coefficients and a space hash, or neither")
        if self.mask is not None and self.coefficients is None:
            raise ConfigError(
                f"action {self.name!r} has a mask without coefficients: leave absent slots out of vectors"
            )
        if self.coefficients is not None:
            slots = len(self.coefficients)
            present = slots if self.mask is None else int(self.mask.sum())
            if rows != {present} or (self.mask is not None and self.mask.shape != (slots,)):
                raise ConfigError(
                    f"action {self.name!r} has {rows.pop()} vectors per encoder for {present} of {slots} slots present"
                )
        for tensor in (*self.vectors, *self.lora.values(), *([] if self.coefficients is None else [self.coefficients])):
            if not bool(tensor.isfinite().all()):
                raise DataError(f"action {self.name!r} holds a number that is not finite: train it with a lower rate")

    @property
    def lora_parts(self) -> set[str]:
        """Networks that the LoRA adapts, by their names in the pipeline."""
        return {key.partition(".")[0] for key in self.lora}

    @classmethod
    def from_coefficients(
        cls,
        name: str,
        space: ActionSpace,
        coefficients: Float[Tensor, "s r"],
        *,
        mask: Bool[Tensor, " s"] | None = None,
        lora: Mapping[str, Tensor] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> "Action":
        """The action at a point of a space.

        Args:
            name: Its name.
            space: The space of the point.
            coefficients: Whitened coefficients.
            mask: Slots that are present, as `ActionSpace.project_phrase` gives them; None means all.
            lora, meta: Kept as they are.
        """
        coefficients = coefficients.detach().to(space.sigma.device, torch.float32)
        keep = slice(None) if mask is None else mask.to(coefficients.device)
        if mask is not None:
            coefficients = coefficients * mask.to(coefficients).unsqueeze(-1)
        return cls(
            name=name,
            vectors=[vectors[keep] for vectors in space.reconstruct(coefficients)],
            model_id=space.model_id,
            coefficients=coefficients,
            space_hash=space.hash,
            mask=None if mask is None or bool(mask.all()) else mask.cpu(),
            lora=dict(lora or {}),
            meta=dict(meta or {}),
        )

    def adjusted(
        self, space: ActionSpace, component: tuple[int, int], amount: float, name: str | None = None
    ) -> "Action":
        """The action moved along one component.

        Args:
            space: Its own space.
            component: (slot, index), counted from 0.
            amount: Step in standard deviations of the phrases; any sign.
            name: Of the result; its own name if None.

        Raises:
            ConfigError: It has no coefficients or not this component.
            CheckpointError: The space is another one.
        """
        u = self.point(space)
        slot, index = component
        present = range(space.slots) if self.mask is None else self.mask.nonzero().flatten().tolist()
        if slot not in present:
            raise ConfigError(f"slot {slot} cannot be adjusted: action {self.name!r} has slots {list(present)}")
        if not 0 <= index < space.slot_ranks[slot]:
            raise ConfigError(f"component {index} does not exist: slot {slot} has 0 to {space.slot_ranks[slot] - 1}")
        u = u.clone()
        u[slot, index] += amount
        return self._moved(space, u, self.mask, name, {"adjusted": [slot, index, float(amount)]})

    def toward(
        self, space: ActionSpace, target: "Action | Tensor | str", amount: float, name: str | None = None
    ) -> "Action":
        """The action moved on the straight line to another point, in whitened coefficients.

        A slot that only one of the two has cannot be blended: it keeps the coefficients of the one that has it.

        Args:
            space: Its own space.
            target: Another action of the space, whitened coefficients, or a phrase of the space.
            amount: 0 gives the action itself, 1 the target; above 1 goes beyond, below 0 away from it.
            name: Of the result; its own name if None.

        Raises:
            ConfigError: It or the target has no coefficients, or the target is not of the space.
            CheckpointError: An action belongs to another space.
        """
        start = self.point(space)
        if amount == 0:
            return replace(self, name=_new_name(name, self.name))
        goal, goal_mask, label = _target(space, target)
        mask = _full(self.mask, space)
        u = start + amount * (goal - start)
        u = torch.where(mask.unsqueeze(-1), torch.where(goal_mask.unsqueeze(-1), u, start), goal)
        return self._moved(space, u, mask | goal_mask, name, {"toward": label, "amount": float(amount)})

    def combined(
        self,
        space: ActionSpace,
        others: Sequence["Action"],
        weights: Sequence[float] | None = None,
        name: str | None = None,
    ) -> "Action":
        """Several actions at once: the weighted sum of their deviations from the mean action, slot by slot.

        Averaging would wash all of them out: the mean of two unrelated actions is 0.7 times as far from the mean
        action as either. So without weights each slot of the average is lengthened to the root mean square length
        of its parts. Unrelated actions then keep 1/sqrt(n) of their strength each, an action combined with itself
        stays as it is, and the result is never further out than the plain sum. Weights, when given, are used as they
        are: [1, 1] is the full sum of both (a head and a leg action that hardly overlap), [1, -1] takes one out.

        Args:
            space: The space of all of them.
            others: At least one more action.
            weights: One for this action and one for each of the others, any sign; None as described.
            name: Of the result; its own name if None.

        Raises:
            ConfigError: An action has no coefficients or carries a LoRA, or the number of weights is wrong.
            CheckpointError: An action belongs to another space.
        """
        parts = [self, *others]
        if not others:
            raise ConfigError(f"only action {self.name!r} is given: combining needs 2 or more")
        if weights is not None and len(weights) != len(parts):
            raise ConfigError(f"{len(weights)} weights for {len(parts)} actions: give one for each, or none")
        for part in parts:
            if part.lora:
                raise ConfigError(f"action {part.name!r} carries a LoRA, which cannot be combined: use one without")
        points = torch.stack([part.point(space) for part in parts])  # (n, s, r)
        masks = torch.stack([_full(part.mask, space) for part in parts])  # (n, s)
        factors = torch.ones(len(parts)) if weights is None else torch.tensor(list(weights), dtype=torch.float32)
        points = points * masks.unsqueeze(-1)
        total = (factors.view(-1, 1, 1) * points).sum(dim=0)  # (s, r)
        if weights is None:
            count = masks.sum(dim=0).clamp_min(1)  # (s,) how many have the slot
            length = (points.square().sum(dim=-1).sum(dim=0) / count).sqrt()  # (s,)
            # At most 1: parts that cancel each other must not be blown up to full length.
            total = total * (length / total.norm(dim=-1).clamp_min(1e-12)).clamp(max=1).unsqueeze(-1)
        step = {"combined": [part.name for part in parts], "weights": None if weights is None else factors.tolist()}
        return self._moved(space, total, masks.any(dim=0), name, step)

    def explain(self, space: ActionSpace, k: int = 5) -> Explanation:
        """The k nearest phrases and the k largest coefficients, and how far outside the phrases the action lies.

        Raises:
            ConfigError: It has no coefficients, or k is below 1.
            CheckpointError: The space is another one.
        """
        u = self.point(space)
        mask = _full(self.mask, space)
        nearest = space.nearest(u, k, mask)
        total = sum(max(similarity, 0.0) for _, similarity in nearest)
        shares = [max(similarity, 0.0) / total if total > 0 else 0.0 for _, similarity in nearest]
        real = (space.sigma.cpu() > 0) & mask.unsqueeze(-1)  # (s, r)
        sizes = u.abs() * real
        order = sizes.flatten().argsort(descending=True, stable=True)[: min(k, int(real.sum()))].tolist()
        whole = (space.phrase_mask.cpu() >= mask).all(dim=-1)  # phrases that have all of the action's slots
        norms = (space.phrase_coefficients.cpu()[whole] * real).flatten(1).norm(dim=-1)  # (n,)
        typical = float(norms.median()) if len(norms) else float("nan")
        if not typical > 0:  # no phrase to compare with: the whitened scale says what is typical
            typical, norms = float(real.sum()) ** 0.5, torch.ones(1)
        return Explanation(
            phrases=tuple((text, similarity, share) for (text, similarity), share in zip(nearest, shares, strict=True)),
            components=tuple((i // space.rank, i % space.rank, float(u.flatten()[i])) for i in order),
            norm=float(sizes.norm()) / typical,
            largest_phrase_norm=float(norms.max()) / typical,
        )

    def check(self, *, space_hash: str | None = None, model_id: str | None = None) -> None:
        """Makes sure that the action belongs to a space and a backbone; None is not checked.

        An action without coefficients depends on no space and passes for any.

        Raises:
            CheckpointError: It was made for another one; the message names both.
        """
        if space_hash is not None and self.space_hash not in ("", space_hash):
            raise CheckpointError(
                f"action {self.name!r} was made in space {self.space_hash[:12]}, this is space {space_hash[:12]}: "
                "load the space that it was made in, or imitate the action again"
            )
        if model_id is not None and not same_model(self.model_id, model_id):
            raise CheckpointError(
                f"action {self.name!r} was made for model {self.model_id!r}, this is model {model_id!r}: "
                "load the model that it was made for, or imitate the action again"
            )

    def point(self, space: ActionSpace) -> Float[Tensor, "s r"]:
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

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes one safetensors file (by convention `*.action.safetensors`), whole or not at all.

        Raises:
            CheckpointError: `meta` is not strict JSON.
            DataError: The file cannot be written.
        """
        tensors = {f"vectors.{index}": vectors for index, vectors in enumerate(self.vectors)}
        tensors |= {f"lora.{name}": weight for name, weight in self.lora.items()}
        if self.coefficients is not None:
            tensors["coefficients"] = self.coefficients
        if self.mask is not None:
            tensors["mask"] = self.mask
        header = {
            "kind": "action",
            "version": FORMAT_VERSION,
            "name": self.name,
            "model_id": self.model_id,
            "space_hash": self.space_hash,
            "meta": dict(self.meta),
        }
        return write_safetensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Action":
        """Reads a file that `save` wrote; `check` then says whether it fits a space and a backbone.

        Raises:
            CheckpointError: It is missing, corrupt, no action, or of a later format version.
        """
        tensors, header = read_safetensors(path, "action", FORMAT_VERSION)
        encoders = sum(name.startswith("vectors.") for name in tensors)
        try:
            return cls(
                name=header["name"],
                vectors=tuple(tensors[f"vectors.{index}"] for index in range(encoders)),
                model_id=header["model_id"],
                coefficients=tensors.get("coefficients"),
                space_hash=header["space_hash"],
                mask=tensors.get("mask"),
                lora={name.removeprefix("lora."): t for name, t in tensors.items() if name.startswith("lora.")},
                meta=header["meta"],
            )
        except (ConfigError, DataError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a usable action: {error}; make it again") from error

    def _moved(
        self, space: ActionSpace, u: Tensor, mask: Tensor | None, name: str | None, step: dict[str, Any]
    ) -> "Action":
        """A new action at u that remembers how it came to be."""
        if not bool(u.isfinite().all()):
            raise ConfigError(f"action {self.name!r} cannot be moved by an amount or a weight that is not finite")
        meta = {**self.meta, "history": [*self.meta.get("history", []), {"from": self.name, **step}]}
        return self.from_coefficients(_new_name(name, self.name), space, u, mask=mask, lora=self.lora, meta=meta)


def _new_name(given: str | None, own: str) -> str:
    """The name of what an action becomes; it may keep one that is longer than new ones."""
    if given is None:
        return own
    check_name(given)
    return given


def _stored(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


def _full(mask: Tensor | None, space: ActionSpace) -> Bool[Tensor, " s"]:
    return torch.ones(space.slots, dtype=torch.bool) if mask is None else mask


def _target(space: ActionSpace, target: Action | Tensor | str) -> tuple[Tensor, Tensor, str]:
    """Coefficients, mask and label of what an action may move toward; on the CPU."""
    if isinstance(target, Action):
        return target.point(space), _full(target.mask, space), target.name
    if isinstance(target, str):
        u, mask = space.project_phrase(target)
        return u.cpu(), mask.cpu(), target
    if tuple(target.shape) != (space.slots, space.rank):
        raise ConfigError(f"target has shape {tuple(target.shape)}, the space needs ({space.slots}, {space.rank})")
    return target.detach().cpu().float(), _full(None, space), "coefficients"
