"""The text tower of nano: a CLIP text model trained contrastively against what captions mean.

Pictures are costly to draw and the world knows what each one shows, so the text tower first learns from the scenes
themselves.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from twinact.backbones.memory import bf16_if_native
from twinact.nano.data import trained_part, worded
from twinact.nano.fit import fit_module
from twinact.nano.recipe import Recipe
from twinact.world.light import LIGHTS
from twinact.world.pose import POSE_FEATURES, pose_features
from twinact.world.sampling import Part
from twinact.world.scene import Scene
from twinact.world.things import THINGS

STREAM = 2
# Captions of one group share actor and place, so that only the action tells them apart.
_GROUP = 24
_EMBEDDING_NOISE = 0.1
_POSE_QUERIES = 8
_POSE_WEIGHT = 4.0


class SceneTower(nn.Module):
    """Embeds what a picture shows: actor, place, pose, things and light."""

    def __init__(self, part: Part, width: int) -> None:
        super().__init__()
        self.actor = nn.Embedding(len(part.actors), 64)
        self.place = nn.Embedding(len(part.places), 64)
        self.light = nn.Embedding(len(LIGHTS), 32)
        self.net = nn.Sequential(
            nn.Linear(POSE_FEATURES + 160 + len(THINGS), 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(),
            nn.Linear(512, width),
        )  # fmt: skip

    def forward(self, actor: Tensor, place: Tensor, light: Tensor, things: Tensor, pose: Tensor) -> Tensor:
        return self.net(torch.cat([self.actor(actor), self.place(place), self.light(light), things, pose], 1))


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
        self.scene = SceneTower(part, recipe.text_width)
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


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str], length: int | None = None) -> Tensor:
    """Ids (b, l) of captions, padded to the longest, or padded and cut to `length`."""
    if length is None:
        return tokenizer(list(captions), padding=True, return_tensors="pt").input_ids
    return tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids


@contextmanager
def mixed(text: CLIPTextModel, second: Tensor, share: Tensor) -> Iterator[None]:
    """While open, the tower reads, instead of the embeddings of its tokens, points between these and others.

    Args:
        text: Called inside with ids (b, l).
        second: Ids (b, l) of the other texts.
        share: (b,) how much of the second text, in [0, 1].
    """

    def mix(module: nn.Embedding, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.lerp(output, F.embedding(second, module.weight).to(output), share[:, None, None].to(output))

    handle = text.get_input_embeddings().register_forward_hook(mix)
    try:
        yield
    finally:
        handle.remove()


def adopt(
    text: CLIPTextModel, tokenizer: CLIPTokenizer, before: CLIPTextModel, tokenizer_before: CLIPTokenizer
) -> None:
    """Take over the weights of a tower of the same width that knew fewer words or shorter texts.

    Words are found again by their spelling; new ones, and positions beyond the old length, keep the values of `text`,
    scaled to the size of the old ones.
    """
    old, new = before.state_dict(), text.state_dict()
    for name, value in old.items():
        if new[name].shape == value.shape:
            new[name].copy_(value)
    there, here = before.get_input_embeddings().weight, text.get_input_embeddings().weight
    known = [(row, tokenizer_before.get_vocab()[token]) for token, row in tokenizer.get_vocab().items()
             if token in tokenizer_before.get_vocab()]  # fmt: skip
    places_before = next(value for name, value in old.items() if name.endswith("position_embedding.weight"))
    places = next(value for name, value in new.items() if name.endswith("position_embedding.weight"))
    with torch.no_grad():
        here.mul_(there.std() / here.std())
        rows, rows_before = (torch.tensor(column) for column in zip(*known, strict=True))
        here[rows] = there[rows_before]
        length = min(len(places), len(places_before))
        places[:length] = places_before[:length]
        # Far positions hardly occurred; those before them are what a position there should be like.
        places[length:] = places_before[-1:] + 0.1 * places_before.std() * torch.randn_like(places[length:])


class _Captions(Dataset):
    def __init__(self, recipe: Recipe, part: Part, tokenizer: CLIPTokenizer) -> None:
        self.recipe, self.part, self.tokenizer = recipe, part, tokenizer

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.recipe.seed, STREAM, step])
        items = []
        for group in range(self.recipe.text.batch_size // _GROUP):
            actor, place = rng.choice(self.part.actors), rng.choice(self.part.places)
            alike = Part((str(actor),), (str(place),), self.part.phrases)
            first = step * self.recipe.text.batch_size + group * _GROUP
            items += [worded(self.recipe, alike, first + i, STREAM, 1) for i in range(_GROUP)]
        texts, seconds = zip(*(item.captions[0] for item in items), strict=True)
        scenes = [item.scene for item in items]
        return {
            "ids": token_ids(self.tokenizer, texts),
            "second": token_ids(self.tokenizer, seconds),
            "share": torch.tensor([item.share for item in items]),
            "pose": torch.from_numpy(np.stack([pose_features(scene.pose) for scene in scenes])),
            **shown(scenes, self.part),
        }


def shown(scenes: Sequence[Scene], part: Part) -> dict[str, Tensor]:
    """Numbers of the actors, places and lights of scenes, and which things they show (b, things) as zeros and ones."""
    return {
        "actor": torch.tensor([part.actors.index(scene.actor) for scene in scenes]),
        "place": torch.tensor([part.places.index(scene.place) for scene in scenes]),
        "light": torch.tensor([list(LIGHTS).index(scene.light) for scene in scenes]),
        "things": torch.tensor([[float(thing in scene.things) for thing in THINGS] for scene in scenes]),
    }


def train_text(
    recipe: Recipe, tokenizer: CLIPTokenizer, folder: Path, workers: int, device: torch.device,
    report: Callable[[str], None], start: tuple[CLIPTextModel, CLIPTokenizer] | None = None,
) -> CLIPTextModel:  # fmt: skip
    """Train the text tower against the scene tower; the pooled output at the end of text is the embedding.

    A denoiser sees the states of all tokens, which that loss reaches only through the end of text; so the pose is read
    off them too.

    Args:
        recipe: Sizes, and the length of the training.
        tokenizer: Of the tower that is trained.
        folder: Gets checkpoints and the log.
        workers: Processes that word captions.
        device: Where to train.
        report: Receives lines about progress.
        start: A tower to go on from, and its tokenizer; see `adopt`.
    """
    part = trained_part(recipe)
    pair = TextPair(recipe, tokenizer, part)
    if start is not None:
        adopt(pair.text, tokenizer, *start)
    pair.to(device)
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
        with bf16_if_native(device):
            with mixed(pair.text, batch["second"], batch["share"]):
                text = pair.text(input_ids=batch["ids"])
            scene = pair.scene(batch["actor"], batch["place"], batch["light"], batch["things"], batch["pose"])
            pose = pair.reader(text.last_hidden_state)
        contrast, matched = contrastive_loss(text.pooler_output.float(), scene.float(), pair.log_scale)
        misread = F.smooth_l1_loss(pose.float(), batch["pose"], beta=0.1)
        return {"loss": contrast + _POSE_WEIGHT * misread, "matched": matched, "misread": misread}

    fit_module(pair, batches, loss, recipe.text, folder, report)
    handle.remove()
    return pair.text
