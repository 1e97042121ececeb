"""Real pipelines at the smallest sizes that still have every part; their weights are the same in every run."""

import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from twinact.nano.tokenizer import train_tokenizer

WORDS = (
    "a", "an", "the", "in", "on", "with", "of", "photo", "picture", "robot", "cat", "dog", "woman", "man",
    "park", "city", "moon", "red", "dress", "jumping",
)  # fmt: skip
MAX_LENGTH = 24


def tiny_tokenizer(words: Sequence[str] = WORDS) -> CLIPTokenizer:
    """A CLIP tokenizer that knows each of the words as one token and spells everything else in bytes."""
    return train_tokenizer(words, MAX_LENGTH)


def tiny_t5_tokenizer(words: Sequence[str] = WORDS) -> T5Tokenizer:
    """A T5 tokenizer that knows each of the words as one token and spells everything else in letters."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *("▁" + word for word in words), *string.ascii_letters, *".,'!?0123456789"]
    # A word must be likelier than its letters together.
    scores = [0.0 if piece.startswith("<") else -2.0 - (len(piece) == 1) for piece in pieces]
    return T5Tokenizer(vocab=list(zip(pieces, scores, strict=True)), extra_ids=0, model_max_length=512)


def tiny_sd(
    version: Literal[1, 2] = 1,
    vae: Literal["kl", "tiny"] = "kl",
    words: Sequence[str] = WORDS,
    *,
    as_published: bool = False,
) -> StableDiffusionPipeline:
    """A Stable Diffusion of 32 x 32 pictures and (4, 8, 8) latents; its text is 32 wide and 24 tokens long.

    Version 2 differs as the published 2.1 does: v prediction, padding by "!", GELU, projections that are linear, and
    heads that are counted by block. With `as_published`, scheduler and end token are those of the published version 1.
    """
    tokenizer = tiny_tokenizer(words)
    if version == 2:
        tokenizer.pad_token = "!"
    with _same_weights():
        config = _clip_config(tokenizer, 32, eos_token_id=2 if as_published else tokenizer.eos_token_id)
        config.hidden_act = "quick_gelu" if version == 1 else "gelu"
        text_encoder = CLIPTextModel(config)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4 if version == 1 else (2, 4),
            use_linear_projection=version == 2,
            norm_num_groups=8,
        )
        autoencoder = _autoencoder_kl() if vae == "kl" else _autoencoder_tiny()
    prediction_type = "epsilon" if version == 1 else "v_prediction"
    usual = {"set_alpha_to_one": False, "steps_offset": 1, "prediction_type": prediction_type, **_BETAS}
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(skip_prk_steps=True, **usual)
        if as_published
        else DDIMScheduler(clip_sample=False, **usual),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_sdxl(force_upcast: bool = True, zeros_for_empty_prompt: bool = True) -> StableDiffusionXLPipeline:
    """An SDXL of 32 x 32 pictures and (4, 8, 8) latents; its text is 32 + 48 wide and 24 tokens long."""
    tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_tokenizer()
    tokenizer_2.pad_token = "!"  # as published; the first one pads with its end token
    with _same_weights():
        text_encoder = CLIPTextModel(_clip_config(tokenizer, 32))
        text_encoder_2 = CLIPTextModelWithProjection(_clip_config(tokenizer_2, 48))
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            cross_attention_dim=80,
            attention_head_dim=(2, 4),
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 48,
        )
        vae = _autoencoder_kl(scaling_factor=0.13025, force_upcast=force_upcast)
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **_BETAS),
        force_zeros_for_empty_prompt=zeros_for_empty_prompt,
        add_watermarker=False,
    )


def tiny_sd3(with_t5: bool = True, normalised: bool = False) -> StableDiffusion3Pipeline:
    """A Stable Diffusion 3 of 32 x 32 pictures and (4, 8, 8) latents; text 32 and 48 wide, T5 96; 24 + 256 tokens.

    With `normalised` queries and keys, and images that attend to themselves once more, it is a 3.5 medium.
    """
    tokenizer, tokenizer_2, tokenizer_3 = tiny_tokenizer(), tiny_tokenizer(), tiny_t5_tokenizer()
    tokenizer_2.pad_token = "!"
    with _same_weights():
        text_encoder = CLIPTextModelWithProjection(_clip_config(tokenizer, 32))
        text_encoder_2 = CLIPTextModelWithProjection(_clip_config(tokenizer_2, 48))
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=96,
            pooled_projection_dim=80,
            pos_embed_max_size=8,
            qk_norm="rms_norm" if normalised else None,
            dual_attention_layers=(0,) if normalised else (),
        )
        vae = _autoencoder_kl(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False)
        text_encoder_3 = _t5(tokenizer_3, 96) if with_t5 else None
    return StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        text_encoder_3=text_encoder_3,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        tokenizer_3=tokenizer_3 if with_t5 else None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def tiny_flux(guidance_embeds: bool = True) -> FluxPipeline:
    """A FLUX.1 (dev, or schnell) of 32 x 32 pictures and (4, 8, 8) latents; CLIP 32 wide, T5 64."""
    tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_t5_tokenizer()
    with _same_weights():
        text_encoder = CLIPTextModel(_clip_config(tokenizer, 32))
        text_encoder_2 = _t5(tokenizer_2, 64)
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=32,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        )
        vae = _autoencoder_kl(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False)
    return FluxPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guidance_embeds else 1.0, use_dynamic_shifting=guidance_embeds
        ),
    )


_BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@contextmanager
def _same_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _clip_config(tokenizer: CLIPTokenizer, width: int, eos_token_id: int = 2) -> CLIPTextConfig:
    """With the wrong end token that all published models carry, unless told otherwise."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    """Its table has more rows than the tokenizer has words, as that of the published T5."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer) + 11,
            d_model=width,
            d_kv=width // 4,
            d_ff=2 * width,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def _autoencoder_kl(use_quant_conv: bool = True, **config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        use_quant_conv=use_quant_conv,
        use_post_quant_conv=use_quant_conv,
        **config,
    )


def _autoencoder_tiny() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        scaling_factor=0.7,
    )
