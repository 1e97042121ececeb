"""Real pipelines at the smallest sizes that still have every part; their weights are the same in every run."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderTiny,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tiny_tokenizers import MAX_LENGTH, WORDS, tiny_qwen_tokenizer, tiny_t5_tokenizer, tiny_tokenizer


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


def tiny_klein(distilled: bool = False) -> Flux2KleinPipeline:
    """A FLUX.2 klein of 32 x 32 pictures and (16, 4, 4) latents; its text is 3 x 16 wide and 512 tokens long."""
    tokenizer = tiny_qwen_tokenizer()
    with _same_weights():
        text_encoder = Qwen3ForCausalLM(_qwen_config(tokenizer, layers=30))
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * 16,
            guidance_embeds=False,
            axes_dims_rope=(4, 4, 4, 4),
        )
        vae = AutoencoderKLFlux2(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
        )
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
    return Flux2KleinPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        is_distilled=distilled,
    )


def tiny_z_image() -> ZImagePipeline:
    """A Z-Image of 32 x 32 pictures and (4, 8, 8) latents; its text is 16 wide and up to 512 tokens long."""
    tokenizer = tiny_qwen_tokenizer()
    with _same_weights():
        text_encoder = Qwen3Model(_qwen_config(tokenizer, layers=3))
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        )
        for token in (transformer.x_pad_token, transformer.cap_pad_token):
            torch.nn.init.normal_(token, std=0.1)
        vae = _autoencoder_kl(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False)
    return ZImagePipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def tiny_chroma() -> ChromaPipeline:
    """A Chroma of 32 x 32 pictures and (4, 8, 8) latents; its text is 64 wide."""
    tokenizer = tiny_t5_tokenizer()
    with _same_weights(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)  # its own import
        text_encoder = _t5(tokenizer, 64)
        transformer = ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        )
        vae = _autoencoder_kl(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False)
    return ChromaPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=True),
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


def _qwen_config(tokenizer: Qwen2Tokenizer, layers: int) -> Qwen3Config:
    """Its table has more rows than the tokenizer has words, as that of the published Qwen3."""
    return Qwen3Config(
        vocab_size=len(tokenizer) + 11,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=1,  # attention over so many positions is what tests wait for
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
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
