"""The published architectures with random weights, which cost as much as learned ones, and toys of the same kinds."""

import string
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from twinact.backbones.backbone import Backbone
from twinact.backbones.chroma import Chroma
from twinact.backbones.flux import Flux
from twinact.backbones.flux2 import Flux2Klein
from twinact.backbones.sd import StableDiffusion
from twinact.backbones.sdxl import StableDiffusionXL
from twinact.backbones.z_image import ZImage
from twinact.nano.tokenizer import train_tokenizer
from twinact.phrases import load_phrases

# Configurations of the published models, then what a toy has instead.
_UNET_SD15 = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
    "attention_head_dim": 8, "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
_UNET_SDXL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
_FLUX = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
_KLEIN_4B = {
    "in_channels": 128, "num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 7680, "guidance_embeds": False,
}  # fmt: skip
_Z_IMAGE: dict[str, Any] = {}  # the defaults of its class
_CHROMA: dict[str, Any] = {}
_QWEN3_4B = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
_CLIP_L = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768, "vocab_size": 49408,
}  # fmt: skip
_CLIP_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu", "vocab_size": 49408,
}  # fmt: skip
_T5_XXL = {
    "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0,
}  # fmt: skip
_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip

_TOY: dict[str, dict[str, Any]] = {
    "unet-sd15": {"sample_size": 8, "block_out_channels": (8, 16, 16, 16), "cross_attention_dim": 32,
                  "attention_head_dim": 2, "norm_num_groups": 4},
    "unet-sdxl": {"sample_size": 8, "block_out_channels": (8, 16, 16), "cross_attention_dim": 64,
                  "attention_head_dim": 2, "norm_num_groups": 4, "transformer_layers_per_block": (1, 1, 2),
                  "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 32},
    "flux": {"in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
             "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32,
             "axes_dims_rope": (4, 6, 6)},
    "klein": {"in_channels": 128, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
              "num_attention_heads": 2, "joint_attention_dim": 96, "axes_dims_rope": (4, 4, 4, 4)},
    "z-image": {"dim": 32, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32,
                "axes_dims": [4, 6, 6]},
    "chroma": {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
               "joint_attention_dim": 32, "axes_dims_rope": (4, 6, 6), "approximator_num_channels": 8,
               "approximator_hidden_dim": 16, "approximator_layers": 1},
    "qwen": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1,
             "head_dim": 8},
    "clip": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "projection_dim": 32},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "vae": {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4},
}  # fmt: skip


def sd15(toy: bool, weights: AbstractContextManager[Any]) -> StableDiffusion:
    """Stable Diffusion 1.5 at 512 pixels; its networks are made inside `weights`, which says where and of what."""
    tokenizer = _tokenizer()
    with weights:
        vae = AutoencoderKL(latent_channels=4, sample_size=64 if toy else 512, **_sized(_VAE, "vae", toy))
        text_encoder = CLIPTextModel(_clip(_CLIP_L, tokenizer, toy))
        unet = UNet2DConditionModel(**_sized(_UNET_SD15, "unet-sd15", toy))
    return StableDiffusion(
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=DDIMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ),
        "sd15@random",
    )


def sdxl(toy: bool, weights: AbstractContextManager[Any]) -> StableDiffusionXL:
    """Stable Diffusion XL at 1024 pixels; arguments as `sd15`."""
    tokenizers = _tokenizer(), _tokenizer()
    shape = {"latent_channels": 4, "sample_size": 64 if toy else 1024, "scaling_factor": 0.13025, "force_upcast": True}
    with weights:
        vae = AutoencoderKL(**shape, **_sized(_VAE, "vae", toy))
        text_encoder = CLIPTextModel(_clip(_CLIP_L, tokenizers[0], toy))
        text_encoder_2 = CLIPTextModelWithProjection(_clip(_CLIP_G, tokenizers[1], toy))
        unet = UNet2DConditionModel(**_sized(_UNET_SDXL, "unet-sdxl", toy))
    return StableDiffusionXL(
        StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizers[0],
            tokenizer_2=tokenizers[1],
            unet=unet,
            scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
            add_watermarker=False,
        ),
        "sdxl@random",
    )


def flux(toy: bool, weights: AbstractContextManager[Any]) -> Flux:
    """FLUX.1 dev at 1024 pixels; arguments as `sd15`."""
    tokenizer = _tokenizer()
    with weights:
        vae = _vae_16(toy)
        text_encoder = CLIPTextModel(_clip(_CLIP_L, tokenizer, toy))
        text_encoder_2 = T5EncoderModel(T5Config(**_sized(_T5_XXL, "t5", toy)))
        transformer = FluxTransformer2DModel(**_sized(_FLUX, "flux", toy))
    return Flux(
        FluxPipeline(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=_t5_tokenizer(),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        ),
        "flux@random",
    )


def klein(toy: bool, weights: AbstractContextManager[Any]) -> Flux2Klein:
    """FLUX.2 klein 4B at 1024 pixels; arguments as `sd15`."""
    with weights:
        vae = AutoencoderKLFlux2(latent_channels=32, sample_size=64 if toy else 1024, **_sized(_VAE, "vae", toy))
        text_encoder = Qwen3ForCausalLM(Qwen3Config(**_sized(_QWEN3_4B, "qwen", toy)))
        transformer = Flux2Transformer2DModel(**_sized(_KLEIN_4B, "klein", toy))
    return Flux2Klein(
        Flux2KleinPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=_qwen_tokenizer(),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        ),
        "klein@random",
    )


def z_image(toy: bool, weights: AbstractContextManager[Any]) -> ZImage:
    """Z-Image at 1024 pixels; arguments as `sd15`."""
    with weights:
        vae = _vae_16(toy)
        text_encoder = Qwen3ForCausalLM(Qwen3Config(**_sized(_QWEN3_4B, "qwen", toy)))
        transformer = ZImageTransformer2DModel(**_sized(_Z_IMAGE, "z-image", toy))
    return ZImage(
        ZImagePipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=_qwen_tokenizer(),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        ),
        "z-image@random",
    )


def chroma(toy: bool, weights: AbstractContextManager[Any]) -> Chroma:
    """Chroma1 at 1024 pixels; arguments as `sd15`."""
    with weights, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)  # its own import
        vae = _vae_16(toy)
        text_encoder = T5EncoderModel(T5Config(**_sized(_T5_XXL, "t5", toy)))
        transformer = ChromaTransformer2DModel(**_sized(_CHROMA, "chroma", toy))
    return Chroma(
        ChromaPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=_t5_tokenizer(),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        ),
        "chroma@random",
    )


MODELS: dict[str, Callable[[bool, AbstractContextManager[Any]], Backbone]] = {
    "sd15": sd15, "sdxl": sdxl, "flux": flux, "klein": klein, "z-image": z_image, "chroma": chroma,
}  # fmt: skip


@contextmanager
def half(device: str) -> Iterator[None]:
    """While open, modules are made on a device, with bf16 weights."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def _sized(published: dict[str, Any], part: str, toy: bool) -> dict[str, Any]:
    return {**published, **_TOY[part]} if toy else published


def _vae_16(toy: bool) -> AutoencoderKL:
    """That of FLUX.1, which Z-Image and Chroma have, too."""
    return AutoencoderKL(
        latent_channels=16, sample_size=64 if toy else 1024, scaling_factor=0.3611, shift_factor=0.1159,
        use_quant_conv=False, use_post_quant_conv=False, **_sized(_VAE, "vae", toy),
    )  # fmt: skip


def _qwen_tokenizer() -> Qwen2Tokenizer:
    """Spells everything in bytes."""
    tokenizer = Qwen2Tokenizer(
        vocab={byte: index for index, byte in enumerate(sorted(ByteLevel.alphabet()))}, merges=[],
        model_max_length=131_072,
    )  # fmt: skip
    tokenizer.chat_template = "{% for m in messages %}user\n{{ m.content }}\n{% endfor %}assistant\n"
    return tokenizer


def _tokenizer() -> Any:
    return train_tokenizer(sorted({word for phrase in load_phrases() for word in phrase.text.split()}), 77)


def _t5_tokenizer() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.printable.strip()]
    scores = [0.0 if piece.startswith("<") and len(piece) > 1 else -2.0 for piece in pieces]
    return T5Tokenizer(vocab=list(zip(pieces, scores, strict=True)), extra_ids=0, model_max_length=512)


def _clip(published: dict[str, Any], tokenizer: Any, toy: bool) -> CLIPTextConfig:
    return CLIPTextConfig(
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_sized(published, "clip", toy),
    )
