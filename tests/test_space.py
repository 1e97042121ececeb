"""The action space: exact, balanced, free of duplicates, and safe on disk."""

import io
import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_tokenizers import tiny_tokenizer
from twinact.action import Action
from twinact.backbones.backbone import TokenTable
from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.report.plots import map_png, scree_png
from twinact.space import ActionSpace
from twinact.space.groups import group_tokens

VERBS = ("run", "jump", "kneel", "sit", "stand", "bow", "wave", "kick", "crawl", "spin", "lean", "reach")
LIMBS = ("left", "right", "arms", "legs", "hands", "feet", "head", "knees", "hips", "back")
WHERE = ("forward", "down", "out", "in", "together", "apart", "over", "under", "around", "along")
PHRASES = (
    *VERBS,
    *(f"{verb} slowly" for verb in VERBS[:7]),
    *(f"{verb} up high" for verb in VERBS[:5]),
    *(" ".join(words) for words in zip(VERBS, LIMBS, WHERE, strict=False)),
    *("arms crossed", "arms raised above head", "left leg raised up very high", "looking down"),
)
WORDS = sorted({word for phrase in PHRASES for word in phrase.split()} | {"twirl"})


def tables(widths=(24, 40), gains=(1.0, 30.0), words=(tuple(WORDS), tuple(WORDS))) -> list[TokenTable]:
    """Token tables of made-up encoders: very different sizes of embeddings, optionally other vocabularies."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for index, (width, gain, known) in enumerate(zip(widths, gains, words, strict=True)):
        tokenizer = tiny_tokenizer(known)
        weight = torch.empty(len(tokenizer), width)
        # Drawn by token, not by id: the trainer of the vocabulary numbers equally frequent pieces at random.
        for _, token_id in sorted(tokenizer.get_vocab().items()):
            weight[token_id] = gain * (torch.randn(width, generator=generator) + 0.5)
        result.append(TokenTable(f"encoder_{index}", tokenizer, weight))
    return result


@pytest.fixture(scope="module")
def two() -> list[TokenTable]:
    return tables()


@pytest.fixture(scope="module")
def space(two) -> ActionSpace:
    return ActionSpace.build(two, PHRASES, model_id="tiny@1", tokenizer_hash="abc")


def vectors_of(text: str, tables: list[TokenTable], slots: int) -> list[list[torch.Tensor]]:
    """Per encoder the vectors of a phrase's slots, written out by hand (equal tokenizers only)."""
    result = []
    for table in tables:
        tokens = table.embed(text)
        chunks = tokens.tensor_split(slots) if len(tokens) > slots else tokens.split(1)
        result.append([chunk.mean(dim=0) for chunk in chunks])
    return result


# --- groups ---------------------------------------------------------------------------------------------------------


def test_tokens_are_spread_like_array_split(two):
    groups = group_tokens("left leg raised up very high kick", two, 3)  # 7 tokens -> 3, 2, 2
    assert [len(group.ids[0]) for group in groups] == [3, 2, 2]
    tokens = two[0].embed("left leg raised up very high kick")
    torch.testing.assert_close(groups[0].vector[:24].float(), tokens[:3].mean(dim=0))
    torch.testing.assert_close(groups[2].vector[:24].float(), tokens[5:].mean(dim=0))


def test_absent_slots_are_absent(two, space):
    assert len(group_tokens("run", two, 3)) == 1
    index = space.phrases.index("run")
    assert space.phrase_mask[index].tolist() == [True, False, False]
    assert not space.phrase_coefficients[index, 1:].any()
    # Zero-filled slots would pull the mean of slot 2 towards zero.
    third = [vectors_of(p, two, 3)[0][2] for p in PHRASES if len(p.split()) > 2]
    torch.testing.assert_close(space.mean[2, :24], torch.stack(_distinct(third)).mean(dim=0))


def _distinct(rows: list[torch.Tensor]) -> list[torch.Tensor]:
    return list({tuple(row.tolist()): row for row in rows}.values())


def test_encoders_that_tokenise_differently_share_slots_and_lose_no_token():
    """The second tokenizer spells "kick" in letters: four tokens against one."""
    known = tuple(WORDS), tuple(word for word in WORDS if word != "kick")
    mixed = tables(words=known)
    assert len(mixed[1].ids("kick")) > 3
    (group,) = group_tokens("kick", mixed, 3)
    assert [len(ids) for ids in group.ids] == [1, len(mixed[1].ids("kick"))]
    torch.testing.assert_close(group.vector[24:].float(), mixed[1].embed("kick").mean(dim=0))


def test_text_without_tokens_is_refused(two):
    with pytest.raises(DataError, match="no tokens"):
        group_tokens("", two, 3)


# --- basis ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(24, 40), (6, 4)], ids=["fewer groups than width", "more groups than width"])
def test_phrases_return_their_own_embeddings_at_full_rank(widths):
    made = tables(widths)
    space = ActionSpace.build(made, PHRASES, model_id="tiny@1", tokenizer_hash="abc")
    for index, phrase in enumerate(PHRASES):
        rebuilt = space.reconstruct(space.phrase_coefficients[index])
        for block, truth in zip(rebuilt, vectors_of(phrase, made, 3), strict=True):
            for slot, vector in enumerate(truth):
                assert space.phrase_mask[index, slot]
                assert float((block[slot] - vector).norm() / vector.norm()) < 1e-5, (phrase, slot)


def test_basis_is_orthonormal_and_coefficients_are_white(space, two):
    for slot, rank in enumerate(space.slot_ranks):
        rows = space.basis[slot, :rank]
        torch.testing.assert_close(rows @ rows.T, torch.eye(rank), atol=1e-5, rtol=0)
        assert not space.basis[slot, rank:].any() and not space.sigma[slot, rank:].any()
        assert (space.sigma[slot, :rank].diff() <= 0).all()
        present = space.phrase_coefficients[space.phrase_mask[:, slot], slot, :rank]
        distinct = torch.stack(_distinct([row.round(decimals=3) for row in present]))
        assert len(distinct) == space.distinct[slot] == rank + 1
        torch.testing.assert_close(distinct.mean(dim=0), torch.zeros(rank), atol=2e-3, rtol=0)
        torch.testing.assert_close(distinct.T.cov().reshape(rank, rank), torch.eye(rank), atol=5e-3, rtol=0)


def test_shared_words_count_once(two, space):
    """A hundred phrases more with a first word that is known already change nothing in slot 0."""
    more = (*PHRASES, *(f"run {a} {b}" for a in VERBS[:10] for b in VERBS[:10]))
    bigger = ActionSpace.build(two, more, model_id="tiny@1", tokenizer_hash="abc")
    assert bigger.distinct[0] == space.distinct[0] and bigger.distinct[1] > space.distinct[1]
    torch.testing.assert_close(bigger.mean[0], space.mean[0])
    rank = space.slot_ranks[0]
    torch.testing.assert_close(bigger.sigma[0, :rank], space.sigma[0, :rank])


def test_no_encoder_dominates(space, two):
    """Embeddings 30 times larger and nearly twice as wide weigh as much as the others, in every slot."""
    for slot in range(space.slots):
        scaled = space.sigma[slot, :, None] * space.basis[slot]  # (r, w)
        shares = [float(block.square().sum()) for block in scaled.split(space.widths, dim=-1)]
        assert shares == pytest.approx([1.0, 1.0], rel=1e-4)


def test_one_coefficient_moves_all_encoders(space):
    u = torch.zeros(space.slots, space.rank)
    start = space.reconstruct(u)
    u[0, 0] = 1
    for before, after in zip(start, space.reconstruct(u), strict=True):
        assert (after - before)[0].norm() > 0 and not (after - before)[1:].any()


def test_too_high_rank_is_refused_with_the_largest(two, space):
    largest = min(space.slot_ranks)
    with pytest.raises(ConfigError, match=rf"rank {largest + 1} .*the largest is {largest} "):
        ActionSpace.build(two, PHRASES, rank=largest + 1, model_id="tiny@1", tokenizer_hash="abc")
    built = ActionSpace.build(two, PHRASES, rank=largest, model_id="tiny@1", tokenizer_hash="abc")
    assert built.slot_ranks == (largest,) * 3


def test_rank_is_at_most_the_width():
    narrow = ActionSpace.build(tables((3, 2)), PHRASES, slots=1, model_id="tiny@1", tokenizer_hash="abc")
    assert narrow.rank == 5


def test_a_slot_with_one_group_is_a_constant(two):
    built = ActionSpace.build(two, ("run", "jump", "sit", "wave slowly"), slots=2, model_id="m", tokenizer_hash="t")
    assert built.slot_ranks == (3, 0)
    u, mask = built.project_phrase("wave slowly")
    torch.testing.assert_close(built.reconstruct(u)[1][1], two[1].embed("slowly")[0])
    assert mask.all() and built.explained_variance(1).eq(1).all()
    with pytest.raises(ConfigError, match="the largest is 0 "):
        ActionSpace.build(two, ("run", "jump", "wave slowly"), slots=2, rank=1, model_id="m", tokenizer_hash="t")
    with pytest.raises(DataError, match=r"slot 1 .*slots=1"):
        ActionSpace.build(two, ("run", "jump"), slots=2, model_id="m", tokenizer_hash="t")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"phrases": ("run", "jump", "run")}, DataError, "'run' is given 2 times"),
        ({"phrases": ("run",)}, DataError, "at least 2"),
        ({"phrases": ("run", " run")}, DataError, "same tokens"),
        ({"slots": 0}, ConfigError, "slots is 0"),
        ({"tables": []}, ConfigError, "at least one"),
        ({"rank": 0}, ConfigError, "rank 0"),
    ],
)
def test_impossible_spaces_are_refused(two, change, error, message):
    arguments = {"tables": two, "phrases": VERBS, "slots": 1, "model_id": "m", "tokenizer_hash": "t"} | change
    with pytest.raises(error, match=message):
        ActionSpace.build(**arguments)


# --- use ------------------------------------------------------------------------------------------------------------


def test_projection_undoes_reconstruction_also_in_batches(space):
    u = torch.randn(5, space.slots, space.rank) * (space.sigma > 0)
    blocks = space.reconstruct(u)
    assert [tuple(block.shape) for block in blocks] == [(5, 3, 24), (5, 3, 40)]
    torch.testing.assert_close(space.project(blocks), u, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(space.reconstruct(u[2])[1], blocks[1][2])


def test_reconstruction_is_differentiable(two):
    space = ActionSpace.build(two, PHRASES, rank=4, model_id="tiny@1", tokenizer_hash="abc")
    u = torch.randn(space.slots, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(space.reconstruct, (u,), eps=1e-3, atol=1e-4)


def test_any_text_can_be_projected(space, two):
    with pytest.raises(ConfigError, match="did you mean 'run slowly'"):
        space.project_phrase("run slowli")
    u, mask = space.project_phrase("twirl slowly", two)
    assert mask.tolist() == [True, True, False] and u[0].any() and not u[2].any()
    known, _ = space.project_phrase("wave slowly", two)
    torch.testing.assert_close(u[1], known[1])
    with pytest.raises(ConfigError, match="do not fit"):
        space.project_phrase("twirl", two[:1])


def test_wrong_shapes_are_refused(space):
    with pytest.raises(ConfigError, match=r"needs \(..., 3, "):
        space.reconstruct(torch.zeros(2, space.rank))
    with pytest.raises(ConfigError, match="vectors of 1 encoders"):
        space.project([torch.zeros(3, 24)])
    with pytest.raises(ConfigError, match="vectors of encoder_1"):
        space.project([torch.zeros(3, 24), torch.zeros(3, 41)])


def test_nearest_finds_a_phrase_and_its_kin(space):
    for phrase in PHRASES:
        u, mask = space.project_phrase(phrase)
        best, similarity = space.nearest(u, 1, mask)[0]
        assert best == phrase and similarity == pytest.approx(1, abs=1e-4)
    u, mask = space.project_phrase("wave slowly")
    assert "wave" in [phrase for phrase, _ in space.nearest(u, 3, mask)]
    values = [similarity for _, similarity in space.nearest(u, 100)]
    assert len(values) == len(PHRASES) and values == sorted(values, reverse=True) and values[-1] >= -1
    only_third = space.nearest(u, 100, torch.tensor([False, False, True]))
    assert {phrase for phrase, _ in only_third} == {phrase for phrase in PHRASES if len(phrase.split()) > 2}


def test_similarity_counts_only_shared_slots(space):
    """The cosine of a one-word phrase with a long point, by hand from token vectors."""
    u, _ = space.project_phrase("arms raised above head")
    phrase, similarity = next(pair for pair in space.nearest(u, 100) if pair[0] == "run")
    index = space.phrases.index(phrase)
    a, b = ((torch.cat(space.reconstruct(x), dim=-1) - space.mean)[0] for x in (u, space.phrase_coefficients[index]))
    scale = space.scale[0].repeat_interleave(torch.tensor(space.widths))
    assert similarity == pytest.approx(float(torch.cosine_similarity(a / scale, b / scale, dim=0)), abs=1e-4)


def test_a_space_of_lower_rank_has_the_first_components(space, two):
    small = ActionSpace.build(two, PHRASES, rank=3, model_id="tiny@1", tokenizer_hash="abc")
    assert small.rank == 3 and small.hash != space.hash and space.rank > 3
    assert torch.equal(small.phrase_coefficients, space.phrase_coefficients[:, :, :3])
    assert torch.equal(small.explained_variance(0), space.explained_variance(0)[:3])


def test_explained_variance(space):
    for slot in range(space.slots):
        shares = space.explained_variance(slot)
        assert (shares.diff() >= 0).all() and float(shares[-1]) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ConfigError, match="slot 3"):
        space.explained_variance(3)


def drawn(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


@pytest.mark.slow
def test_plots_show_the_space_headings_and_actions(space):
    headings = dict.fromkeys(PHRASES[:9], "Body")
    action = Action.from_coefficients("leap", space, space.phrase_coefficients[0])
    plain, coloured = drawn(map_png(space)), drawn(map_png(space, headings))
    starred = drawn(map_png(space, headings, {"costs $5": action}))  # a label is no formula
    assert plain.shape == coloured.shape == starred.shape
    assert 0 < (plain != coloured).any(axis=2).mean() < 0.1  # points and legend
    assert 0 < (coloured != starred).any(axis=2).mean() < 0.1  # a star and its label
    assert len(np.unique(drawn(scree_png(space)).reshape(-1, 3), axis=0)) > 3


# --- disk -----------------------------------------------------------------------------------------------------------


def test_saved_space_comes_back_the_same(space, tmp_path):
    path = space.save(tmp_path / "new" / "tiny.space.safetensors")
    loaded = ActionSpace.load(path)
    assert loaded.hash == space.hash
    for name in ("mean", "scale", "basis", "sigma", "variance", "conjunction", "phrase_coefficients", "phrase_mask"):
        assert torch.equal(getattr(loaded, name), getattr(space, name))
    for name in ("encoders", "widths", "phrases", "distinct", "model_id", "tokenizer_hash", "slot_ranks"):
        assert getattr(loaded, name) == getattr(space, name)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # no temporary file is left
    again = space.save(tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_hash_sees_every_tensor(space):
    for name in ("mean", "scale", "basis", "sigma", "variance", "phrase_coefficients"):
        changed = getattr(space, name).clone()
        changed.view(-1)[0] += 1e-3
        assert replace(space, **{name: changed}).hash != space.hash
    assert replace(space, mean=space.mean.clone()).hash == space.hash


def test_saved_mode_honours_the_umask(space, tmp_path):
    old = os.umask(0o027)
    try:
        path = space.save(tmp_path / "a.safetensors")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_failed_write_keeps_the_old_file(space, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(DataError, match=r"cannot write .*folder\.safetensors"):
        space.save(tmp_path / "folder.safetensors")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        space.save(tmp_path / "file" / "a.safetensors")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.safetensors"]


def _foreign(path, space):
    from safetensors.torch import save_file

    save_file({"mean": space.mean}, path)


def _later(path, space):
    content = space.save(path).read_bytes()
    path.write_bytes(content.replace(rb"\"version\": 2", rb"\"version\": 9"))


def _flipped(path, space):
    content = bytearray(space.save(path).read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))


def _relabelled(path, space):
    content = space.save(path).read_bytes()
    path.write_bytes(content.replace(b"tiny@1", b"tiny@2"))


def _cut(path, space):
    content = space.save(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _misfit(path, space):
    replace(space, phrases=space.phrases[:-1]).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, space: None, "does not exist"),
        (lambda path, space: path.write_bytes(b""), "not a safetensors file"),
        (lambda path, space: path.write_bytes(pickle.dumps({"mean": [1.0] * 100})), "not a safetensors file"),
        (lambda path, space: torch.save({"mean": space.mean}, path), "not a safetensors file"),
        (lambda path, space: path.write_text(json.dumps({"mean": [0] * 100})), "not a safetensors file"),
        (_foreign, "another program"),
        (_later, "format version 9.*reads 1 to 2"),
        (_flipped, "corrupt"),
        (_relabelled, "corrupt"),
        (_cut, "cut short"),
        (_misfit, "not a usable action space"),
    ],
)
def test_unusable_files_are_refused_by_name(space, tmp_path, damage, message):
    path = tmp_path / "broken.space.safetensors"
    damage(path, space)
    with pytest.raises(CheckpointError, match=message) as caught:
        ActionSpace.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
