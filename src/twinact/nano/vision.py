"""The image tower of nano's CLIP: trained contrastively against the finished text tower."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from twinact.nano.data import PictureBatch, picture_batches, trained_part
from twinact.nano.fit import fit_module
from twinact.nano.recipe import Recipe
from twinact.nano.text import contrastive_loss

STREAM = 4


class _VisionPair(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.vision = build_vision(recipe)
        self.log_scale = nn.Parameter(torch.tensor(2.66))


def build_vision(recipe: Recipe) -> CLIPVisionModelWithProjection:
    """An untrained CLIP image tower whose projection has the width of the text tower's pooled output."""
    torch.manual_seed(recipe.seed)
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=recipe.vision_width,
            intermediate_size=4 * recipe.vision_width,
            num_hidden_layers=recipe.vision_layers,
            num_attention_heads=recipe.vision_width // 64,
            image_size=recipe.image_size,
            patch_size=recipe.image_size // 8,
            projection_dim=recipe.text_width,
            hidden_act="gelu",
        )
    )


def train_vision(
    recipe: Recipe, text: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path, workers: int,
    report: Callable[[str], None],
) -> CLIPVisionModelWithProjection:  # fmt: skip
    """Train the image tower; pictures are given as floats in [-1, 1]."""
    part, fit = trained_part(recipe), recipe.vision
    device = text.device
    pair = _VisionPair(recipe).to(device)
    text.requires_grad_(False).eval()

    def batches(step: int) -> Iterator[PictureBatch]:
        first = step * fit.batch_size
        return picture_batches(recipe, part, fit.batch_size, fit.pictures, stream=STREAM, start=first, workers=workers)

    def loss(_step: int, batch: PictureBatch) -> dict[str, Tensor]:
        captions = [item.caption for item in batch.scenes]
        ids = tokenizer(captions, padding=True, truncation=True, return_tensors="pt").input_ids.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            words = text(input_ids=ids).pooler_output
            images = pair.vision(pixel_values=batch.images.to(device)).image_embeds
        total, matched = contrastive_loss(images.float(), words.float(), pair.log_scale)
        return {"loss": total, "matched": matched}

    fit_module(pair, batches, loss, fit, folder, report)
    return pair.vision
