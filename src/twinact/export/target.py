"""Describes the model that an exported file is for in the terms of other tools."""

from dataclasses import dataclass
from pathlib import Path

from twinact.action import Action
from twinact.backbones import family, model_id, settings
from twinact.backbones.weights import difference, same_model
from twinact.errors import CheckpointError

SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
SD3, FLUX = "StableDiffusion3Pipeline", "FluxPipeline"
FLUX2, Z_IMAGE, CHROMA = "Flux2KleinPipeline", "ZImagePipeline", "ChromaPipeline"
_WIDTH_OF_SD2 = 1024
_LAYERS_OF_SD35_MEDIUM = 24
_WIDTH_OF_QWEN3_8B = 4096


@dataclass(frozen=True)
class Base:
    """What tells one model from another.

    Attributes:
        family: Pipeline class, as `twinact.backbones.family` gives it.
        architecture: ModelSpec's name.
        layers_per_block: Layers per block of a UNet, whose blocks are numbered by it in SDXL's original code.
    """

    family: str
    architecture: str
    layers_per_block: int = 2

    @classmethod
    def of(cls, model: str | Path) -> "Base":
        """The facts about a model; its weights are not read. Arguments and errors as `twinact.backbones.load`."""
        unet, transformer = settings(model, "unet"), settings(model, "transformer")
        kind = family(model)
        if kind == SDXL:
            name = "stable-diffusion-xl-v1-base"
        elif kind == FLUX:
            name = "flux-1-dev" if transformer.get("guidance_embeds") else "flux-1-schnell"
        elif kind == FLUX2:
            size = "9b" if settings(model, "text_encoder").get("hidden_size") == _WIDTH_OF_QWEN3_8B else "4b"
            name = f"flux-2-klein-{'' if settings(model, '').get('is_distilled') else 'base-'}{size}"
        elif kind in (Z_IMAGE, CHROMA):
            name = "z-image" if kind == Z_IMAGE else "chroma-1"
        elif kind == SD3 and transformer.get("qk_norm") is None:  # 3.5 is the one that normalises
            name = "stable-diffusion-v3-medium"
        elif kind == SD3:
            large = transformer.get("num_layers", 0) > _LAYERS_OF_SD35_MEDIUM
            name = "stable-diffusion-v3.5-large" if large else "stable-diffusion-v3.5-medium"
        elif unet.get("cross_attention_dim") == _WIDTH_OF_SD2:
            v = settings(model, "scheduler").get("prediction_type") == "v_prediction"
            name = "stable-diffusion-v2-768-v" if v else "stable-diffusion-v2-512"
        else:
            name = "stable-diffusion-v1"
        # In other UNets each block may have its own number, as in nano; only SDXL's layers are numbered through.
        return cls(kind, name, unet.get("layers_per_block", 2) if kind == SDXL else 2)

    @classmethod
    def of_action(cls, action: Action, model: str | Path) -> "Base":
        """The facts about the model of an action; headers would name a wrong one.

        Raises:
            CheckpointError: The action was made for another model.
        """
        here = model_id(model)
        if not same_model(action.model_id, here):
            raise CheckpointError(
                f"action {action.name!r} was made for {action.model_id!r}, --model is {here!r} "
                f"({difference(action.model_id, here)}): give --model its model"
            )
        return cls.of(model)
