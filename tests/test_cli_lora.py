"""The command line with LoRAs and customised actors, from learning to the files of other tools and back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from commands import done, refused
from families import backbone_of
from tiny import tiny_flux
from twinact import lora
from twinact.action import Action
from twinact.backbones import model_id
from twinact.backbones.token_lora import TokenLora


def made(*arguments: str | Path) -> list[Path]:
    """Paths that a command printed."""
    return [Path(line) for line in done(*arguments).stdout.splitlines()]


@pytest.fixture(scope="module")
def learned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = tmp_path_factory.mktemp("photos") / "leap"
    photos.mkdir()
    for index, colour in enumerate(("red", "green")):
        Image.new("RGB", (40, 48), colour).save(photos / f"{index}.png")
    options = ("--method", "textual-inversion", "--lora-rank", "2", "--lora-learning-rate", "0.05", "--steps", "4")
    return made("learn", photos, "--model", model, *options, "--out", tmp_path_factory.mktemp("runs") / "leap")[0]


@pytest.fixture(scope="module")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedding and a LoRA of another tool in two files of one folder."""
    folder, generator = tmp_path_factory.mktemp("actor"), torch.Generator().manual_seed(3)
    save_file({"emb_params": 0.3 * torch.randn(2, 32, generator=generator)}, folder / "anna.safetensors")
    weights = {
        key: torch.randn(weight.shape, generator=generator) if key.endswith(lora.UP) else weight
        for key, weight in lora.fresh(backbone_of("sd"), 2, 0).items()
    }
    save_file(weights, folder / "lora.safetensors")
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def draw(action: Path, model: Path, prompt: str, *options: str | Path) -> tuple[bytes, dict[str, object]]:
    (path,) = made("generate", action, "--model", model, "--prompt", prompt, "--steps", "1", *options)
    with Image.open(path) as picture:
        return picture.tobytes(), json.loads(picture.info["twinact"])


@pytest.mark.slow
def test_the_lora_draws_and_can_be_turned_down(learned: Path, model: Path, tmp_path: Path) -> None:
    action = Action.load(learned)
    assert action.lora and action.meta["config"]["lora_rank"] == 2
    drawn, facts = draw(learned, model, "a robot <act>")
    assert facts["action"]["lora_weight"] == 1.0  # type: ignore[index]
    Action(action.name, action.vectors, action.model_id).save(tmp_path / "bare.action.safetensors")
    bare, facts = draw(tmp_path / "bare.action.safetensors", model, "a robot <act>")
    assert "lora" not in facts["action"]  # type: ignore[operator]
    assert bare != drawn
    assert bare == draw(learned, model, "a robot <act>", "--lora-weight", "0")[0]


@pytest.mark.slow
def test_an_actor_of_another_tool_does_the_action(learned: Path, model: Path, actor: Path) -> None:
    prompt, word, weights = "<actor> <act> in the park", actor / "anna.safetensors", actor / "lora.safetensors"
    alone, facts = draw(learned, model, prompt, "--actor", word)
    assert [part["name"] for part in facts["actor"]] == ["actor"]  # type: ignore[index,attr-defined]
    both = draw(learned, model, prompt, "--actor", word, "--actor", weights)[0]
    assert len({alone, both, draw(learned, model, "a cat <act> in the park")[0]}) == 3
    assert alone == draw(learned, model, prompt, "--actor", word, "--actor", weights, "--actor-weight", "0")[0]
    # The same by way of imported files.
    imported = [made("import", f, "--name", f.stem, "--out", f.stem, "--model", model)[0] for f in (word, weights)]
    assert both == draw(learned, model, prompt, "--actor", imported[0], "--actor", imported[1])[0]
    # A LoRA alone as the action: it is asked for by its own word.
    draw(imported[1], model, "a photo of a cat")
    assert "use its own trigger word" in refused("generate", imported[1], "--model", model, "--prompt", "a cat <act>")


@pytest.mark.slow
def test_actors_that_cannot_be_used_are_one_line(learned: Path, model: Path, actor: Path, tmp_path: Path) -> None:
    word = actor / "anna.safetensors"
    start = ("generate", learned, "--model", model, "--prompt", "<actor> <act>")
    plain = ("generate", learned, "--model", model, "--prompt", "a cat <act>", "--actor", word)
    assert "put <actor> in it" in refused(*plain)
    assert "give one embedding" in refused(*start, "--actor", word, "--actor", word, code=2)
    save_file({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}, tmp_path / "xl.safetensors")
    assert "made for another family" in refused(*start, "--actor", tmp_path / "xl.safetensors")
    (tmp_path / "old.pt").write_bytes(b"\x80")
    assert "run code" in refused(*start, "--actor", tmp_path / "old.pt")
    assert "does not exist" in refused(*start, "--actor", tmp_path / "none.safetensors")
    Action("bob", [torch.ones(1, 32)], "other@1").save(tmp_path / "bob.action.safetensors")
    assert "was made for model 'other@1'" in refused(*start, "--actor", tmp_path / "bob.action.safetensors")
    assert not (tmp_path / "pictures").exists()


@pytest.mark.slow
def test_export_and_import(learned: Path, model: Path, tmp_path: Path) -> None:
    paths = made("export", learned, "--model", model)
    assert [str(path) for path in paths] == [
        "exports/twa-leap.safetensors",
        "exports/twa-leap/learned_embeds.safetensors",
        "exports/twa-leap/pytorch_lora_weights.safetensors",
        "exports/lora/twa-leap-lora.safetensors",
        "exports/bundle/twa-leap-bundle.safetensors",
        "exports/twa-leap.comfyui.json",
        "exports/twa-leap.a1111.txt",
    ]
    assert "not replaced" in refused("export", learned, "--model", model)
    back = Action.load(made("import", paths[4], "--name", "back", "--out", "back", "--model", model)[0])
    action = Action.load(learned)
    assert back.vectors[0].equal(action.vectors[0])
    assert all(back.lora[key].equal(weight) for key, weight in action.lora.items())
    assert draw(learned, model, "a robot <act>")[0] == draw(
        Path("back.action.safetensors"), model, "a robot <act>"
    )[0]  # fmt: skip


@pytest.mark.slow
def test_loras_for_their_own_tokens_are_drawn_side_by_side_and_not_exported(
    learned: Path, model: Path, tmp_path: Path
) -> None:
    action, generator = Action.load(learned), torch.Generator().manual_seed(4)
    files = []
    for name in ("leap", "wave"):
        weights = {
            key: torch.randn(weight.shape, generator=generator) if key.endswith(lora.UP) else weight
            for key, weight in lora.fresh(backbone_of("sd"), 2, 0).items()
            if "attn2.to_k" in key or "attn2.to_v" in key
        }
        own = Action(name, action.vectors, action.model_id, lora=TokenLora(weights))
        files.append(own.save(tmp_path / f"{name}.action.safetensors"))

    def together(*actions: Path) -> bytes:
        prompt = ("--prompt", "a cat <leap> and a dog <wave>", "--steps", "1")
        (path,) = made("generate", *actions, "--model", model, *prompt)
        with Image.open(path) as picture:
            return picture.tobytes()

    drawn = together(*files)
    assert drawn == together(*reversed(files))
    # Both have the same vectors: what differs is whose LoRA acts at which of them.
    for name, other in (("leap", files[1]), ("wave", files[0])):
        replace(Action.load(other), name=name).save(tmp_path / "swapped" / f"{name}.action.safetensors")
    assert drawn != together(*(tmp_path / "swapped").iterdir())
    assert "other tools let a LoRA act everywhere" in refused("export", files[0], "--model", model, code=2)
    assert not (tmp_path / "exports").exists()


def test_export_says_which_tools_have_no_words_for_t5(tmp_path: Path) -> None:
    tiny_flux().save_pretrained(tmp_path / "flux")
    vectors = [table.weight[:2] for table in backbone_of("flux").token_tables()]
    action = Action("leap", vectors, model_id(tmp_path / "flux"), lora=lora.fresh(backbone_of("flux"), 2, 0))
    file = action.save(tmp_path / "leap.action.safetensors")
    result = done("export", file, "--model", tmp_path / "flux", "--out", "exports")
    assert len(result.stdout.splitlines()) == 5  # with the workflow
    assert "type: twa-leap (diffusers), embedding:twa-leap (ComfyUI)" in result.stderr
    assert "A1111" not in result.stderr and "Forge" not in result.stderr
