"""The nodes. Nothing heavy is imported before one of them runs, so that ComfyUI starts as fast as without them."""

import hashlib
import os
from pathlib import Path

from .tokens import spliced

SUFFIX = ".action.safetensors"
CATEGORY = "twinact"
# As in twinact.space.sliders; told again, because importing that would load torch while ComfyUI builds its menus.
SLIDERS = (
    "arms up", "left arm up", "right arm up", "legs apart", "left leg up", "right leg up", "knees bent",
    "left knee bent", "right knee bent", "lean left",
)  # fmt: skip


def folder() -> str:
    """ComfyUI's folder of actions."""
    import folder_paths  # of ComfyUI

    return os.path.join(folder_paths.models_dir, "twinact")


def files() -> list[str]:
    """All actions below the folder, as paths inside it."""
    found = []
    for place, _, names in os.walk(folder()):
        found += [os.path.relpath(os.path.join(place, name), folder()) for name in names if name.endswith(SUFFIX)]
    return sorted(found)


def path_of(name: str) -> str:
    """The file of an action; a ValueError for one outside the folder."""
    root = os.path.realpath(folder())
    path = os.path.realpath(os.path.join(root, name))
    if os.path.commonpath((root, path)) != root or not path.endswith(SUFFIX):
        raise ValueError(f"action {name!r} is not in ComfyUI's folder models/twinact")
    return path


class LoadAction:
    """Reads an action, and the space that it lies in where one is beside it."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES, RETURN_NAMES = ("TWINACT_ACTION",), ("action",)
    DESCRIPTION = "Reads an action that twinact learned, from models/twinact."

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": (files(),)}}

    @classmethod
    def IS_CHANGED(cls, file):
        with open(path_of(file), "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    @classmethod
    def VALIDATE_INPUTS(cls, file):
        try:
            return True if os.path.isfile(path_of(file)) else f"action {file!r} is not in models/twinact"
        except ValueError as error:
            return str(error)

    def load(self, file):
        from twinact.action import Action
        from twinact.backbones.token_lora import TokenLora
        from twinact.space import ActionSpace
        from twinact.space.build import space_beside

        path = path_of(file)
        action = Action.load(path)
        if action.by_layer or isinstance(action.lora, TokenLora):
            raise ValueError(
                f"action {action.name!r} acts on single layers of the model, which ComfyUI does not let it do: draw it "
                "with twinact, or learn it with another method than xti, neti and tara"
            )
        beside = space_beside(Path(path), action.space_hash)
        return ((action, None if beside is None else ActionSpace.load(beside)),)


class AdjustAction:
    """Moves an action by a named slider, towards a phrase, or both."""

    CATEGORY, FUNCTION = CATEGORY, "adjust"
    RETURN_TYPES, RETURN_NAMES = ("TWINACT_ACTION",), ("action",)
    DESCRIPTION = "Moves an action: a limb by a slider, and the whole towards a phrase of its space."

    @classmethod
    def INPUT_TYPES(cls):
        amount = {"default": 0.0, "min": -1.0, "max": 1.0, "step": 0.05}
        return {
            "required": {
                "action": ("TWINACT_ACTION",),
                "slider": (list(SLIDERS),),
                "amount": ("FLOAT", amount),
            },
            "optional": {
                "phrase": ("STRING", {"default": "", "tooltip": "A phrase of the space, such as 'hands on hips'."}),
                "share": ("FLOAT", {**amount, "tooltip": "How far towards the phrase: 1 is the phrase itself."}),
            },
        }

    def adjust(self, action, slider, amount, phrase="", share=0.0):
        moved, space = action
        if amount:
            moved = moved.slid(_needed(moved, space), slider, amount)
        if phrase and share:
            moved = moved.toward(_needed(moved, space), phrase, share)
        return ((moved, space),)


class CombineActions:
    """The weighted sum of two actions of one space."""

    CATEGORY, FUNCTION = CATEGORY, "combine"
    RETURN_TYPES, RETURN_NAMES = ("TWINACT_ACTION",), ("action",)
    DESCRIPTION = "Combines two actions of one space; at 0 it is the first alone, at 1 the second."

    @classmethod
    def INPUT_TYPES(cls):
        share = ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.05})
        return {"required": {"first": ("TWINACT_ACTION",), "second": ("TWINACT_ACTION",), "share": share}}

    def combine(self, first, second, share):
        action, space = first
        space = _needed(action, space)
        return ((action.combined(space, [second[0]], [1.0 - share, share]), space),)


class EncodeAction:
    """Encodes a prompt in which ``<act>`` stands where the action goes."""

    CATEGORY, FUNCTION = CATEGORY, "encode"
    RETURN_TYPES = ("CONDITIONING",)
    DESCRIPTION = "Encodes a prompt with the action where it says <act>."

    @classmethod
    def INPUT_TYPES(cls):
        text = {"multiline": True, "default": "a panda <act> on the moon"}
        return {"required": {"clip": ("CLIP",), "action": ("TWINACT_ACTION",), "text": ("STRING", text)}}

    def encode(self, clip, action, text):
        return (clip.encode_from_tokens_scheduled(spliced(clip.tokenize, text, action[0].vectors)),)


def _needed(action, space):
    if space is None:
        raise ValueError(
            f"action {action.name!r} cannot be moved without its space: put the file phrases.space.safetensors of its "
            "run beside it"
        )
    return space


NODE_CLASS_MAPPINGS = {
    "TwinActLoad": LoadAction,
    "TwinActAdjust": AdjustAction,
    "TwinActCombine": CombineActions,
    "TwinActEncode": EncodeAction,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "TwinActLoad": "Load Action (TwinAct)",
    "TwinActAdjust": "Adjust Action (TwinAct)",
    "TwinActCombine": "Combine Actions (TwinAct)",
    "TwinActEncode": "Encode Prompt with Action (TwinAct)",
}
