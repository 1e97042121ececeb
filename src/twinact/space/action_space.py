"""The action space: what is left of all token vectors when only actions may span them.

An action phrase is read as a few token vectors, one per slot. A PCA over many phrases, for each slot apart, gives a
mean and a basis; a point in the space is one whitened coefficient vector per slot, and moves the vectors of all text
encoders together.

Letters in shapes: n phrases, s slots, r rank (coefficients per slot), c clauses, e text encoders, w the sum of their
widths.
The idea is that of Celeb Basis (Yuan et al., 2023) and TwinAct; unlike their code, this one removes duplicates on
token ids, balances the encoders, adds the mean and keeps the scale of every coefficient.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.space.groups import TokenGroup, fit_slot, group_phrases, group_tokens
from twinact.space.pose_table import PoseTable
from twinact.space.stored import POSE_SCHEMA, check_stored, poses_to_store, stored_poses
from twinact.storage import read_safetensors, tensor_hash, write_safetensors

if TYPE_CHECKING:
    from twinact.backbones.backbone import TokenTable

FORMAT_VERSION = 2
CONJUNCTION = "and"
"""The word between the clauses of an action."""
_HEADER = {
    "model_id": str,
    "tokenizer_hash": str,
    "slots": int,
    "rank": int,
    "encoders": list[str],
    "widths": list[int],
    "distinct": list[int],
    "phrases": list[str],
    **POSE_SCHEMA,
}
_TENSORS = ("mean", "scale", "basis", "sigma", "variance", "conjunction", "phrase_coefficients", "phrase_mask")


@dataclass(frozen=True, eq=False)
class ActionSpace:
    """Mean, basis and scales per slot, with the phrases that span them. Immutable; float32.

    Every slot has the same number `rank` of coefficients. A slot whose phrases span fewer directions than the richest
    slot has fewer components (`slot_ranks`): its later coefficients have a zero sigma and do nothing.

    Attributes:
        encoders: Names of the text encoders, in the order of the backbone's token tables.
        widths: Length of each encoder's token vectors.
        mean: Mean over the distinct groups of a slot, in the encoders' own units, encoders side by side.
        scale: Root mean square length of a slot's centred groups in each encoder; dividing by it balances encoders.
        basis: Orthonormal rows in scaled units; zero rows after `slot_ranks`.
        sigma: Standard deviation along each row over the distinct groups: the size of a coefficient of one.
        variance: Total variance of a slot in scaled units, with what truncation left out.
        conjunction: Token vectors of "and", the word between clauses, in the encoders' own units, side by side.
        phrases: The phrases that the space was built from.
        phrase_coefficients: Whitened coefficients of the phrases; zero where a slot is absent.
        phrase_mask: Whether a phrase has that slot. Present slots come first.
        distinct: Number of distinct groups in each slot.
        model_id, tokenizer_hash: The backbone that the vectors come from.
        poses: What the phrases look like when the backbone draws them; None where nobody has looked. It is knowledge
            about the space and no part of what a point means.
    """

    encoders: tuple[str, ...]
    widths: tuple[int, ...]
    mean: Float[Tensor, "s w"]
    scale: Float[Tensor, "s e"]
    basis: Float[Tensor, "s r w"]
    sigma: Float[Tensor, "s r"]
    variance: Float[Tensor, " s"]
    conjunction: Float[Tensor, " w"]
    phrases: tuple[str, ...]
    phrase_coefficients: Float[Tensor, "n s r"]
    phrase_mask: Bool[Tensor, "n s"]
    distinct: tuple[int, ...]
    model_id: str
    tokenizer_hash: str
    poses: PoseTable | None = None

    @classmethod
    def build(
        cls,
        tables: Sequence["TokenTable"],
        phrases: Sequence[str],
        *,
        slots: int = 3,
        rank: int | None = None,
        model_id: str,
        tokenizer_hash: str,
    ) -> "ActionSpace":
        """Builds the space that the phrases span in the token embeddings of a backbone.

        Args:
            tables: Tokenizer and token embeddings of every text encoder.
            phrases: At least two different ones.
            slots: Token vectors per action, 1 to 16.
            rank: Components to keep in every slot. None keeps all of every slot, and then a phrase that is projected
                and reconstructed gives its own embeddings again.
            model_id, tokenizer_hash: Those of the backbone; stored to refuse another one later.

        Raises:
            ConfigError: `slots` or `rank` cannot be had; the message states the largest.
            DataError: A phrase is given twice or has no tokens, or the phrases do not fill the slots.
        """
        groups = group_phrases(phrases, tables, slots)
        phrase_mask = torch.tensor([[slot < len(group) for slot in range(slots)] for group in groups])  # (n, s)
        widths = tuple(int(table.weight.shape[1]) for table in tables)
        fits = [fit_slot(slot, [group[slot] for group in groups if slot < len(group)], widths) for slot in range(slots)]
        ranks = [len(fit.sigma) for fit in fits]
        if max(ranks) == 0:
            raise DataError(f"the {len(phrases)} phrases have the same tokens and span no space: add other ones")
        if rank is not None and not 1 <= rank <= min(ranks):
            counts = [fit.distinct for fit in fits]
            raise ConfigError(
                f"rank {rank} cannot be had in every slot: the largest is {min(ranks)} (slot ranks {ranks} from "
                f"{counts} distinct token groups, {sum(widths)} wide); lower it, add phrases, take fewer slots, or "
                "give no rank to keep all of every slot"
            )
        width = max(ranks) if rank is None else rank
        basis = torch.zeros(slots, width, sum(widths))
        sigma = torch.zeros(slots, width)
        for slot, fit in enumerate(fits):
            kept = min(width, len(fit.sigma))
            basis[slot, :kept] = fit.basis[:kept]
            sigma[slot, :kept] = fit.sigma[:kept]
        space = cls(
            encoders=tuple(table.name for table in tables),
            widths=widths,
            mean=torch.stack([fit.mean for fit in fits]).float(),
            scale=torch.stack([fit.scale for fit in fits]).float(),
            basis=basis,
            sigma=sigma,
            variance=torch.tensor([fit.variance for fit in fits], dtype=torch.float32),
            conjunction=group_tokens(CONJUNCTION, tables, 1)[0].vector.float(),
            phrases=tuple(phrases),
            phrase_coefficients=torch.zeros(len(phrases), slots, width),
            phrase_mask=phrase_mask,
            distinct=tuple(fit.distinct for fit in fits),
            model_id=model_id,
            tokenizer_hash=tokenizer_hash,
        )
        coefficients = torch.stack([space._project_groups(group) for group in groups])
        return replace(space, phrase_coefficients=coefficients)

    @property
    def slots(self) -> int:
        """Token vectors per action."""
        return self.sigma.shape[0]

    @property
    def rank(self) -> int:
        """Coefficients per slot."""
        return self.sigma.shape[1]

    @cached_property
    def slot_ranks(self) -> tuple[int, ...]:
        """Components that each slot has; its coefficients after these do nothing."""
        return tuple((self.sigma > 0).sum(dim=1).tolist())

    @cached_property
    def hash(self) -> str:
        """SHA-256 in hex over all that a point means: tensors, phrases, encoders. The same on any device."""
        tensors = tensor_hash({name: getattr(self, name) for name in _TENSORS})
        described = json.dumps([tensors, self.phrases, self.encoders, self.widths])
        return hashlib.sha256(described.encode()).hexdigest()

    @cached_property
    def _column_scale(self) -> Float[Tensor, "s w"]:
        return self.scale.repeat_interleave(torch.tensor(self.widths, device=self.scale.device), dim=1)

    def to(self, device: torch.device | str) -> "ActionSpace":
        """The same space on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def is_of(self, tables: Sequence["TokenTable"]) -> bool:
        """Whether the space was built from these token embeddings, up to the rounding of their type.

        Its phrases are looked up anew: their mean in every slot must be that of the space.
        """
        widths = tuple(table.width for table in tables)
        if widths != self.widths or tuple(table.name for table in tables) != self.encoders:
            return False
        groups = group_phrases(self.phrases, tables, self.slots)
        rounding = max(1e-4, *(4 * torch.finfo(table.weight.dtype).eps for table in tables))
        for slot in range(self.slots):
            own = {group[slot].ids: group[slot].vector for group in groups if slot < len(group)}
            off = (torch.stack(list(own.values())).mean(dim=0) - self.mean[slot].cpu()) if own else self.mean[slot]
            if len(own) != self.distinct[slot] or bool((off.abs() > rounding * self._column_scale[slot].cpu()).any()):
                return False
        return True

    def reconstruct(self, u: Float[Tensor, "*b s r"]) -> list[Tensor]:
        """Token vectors of coefficients: mean + scale * ((u * sigma) @ basis).

        Args:
            u: Whitened coefficients; leading dimensions are free. Gradients flow.

        Returns:
            One (*b, s, width) tensor per encoder, in the encoder's own units.

        Raises:
            ConfigError: `u` does not end in (slots, rank).
        """
        self._check_shape(u, "coefficients", (self.slots, self.rank))
        weighted = u * self.sigma  # (*b, s, r)
        scaled = torch.einsum("...sr,srw->...sw", weighted, self.basis.to(weighted.dtype))
        return list((self.mean + self._column_scale * scaled).split(self.widths, dim=-1))

    def vectors(self, u: Float[Tensor, "c s r"], mask: Bool[Tensor, "c s"]) -> list[Tensor]:
        """Token vectors of an action: those of its clauses, without absent slots, joined by `conjunction`.

        Args:
            u: Whitened coefficients of every clause. Gradients flow.
            mask: Slots that are present.

        Returns:
            One (k, width) tensor per encoder; k is the number of present slots, and one more for each "and".
        """
        between = [block.unsqueeze(0) for block in self.conjunction.split(self.widths)]
        parts: list[list[Tensor]] = [[] for _ in self.widths]
        for number, (clause, present) in enumerate(zip(u, mask, strict=True)):
            for own, block, link in zip(parts, self.reconstruct(clause), between, strict=True):
                own += [link, block[present]] if number else [block[present]]
        return [torch.cat(own) for own in parts]

    def project(self, vectors: Sequence[Tensor]) -> Float[Tensor, "*b s r"]:
        """Whitened coefficients of the point in the space that is nearest to token vectors.

        Args:
            vectors: One (*b, s, width) tensor per encoder, in the encoder's own units.

        Raises:
            ConfigError: The number of encoders or a shape differs from the space's.
        """
        if len(vectors) != len(self.widths):
            raise ConfigError(f"vectors of {len(vectors)} encoders given, the space needs those of {self.encoders}")
        for name, width, block in zip(self.encoders, self.widths, vectors, strict=True):
            self._check_shape(block, f"vectors of {name}", (self.slots, width))
        centred = (torch.cat(list(vectors), dim=-1) - self.mean) / self._column_scale  # (*b, s, w)
        along = torch.einsum("...sw,srw->...sr", centred, self.basis.to(centred.dtype))
        # Components that a slot lacks have zero sigma and zero rows: their coefficients are zero, not 0/0.
        return along / torch.where(self.sigma > 0, self.sigma, 1)

    def project_phrase(
        self, text: str, tables: Sequence["TokenTable"] | None = None
    ) -> tuple[Float[Tensor, "s r"], Bool[Tensor, " s"]]:
        """Coefficients of a phrase, and which slots it has; coefficients of absent slots are zero.

        Args:
            text: A phrase of the space, or with `tables` any text.
            tables: The token tables of the space's backbone.

        Raises:
            ConfigError: The phrase is not of the space and no tables are given, or the tables do not fit.
            DataError: The text has no tokens.
        """
        if text in self._phrase_index:
            index = self._phrase_index[text]
            return self.phrase_coefficients[index], self.phrase_mask[index]
        if tables is None:
            close = difflib.get_close_matches(text, self.phrases, n=1)
            raise ConfigError(
                f"phrase {text!r} is not among the {len(self.phrases)} of the space"
                + (f", did you mean {close[0]!r}?" if close else f"; choose one, such as {self.phrases[0]!r}")
            )
        found = [(table.name, int(table.weight.shape[1])) for table in tables]
        expected = list(zip(self.encoders, self.widths, strict=True))
        if found != expected:
            raise ConfigError(f"token tables {found} do not fit the space's encoders {expected}: load its own backbone")
        groups = group_tokens(text, tables, self.slots)
        mask = torch.arange(self.slots, device=self.sigma.device) < len(groups)
        return self._project_groups(groups), mask

    @cached_property
    def _phrase_index(self) -> dict[str, int]:
        return {text: index for index, text in enumerate(self.phrases)}

    def _project_groups(self, groups: Sequence[TokenGroup]) -> Float[Tensor, "s r"]:
        """Coefficients of the slots that there are groups for, zeros in the others."""
        # The mean stands in for absent slots: its coefficients are exactly zero.
        vectors = self.mean.double().clone()
        for slot, group in enumerate(groups):
            vectors[slot] = group.vector
        return self.project(list(vectors.split(self.widths, dim=-1))).float()

    def nearest(
        self, u: Float[Tensor, "s r"], k: int = 5, mask: Bool[Tensor, " s"] | None = None
    ) -> list[tuple[str, float]]:
        """The phrases most like a point, best first.

        Similarity is the cosine between deviations from the mean, in scaled units and over the slots that both have.
        Whitened coefficients would not do: with more dimensions than phrases, whitening puts all phrases equally far
        from each other. Between equals, the phrase whose slots are those of the point comes first.

        Args:
            u: Whitened coefficients.
            k: How many phrases, at least 1.
            mask: Slots that the point has; None means all.

        Returns:
            Up to k pairs (phrase, cosine to 5 decimals); fewer when fewer phrases share a slot with the point.
        """
        self._check_shape(u, "coefficients", (self.slots, self.rank))
        if k < 1:
            raise ConfigError(f"k is {k}, at least 1 phrase must be asked for")
        mask = torch.ones_like(self.phrase_mask[0]) if mask is None else mask.to(self.phrase_mask.device)
        shared = self.phrase_mask & mask  # (n, s)
        point = (u.detach().to(self.sigma.device) * self.sigma).double()  # (s, r)
        others = (self.phrase_coefficients * self.sigma).double()  # (n, s, r)
        dots = (others * point).sum(-1)  # (n, s)
        norms = [((x.square().sum(-1) * shared).sum(-1)).sqrt() for x in (point.expand_as(others), others)]
        cosines = (dots * shared).sum(-1) / (norms[0] * norms[1]).clamp_min(1e-12)  # (n,)
        similarities = [round(value, 5) for value in cosines.tolist()]  # beyond that, equals differ by float32 noise
        unlike = (self.phrase_mask ^ mask).sum(-1).tolist()
        candidates = torch.nonzero(shared.any(-1)).flatten().tolist()
        order = sorted(candidates, key=lambda i: (-similarities[i], unlike[i], i))
        return [(self.phrases[i], similarities[i]) for i in order[:k]]

    def explained_variance(self, slot: int) -> Float[Tensor, " r"]:
        """Share of a slot's variance that its first 1, 2, ... rank components hold; grows to at most 1."""
        if not 0 <= slot < self.slots:
            raise ConfigError(f"slot {slot} does not exist: the space has slots 0 to {self.slots - 1}")
        if self.variance[slot] == 0:  # one distinct group: the mean already holds everything
            return torch.ones_like(self.sigma[slot])
        shares = self.sigma[slot].double().square().cumsum(0) / self.variance[slot].double()
        return shares.clamp(max=1).float()

    def save(self, path: str | os.PathLike[str], *, new: bool = False) -> Path:
        """Writes one safetensors file (by convention `*.space.safetensors`), whole or not at all.

        Raises:
            NameTaken: `new`, and something has the name; otherwise what is there is replaced.
            DataError: The file cannot be written.
        """
        header = {
            "kind": "space",
            "version": FORMAT_VERSION,
            "model_id": self.model_id,
            "tokenizer_hash": self.tokenizer_hash,
            "slots": self.slots,
            "rank": self.rank,
            "encoders": self.encoders,
            "widths": self.widths,
            "distinct": self.distinct,
            "phrases": self.phrases,
        }
        tensors = {name: getattr(self, name) for name in _TENSORS}
        if self.poses is not None:
            own, described = poses_to_store(self.poses)
            tensors, header = {**tensors, **own}, {**header, **described}
        return write_safetensors(path, tensors, header, new=new)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ActionSpace":
        """Reads a file that `save` wrote.

        Raises:
            CheckpointError: It is missing, corrupt, no space, or of a later format version.
        """
        tensors, header = read_safetensors(path, "space", FORMAT_VERSION, _HEADER)
        try:
            check_stored(tensors, header)
            return cls(
                encoders=tuple(header["encoders"]),
                widths=tuple(header["widths"]),
                phrases=tuple(header["phrases"]),
                distinct=tuple(header["distinct"]),
                model_id=header["model_id"],
                tokenizer_hash=header["tokenizer_hash"],
                poses=stored_poses(tensors, header),
                **{name: tensors[name] for name in _TENSORS},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a usable action space: {error!r}; build it again") from error

    def _check_shape(self, tensor: Tensor, what: str, end: tuple[int, int]) -> None:
        if tuple(tensor.shape[-2:]) != end:
            raise ConfigError(f"{what} have shape {tuple(tensor.shape)}, the space needs (..., {end[0]}, {end[1]})")
