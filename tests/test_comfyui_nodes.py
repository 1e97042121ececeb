"""The nodes for ComfyUI against its contract: what they declare, and what they make of a CLIP's tokens.

ComfyUI itself is not there. `Clip` does what its own does, by comfy/sd1_clip.py: chunks of (token, weight) pairs,
vectors in place of tokens, and conditioning with the pooled output.
"""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from families import FAMILIES, backbone_of
from small import small_space
from tiny_tokenizers import MAX_LENGTH
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.backbones.token_lora import TokenLora
from twinact.space import ActionSpace
from twinact.space.sliders import SLIDERS

FOLDER = Path(__file__).parents[1] / "integrations" / "comfyui"
NAMES = {"sd": ("l",), "sdxl": ("l", "g")}
PROMPT = "a robot <act> on the moon"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The folder as ComfyUI imports it."""
    paths = ModuleType("folder_paths")
    paths.models_dir = str(tmp_path / "models")  # type: ignore[attr-defined]
    (tmp_path / "models" / "twinact").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    spec = importlib.util.spec_from_file_location(
        "twinact_nodes", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "twinact_nodes", module)
    spec.loader.exec_module(module)
    return module


class Clip:
    """A CLIP as nodes get it, on the text encoders of a backbone."""

    def __init__(self, backbone: Backbone, names: tuple[str, ...]) -> None:
        self._backbone = backbone
        self._tables = dict(zip(names, backbone.token_tables(), strict=True))

    def tokenize(self, text: str) -> dict[str, list[list[tuple[Any, float]]]]:
        found = {}
        for name, table in self._tables.items():
            tokenizer = table.tokenizer
            ids = tokenizer(text, padding="max_length", max_length=MAX_LENGTH, truncation=True)["input_ids"]
            found[name] = [[(token, 1.0) for token in ids]]
        return found

    def encode_from_tokens_scheduled(self, tokens: dict[str, list[list[tuple[Any, float]]]]) -> list[list[Any]]:
        """By the text encoders themselves: numbers are looked up, vectors taken as they are."""
        pipeline, outputs, pooled = self._backbone.pipeline(), [], None
        encoders = [getattr(pipeline, table.name) for table in self._tables.values()]
        for (name, chunks), encoder in zip(tokens.items(), encoders, strict=True):
            (chunk,) = chunks
            weight = encoder.get_input_embeddings().weight
            rows = [token if hasattr(token, "shape") else weight[token] for token, _ in chunk]
            ids = torch.tensor([0 if hasattr(token, "shape") else token for token, _ in chunk])
            end = ids.tolist().index(self._tables[name].tokenizer.eos_token_id)
            found = _through(encoder, torch.stack(rows)[None], end, sdxl=len(encoders) == 2)
            outputs.append(found[0])
            pooled = found[1]
        return [[torch.cat(outputs, dim=-1), {"pooled_output": pooled}]]


def _through(encoder: Any, embeddings: torch.Tensor, end: int, sdxl: bool) -> tuple[torch.Tensor, torch.Tensor]:
    table = encoder.get_input_embeddings()
    hook = table.register_forward_hook(lambda module, given, output: embeddings)
    ids = torch.zeros(1, embeddings.shape[1], dtype=torch.long)
    ids[0, end] = encoder.config.eos_token_id
    try:
        with torch.no_grad():
            output = encoder(ids, output_hidden_states=True)
    finally:
        hook.remove()
    last = output.last_hidden_state if hasattr(output, "last_hidden_state") else None
    states = output.hidden_states[-2] if sdxl else last
    pooled = getattr(output, "text_embeds", None)
    pooled = output.pooler_output if pooled is None else pooled
    assert states is not None
    return states, pooled


def keep(action: Action, space: ActionSpace | None, tmp_path: Path, inside: str = "") -> None:
    folder = tmp_path / "models" / "twinact" / inside
    action.save(folder / f"{action.name}.action.safetensors")
    if space is not None:
        space.save(folder / "phrases.space.safetensors")


def run(nodes: ModuleType, name: str, **inputs: Any) -> Any:
    """What a node gives, as ComfyUI calls it."""
    node = nodes.NODE_CLASS_MAPPINGS[name]
    found = getattr(node(), node.FUNCTION)(**inputs)
    assert isinstance(found, tuple) and len(found) == len(node.RETURN_TYPES)
    return found[0]


def test_nodes_are_declared_as_comfyui_asks(nodes: ModuleType) -> None:
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        declared = node.INPUT_TYPES()
        assert declared.keys() <= {"required", "optional", "hidden"} and declared["required"]
        for group in declared.values():
            for kind in group.values():
                assert isinstance(kind, tuple) and isinstance(kind[0], str | list)
                assert len(kind) == 1 or isinstance(kind[1], dict)
        assert isinstance(node.RETURN_TYPES, tuple) and all(isinstance(one, str) for one in node.RETURN_TYPES)
        assert callable(getattr(node, node.FUNCTION)) and isinstance(node.CATEGORY, str)
    assert nodes.NODE_CLASS_MAPPINGS["TwinActEncode"].RETURN_TYPES == ("CONDITIONING",)


def test_nothing_heavy_is_imported_with_them() -> None:
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('n', {str(FOLDER / '__init__.py')!r},"
        f" submodule_search_locations=[{str(FOLDER)!r}])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['n'] = module; spec.loader.exec_module(module)\n"
        "sys.exit(', '.join({'torch', 'twinact', 'numpy'} & sys.modules.keys()) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sliders_are_those_of_twinact(nodes: ModuleType) -> None:
    assert nodes.NODE_CLASS_MAPPINGS["TwinActAdjust"].INPUT_TYPES()["required"]["slider"] == (list(SLIDERS),)


@pytest.mark.parametrize("name", NAMES)
def test_conditioning_is_that_of_twinact(name: str, nodes: ModuleType, tmp_path: Path) -> None:
    backbone = backbone_of(name)
    space = small_space(backbone)
    u, mask = space.project_phrase("jumping on the moon")
    action = Action.from_coefficients("leap", space, 0.5 * u, mask=mask)
    keep(action, space, tmp_path)
    loaded = run(nodes, "TwinActLoad", file="leap.action.safetensors")
    ((states, extra),) = run(nodes, "TwinActEncode", clip=Clip(backbone, NAMES[name]), action=loaded, text=PROMPT)
    expected = backbone.encode_text([PROMPT], {"<act>": action.vectors})
    pairs = [(states, expected.hidden)]
    if name == "sdxl":
        pairs.append((extra["pooled_output"], expected.pooled))
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        similarity = torch.nn.functional.cosine_similarity(ours.flatten(1), theirs.flatten(1))
        assert float(similarity.min()) > 0.9999
    assert set(extra) == {"pooled_output"}


@pytest.mark.parametrize(
    ("name", "encoders"), [("sd3", ("l", "g", "t5xxl")), ("flux", ("l", "t5xxl")), ("klein", ("qwen3_4b",))]
)
def test_vectors_stand_where_the_action_stands(name: str, encoders: tuple[str, ...], nodes: ModuleType) -> None:
    """Also for T5 and for language models, whose template stands around the prompt."""
    tables = dict(zip(encoders, backbone_of(name).token_tables(), strict=True))
    before, after = FAMILIES[name].template

    def tokenize(text: str) -> dict[str, list[list[tuple[Any, float]]]]:
        whole = f"{before}{text}{after}"
        return {one: [[(t, 1.0) for t in table.tokenizer(whole)["input_ids"]]] for one, table in tables.items()}

    vectors = [torch.randn(2, table.width) for table in tables.values()]
    tokens = sys.modules["twinact_nodes.tokens"].spliced(tokenize, "a robot <act> in the park", vectors)
    for (one, table), block in zip(tables.items(), vectors, strict=True):
        ((*chunk,),) = tokens[one]
        places = [number for number, (token, _) in enumerate(chunk) if hasattr(token, "shape")]
        assert places == [places[0], places[0] + 1]
        assert all(torch.equal(chunk[place][0], row) for place, row in zip(places, block, strict=True))
        around = table.tokenizer.decode([chunk[places[0] - 1][0]]), table.tokenizer.decode([chunk[places[1] + 1][0]])
        assert tuple(map(str.strip, around)) == ("robot", "in")


def test_actions_are_moved_and_combined(nodes: ModuleType, tmp_path: Path) -> None:
    backbone = backbone_of("sd")
    space = small_space(backbone)
    for name, phrase in (("leap", "jumping"), ("dance", "dancing")):
        u, mask = space.project_phrase(phrase)
        keep(Action.from_coefficients(name, space, u, mask=mask), space, tmp_path, "both")
    leap, dance = (run(nodes, "TwinActLoad", file=f"both/{name}.action.safetensors") for name in ("leap", "dance"))
    assert leap[1] is not None and leap[1].hash == space.hash
    moved = run(nodes, "TwinActAdjust", action=leap, slider="arms up", amount=0.0, phrase="dancing", share=1.0)
    assert torch.allclose(moved[0].coefficients, dance[0].coefficients, atol=1e-4)
    same = run(nodes, "TwinActAdjust", action=leap, slider="arms up", amount=0.0)
    assert torch.equal(same[0].coefficients, leap[0].coefficients)
    first = run(nodes, "TwinActCombine", first=leap, second=dance, share=0.0)
    assert torch.allclose(first[0].coefficients, leap[0].coefficients, atol=1e-4)
    halfway = run(nodes, "TwinActCombine", first=leap, second=dance, share=0.5)
    assert not torch.allclose(halfway[0].coefficients, leap[0].coefficients, atol=1e-2)


def test_what_cannot_be_is_told(nodes: ModuleType, tmp_path: Path) -> None:
    backbone = backbone_of("sd")
    clip, space = Clip(backbone, ("l",)), small_space(backbone)
    action = Action.from_coefficients("leap", space, space.phrase_coefficients[0], mask=space.phrase_mask[0])
    keep(action, None, tmp_path)
    load = nodes.NODE_CLASS_MAPPINGS["TwinActLoad"]
    assert load.VALIDATE_INPUTS("leap.action.safetensors") is True
    assert "not in models/twinact" in load.VALIDATE_INPUTS("gone.action.safetensors")
    assert "is not in ComfyUI's folder" in load.VALIDATE_INPUTS("../../leap.action.safetensors")
    assert load.INPUT_TYPES()["required"]["file"] == (["leap.action.safetensors"],)
    vectors = action.vectors[0]
    keep(Action("layers", [vectors.expand(4, -1, -1)], action.model_id), None, tmp_path)
    keep(Action("tokens", [vectors], action.model_id, lora=TokenLora({"x": vectors})), None, tmp_path)
    for name in ("layers", "tokens"):
        with pytest.raises(ValueError, match=f"action '{name}' acts on single layers of the model"):
            run(nodes, "TwinActLoad", file=f"{name}.action.safetensors")
    before = load.IS_CHANGED("leap.action.safetensors")
    alone = run(nodes, "TwinActLoad", file="leap.action.safetensors")
    with pytest.raises(ValueError, match=r"put the file phrases\.space\.safetensors"):
        run(nodes, "TwinActAdjust", action=alone, slider="arms up", amount=0.5)
    with pytest.raises(ValueError, match="does not say where the action goes"):
        run(nodes, "TwinActEncode", clip=clip, action=alone, text="a robot")
    with pytest.raises(ValueError, match="another family"):
        run(nodes, "TwinActEncode", clip=Clip(backbone_of("sdxl"), ("l", "g")), action=alone, text=PROMPT)
    with pytest.raises(ValueError, match="shorten the prompt"):
        run(nodes, "TwinActEncode", clip=clip, action=alone, text="a robot " * 30 + "<act>")
    replace(action, name="leap", coefficients=2 * action.coefficients).save(
        tmp_path / "models" / "twinact" / "leap.action.safetensors"
    )
    assert load.IS_CHANGED("leap.action.safetensors") != before
