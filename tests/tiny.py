"""Real pipelines at the smallest sizes that still have every part; their weights are the same in every run."""

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from twinact.nano.tokenizer import train_tokenizer

WORDS = (
    "a", "an", "the", "in", "on", "with", "of", "photo", "picture", "robot", "cat", "dog", "woman", "man",
    "park", "city", "moon", "red", "dress", "jumping",
)  # fmt: skip
MAX_LENGTH = 24


def tiny_tokenizer(words: Sequence[str] = WORDS) -> CLIPTokenizer:
    """A CLIP tokenizer that knows each of the words as one token and spells everything else in bytes."""
    return train_tokenizer(words, MAX_LENGTH)


def tiny_sd(
    prediction_type: str = "epsilon", vae: Literal["kl", "tiny"] = "kl", words: Sequence[str] = WORDS
) -> StableDiffusionPipeline:
    """A Stable Diffusion of 32 x 32 pictures and (4, 8, 8) latents; its text is 32 wide and 24 tokens long."""
    tokenizer = tiny_tokenizer(words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=MAX_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        autoencoder = _autoencoder_kl() if vae == "kl" else _autoencoder_tiny()
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _autoencoder_kl() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )


def _autoencoder_tiny() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        scaling_factor=0.7,
    )
