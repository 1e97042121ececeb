"""The text tower of nano: a CLIP text model trained contrastively against what captions mean.

Pictures are costly to draw and the world knows what each one shows, so the text tower first learns from the scenes
themselves; the image tower is then trained contrastively against the finished text tower (as in LiT, Zhai et al. 2022).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from twinact.nano.data import POSE_FEATURES, pose_features, trained_part
from twinact.nano.fit import fit_module
from twinact.nano.recipe import Recipe
from twinact.world.sampling import Part, sample_described

STREAM = 2
# Captions of one group share actor and place, so that only the action tells them apart.
_GROUP = 24
_EMBEDDING_NOISE = 0.1
_POSE_QUERIES = 8
_POSE_WEIGHT = 4.0


class SceneTower(nn.Module):
    """Embeds what a picture shows: actor, place and pose."""

    def __init__(self, actors: int, places: int, width: int) -> None:
        super().__init__()
        self.actor = nn.Embedding(actors, 64)
        self.place = nn.Embedding(places, 64)
        self.net = nn.Sequential(
            nn.Linear(POSE_FEATURES + 128, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, width)
        )

    def forward(self, actor: Tensor, place: Tensor, pose: Tensor) -> Tensor:
        return self.net(torch.cat([self.actor(actor), self.place(place), pose], 1))


class PoseReader(nn.Module):
    """Reads the pose off the token states, by attention as a denoiser does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(_POSE_QUERIES, width))
        self.attention = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.pose = nn.Linear(_POSE_QUERIES * width, POSE_FEATURES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token states (b, l, width) → pose features (b, 25)."""
        queries = self.queries.expand(len(tokens), -1, -1).to(tokens)
        return self.pose(self.attention(queries, tokens, tokens, need_weights=False)[0].flatten(1))


class TextPair(nn.Module):
    """Both towers of the contrastive training, and a reader of the pose; only the text tower is kept."""

    def __init__(self, recipe: Recipe, tokenizer: CLIPTokenizer, part: Part) -> None:
        super().__init__()
        self.text = build_text_model(recipe, tokenizer)
        self.scene = SceneTower(len(part.actors), len(part.places), recipe.text_width)
        self.reader = PoseReader(recipe.text_width)
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))


def build_text_model(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text model for the tokenizer."""
    torch.manual_seed(recipe.seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=4 * recipe.text_width,
            num_hidden_layers=recipe.text_layers,
            num_attention_heads=recipe.text_width // 64,
            max_position_embeddings=recipe.max_tokens,
            projection_dim=recipe.text_width,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def contrastive_loss(a: Tensor, b: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's symmetric loss over a batch of matching rows (n, d), and the share of rows matched."""
    logits = log_scale.clamp(max=4.6).exp() * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    labels = torch.arange(len(a), device=a.device)
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    return loss, (logits.argmax(1) == labels).float().mean()


class _Captions(Dataset):
    def __init__(self, recipe: Recipe, part: Part, tokenizer: CLIPTokenizer) -> None:
        self.recipe, self.part, self.tokenizer = recipe, part, tokenizer

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.recipe.seed, STREAM, step])
        items = []
        for _ in range(self.recipe.text.batch_size // _GROUP):
            actor, place = rng.choice(self.part.actors), rng.choice(self.part.places)
            group = Part((str(actor),), (str(place),), self.part.phrases)
            items += [sample_described(rng, group) for _ in range(_GROUP)]
        ids = self.tokenizer([i.caption for i in items], padding=True, truncation=True, return_tensors="pt").input_ids
        scenes = [i.scene for i in items]
        return {
            "ids": ids,
            "actor": torch.tensor([self.part.actors.index(s.actor) for s in scenes]),
            "place": torch.tensor([self.part.places.index(s.place) for s in scenes]),
            "pose": torch.from_numpy(np.stack([pose_features(s.pose) for s in scenes])),
        }


def train_text(
    recipe: Recipe, tokenizer: CLIPTokenizer, folder: Path, workers: int, device: torch.device,
    report: Callable[[str], None],
) -> CLIPTextModel:  # fmt: skip
    """Train the text tower against the scene tower; the pooled output at the end of text is the embedding.

    A denoiser sees the states of all tokens, which that loss reaches only through the end of text; so the pose is read
    off them too.
    """
    part = trained_part(recipe)
    pair = TextPair(recipe, tokenizer, part).to(device)
    embedding = pair.text.get_input_embeddings()

    generator = torch.Generator(device)

    def add_noise(_module: nn.Module, _args: tuple[Tensor], output: Tensor) -> Tensor:
        # Points between phrases must mean poses between theirs, so the tower learns from a neighbourhood of each word.
        noise = torch.randn(output.shape, generator=generator, device=device).to(output)
        return output + _EMBEDDING_NOISE * output.detach().std() * noise

    handle = embedding.register_forward_hook(add_noise)

    def batches(step: int) -> Iterator[dict[str, Tensor]]:
        steps = range(step, recipe.text.steps)
        return iter(DataLoader(_Captions(recipe, part, tokenizer), batch_size=None, sampler=steps, num_workers=workers))

    def loss(step: int, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = {name: value.to(device) for name, value in seen.items()}
        generator.manual_seed(step)
        with torch.autocast(device.type, torch.bfloat16):
            text = pair.text(input_ids=batch["ids"])
            scene = pair.scene(batch["actor"], batch["place"], batch["pose"])
            pose = pair.reader(text.last_hidden_state)
        contrast, matched = contrastive_loss(text.pooler_output.float(), scene.float(), pair.log_scale)
        misread = F.smooth_l1_loss(pose.float(), batch["pose"], beta=0.1)
        return {"loss": contrast + _POSE_WEIGHT * misread, "matched": matched, "misread": misread}

    fit_module(pair, batches, loss, recipe.text, folder, report)
    handle.remove()
    return pair.text
