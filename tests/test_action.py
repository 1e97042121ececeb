"""Actions: moved, combined, explained, and never used where they do not belong."""

from dataclasses import replace

import pytest
import torch

from test_space import PHRASES, tables
from twinact.action import Action
from twinact.backbones.token_lora import TokenLora
from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.export import trigger
from twinact.space import ActionSpace
from twinact.space.stored_action import FORMAT_VERSION
from twinact.storage import read_safetensors, write_safetensors


@pytest.fixture(scope="module")
def space() -> ActionSpace:
    return ActionSpace.build(tables(), PHRASES, rank=8, model_id="tiny@1", tokenizer_hash="abc")


def phrase(space: ActionSpace, text: str, name: str = "leap") -> Action:
    u, mask = space.project_phrase(text)
    return Action.from_coefficients(name, space, u, mask=mask)


def random(space: ActionSpace, seed: int, name: str = "leap") -> Action:
    u = torch.randn(space.slots, space.rank, generator=torch.Generator().manual_seed(seed))
    return Action.from_coefficients(name, space, u, meta={"seed": seed})


def inverted() -> Action:
    return Action("leap", [torch.ones(2, 24), torch.ones(2, 40)], "tiny@1")


def test_vectors_are_the_reconstruction(space):
    action = random(space, 0)
    for vectors, expected in zip(action.vectors, space.reconstruct(action.coefficients[0]), strict=True):
        assert torch.equal(vectors, expected)


def two_clauses(space: ActionSpace, name: str = "leap") -> Action:
    points, masks = zip(*(space.project_phrase(text) for text in ("wave slowly", "kneel slowly")), strict=True)
    return Action.from_coefficients(name, space, torch.stack(points), mask=torch.stack(masks))


def test_clauses_are_joined_by_and(space, tmp_path):
    both = two_clauses(space)
    parts = [phrase(space, text) for text in ("wave slowly", "kneel slowly")]
    for index, vectors in enumerate(both.vectors):
        link = tables()[index].embed("and")
        assert torch.equal(vectors, torch.cat([parts[0].vectors[index], link, parts[1].vectors[index]]))
    loaded = Action.load(both.save(tmp_path / "both.action.safetensors"))
    assert torch.equal(loaded.coefficients, both.coefficients) and torch.equal(loaded.mask, both.mask)
    told = both.explain(space, 4)
    assert told.clauses == ("wave slowly", "kneel slowly") and len(told.phrases) == 4
    moved = both.adjusted(space, (space.slots + 1, 2), 1.5)  # the second slot of the second clause
    assert (moved.coefficients - both.coefficients).nonzero().tolist() == [[1, 1, 2]]
    with pytest.raises(ConfigError, match="slot 2 cannot be adjusted"):
        both.adjusted(space, (2, 0), 1.0)


def test_a_clause_moves_towards_what_is_most_like_it(space):
    both = two_clauses(space)
    moved = both.toward(space, "kneel slowly", 1.0)
    torch.testing.assert_close(moved.coefficients, both.coefficients)  # the second clause is there already
    gained = phrase(space, "wave slowly").toward(space, both, 1.0)
    torch.testing.assert_close(gained.coefficients, both.coefficients)
    turned = two_clauses(space).combined(space, [phrase(space, "kneel slowly")], [1.0, 1.0])
    torch.testing.assert_close(turned.coefficients[0], both.coefficients[0])
    torch.testing.assert_close(turned.coefficients[1], 2 * both.coefficients[1])


def test_files_of_one_clause_from_before_clauses_are_read(space, tmp_path):
    action = phrase(space, "wave slowly")
    path = action.save(tmp_path / "old.action.safetensors")
    tensors, header = read_safetensors(path, "action", FORMAT_VERSION)
    tensors |= {name: tensors[name][0] for name in ("coefficients", "mask")}
    write_safetensors(path, tensors, header)
    assert torch.equal(Action.load(path).coefficients, action.coefficients)


def test_absent_slots_have_no_vectors(space):
    action = phrase(space, "wave slowly")
    assert [tuple(vectors.shape) for vectors in action.vectors] == [(2, 24), (2, 40)]
    assert action.mask.tolist() == [[True, True, False]]


def test_action_is_a_copy_of_what_training_goes_on_changing(space):
    u = torch.nn.Parameter(torch.zeros(space.slots, space.rank))
    action = Action.from_coefficients("leap", space, u)
    with torch.no_grad():
        u += 1
    assert not action.coefficients.any() and not action.coefficients.requires_grad
    assert not any(vectors.requires_grad for vectors in action.vectors)


@pytest.mark.parametrize(
    "name", ["Leap", "l", "2leap", "le ap", "leap\n", "l" * 33, "léap", "", "../leap", "inf", "nan"]
)
def test_bad_names_are_refused(space, name):
    with pytest.raises(ConfigError, match="must be 2 to 32"):
        random(space, 0, name)


def test_new_names_leave_room_for_the_prefix_of_exports_and_old_ones_stay(space, tmp_path):
    old = random(space, 0, "l" * 32)
    old.save(tmp_path / "old.action.safetensors")
    old = Action.load(tmp_path / "old.action.safetensors")
    assert old.adjusted(space, (0, 0), 1.0).name == old.name
    assert len(trigger(old.adjusted(space, (0, 0), 1.0, "l" * 28).name)) == 32
    for make in (
        lambda name: old.adjusted(space, (0, 0), 1.0, name),
        lambda name: old.toward(space, old, 0.0, name),
        lambda name: old.combined(space, [old], name=name),
    ):
        with pytest.raises(ConfigError, match="must be 2 to 28"):
            make("l" * 29)


def test_parts_must_fit(space):
    good = random(space, 0)
    for change in (
        {"vectors": [good.vectors[0], good.vectors[1][:2]]},
        {"vectors": []},
        {"vectors": [vectors[:2] for vectors in good.vectors]},
        {"space_hash": ""},
        {"coefficients": None},
        {"mask": torch.tensor([[True, True, False]])},
    ):
        with pytest.raises(ConfigError, match="leap"):
            replace(good, **change)
    with pytest.raises(DataError, match="not finite"):
        replace(good, coefficients=good.coefficients * float("nan"))


def test_adjusting_moves_one_component(space):
    action = random(space, 0)
    moved = action.adjusted(space, (1, 3), 2.5, name="leap-high")
    change = moved.coefficients - action.coefficients
    assert change[0, 1, 3] == pytest.approx(2.5) and int((change != 0).sum()) == 1
    assert torch.equal(moved.vectors[0], space.reconstruct(moved.coefficients[0])[0])
    assert not torch.equal(moved.vectors[0][1], action.vectors[0][1])
    assert moved.name == "leap-high" and moved.meta["seed"] == 0 and moved.meta["history"][0]["from"] == "leap"
    assert action.meta == {"seed": 0}
    for component in ((3, 0), (0, 8), (0, -1), (-1, 0)):
        with pytest.raises(ConfigError, match="slot"):
            action.adjusted(space, component, 1.0)
    with pytest.raises(ConfigError, match="slot 2 cannot be adjusted"):
        phrase(space, "wave slowly").adjusted(space, (2, 0), 1.0)


def test_moving_toward_a_target(space):
    start, goal = random(space, 0), random(space, 1)
    assert torch.equal(start.toward(space, goal, 0.0).coefficients, start.coefficients)
    torch.testing.assert_close(start.toward(space, goal, 1.0).coefficients, goal.coefficients)
    half = start.toward(space, goal.coefficients, 0.5).coefficients
    torch.testing.assert_close(half, (start.coefficients + goal.coefficients) / 2)
    beyond = start.toward(space, goal, 1.5).coefficients - goal.coefficients
    torch.testing.assert_close(beyond, (goal.coefficients - start.coefficients) / 2)
    with pytest.raises(ConfigError, match="did you mean"):
        start.toward(space, "wave slowlyy", 0.5)
    with pytest.raises(ConfigError, match="target has shape"):
        start.toward(space, torch.zeros(2, 8), 0.5)


def test_moving_toward_a_phrase_leaves_slots_that_it_lacks(space):
    start = random(space, 0)
    at = start.toward(space, "wave slowly", 1.0)
    u, _ = space.project_phrase("wave slowly")
    torch.testing.assert_close(at.coefficients[0, :2], u[:2])
    assert torch.equal(at.coefficients[0, 2], start.coefficients[0, 2]) and at.mask is None
    gained = phrase(space, "wave").toward(space, "arms raised above head", 0.5)
    long, _ = space.project_phrase("arms raised above head")
    assert gained.mask is None and torch.equal(gained.coefficients[0, 1:], long[1:])


def test_combining_keeps_the_norm(space):
    first, second = random(space, 0), random(space, 1)
    both = first.combined(space, [second])
    length = torch.stack([first.coefficients, second.coefficients]).square().sum(-1).mean(0).sqrt()
    torch.testing.assert_close(both.coefficients.norm(dim=-1), length)
    direction = torch.nn.functional.cosine_similarity(
        both.coefficients, first.coefficients + second.coefficients, dim=-1
    )
    torch.testing.assert_close(direction, torch.ones(1, 3))
    torch.testing.assert_close(first.combined(space, [first, first]).coefficients, first.coefficients)


def test_combining_opposites_is_the_mean_action(space):
    first = random(space, 0)
    opposite = Action.from_coefficients("back", space, -first.coefficients * 0.999)
    assert first.combined(space, [opposite]).coefficients.norm() < 0.01 * first.coefficients.norm()


def test_weights_are_used_as_given(space):
    first, second = random(space, 0), random(space, 1)
    weighted = first.combined(space, [second], [1.0, -0.5])
    torch.testing.assert_close(weighted.coefficients, first.coefficients - 0.5 * second.coefficients)
    assert weighted.meta["history"][-1]["weights"] == [1.0, -0.5]
    for others, weights, told in (
        ([second], [1.0], "1 weights for 2 actions"),
        ([], None, "2 or more"),
        ([second], [1.0, float("nan")], "must be a number in"),
    ):
        with pytest.raises(ConfigError, match=told):
            first.combined(space, others, weights)


def test_combining_takes_a_slot_from_those_that_have_it(space):
    short, long = phrase(space, "wave"), random(space, 1)
    both = short.combined(space, [long])
    torch.testing.assert_close(both.coefficients[0, 1:], long.coefficients[0, 1:])
    assert both.mask is None


def test_lora_travels_but_is_not_combined(space, tmp_path):
    action = replace(random(space, 0), lora={"unet.to_q.lora_A.weight": torch.ones(2, 3)})
    assert action.adjusted(space, (0, 0), 1.0).lora.keys() == action.lora.keys()
    loaded = Action.load(action.save(tmp_path / "a.action.safetensors"))
    assert torch.equal(loaded.lora["unet.to_q.lora_A.weight"], torch.ones(2, 3))
    with pytest.raises(ConfigError, match="carries a LoRA"):
        random(space, 1).combined(space, [action])


def test_a_lora_for_its_own_tokens_stays_one(space, tmp_path):
    weights = {"unet.to_k.lora_A.weight": torch.ones(2, 3)}
    action = replace(random(space, 0), lora=TokenLora(weights))
    assert isinstance(action.adjusted(space, (0, 0), 1.0).lora, TokenLora)
    path = action.save(tmp_path / "a.action.safetensors")
    loaded = Action.load(path)
    assert isinstance(loaded.lora, TokenLora) and torch.equal(
        *(one.lora[next(iter(weights))] for one in (action, loaded))
    )
    tensors, header = read_safetensors(path, "action", 2)
    write_safetensors(path, {**tensors, "lora.unet.to_k.lora_A.weight": torch.ones(2, 3)}, header)
    with pytest.raises(CheckpointError, match="it holds two LoRAs"):
        Action.load(path)


def test_vectors_for_layers_and_times_are_kept(space, tmp_path):
    for leading in ((7,), (16, 7)):
        action = Action("leap", [torch.randn(*leading, 2, 32), torch.randn(*leading, 2, 40)], "tiny@1")
        loaded = Action.load(action.save(tmp_path / "a.action.safetensors"))
        assert all(map(torch.equal, loaded.vectors, action.vectors))
        assert loaded.by_layer and loaded.slots == 2 and not random(space, 0).by_layer
    for shapes in (((7, 2, 32), (2, 40)), ((7, 2, 32), (6, 2, 40)), ((2, 16, 7, 2, 32),), ((7, 0, 32),)):
        with pytest.raises(ConfigError, match="vectors of action 'leap' have shapes"):
            Action("leap", [torch.zeros(shape) for shape in shapes], "tiny@1")
    with pytest.raises(ConfigError, match="vectors of action 'leap' have shapes"):
        replace(random(space, 0), name="leap", vectors=[own[None] for own in random(space, 0).vectors])


def test_explaining_names_phrase_component_and_distance(space):
    u, mask = space.project_phrase("kneel slowly")
    u = u.clone()
    u[1, 6] = 9.0
    told = Action.from_coefficients("leap", space, u, mask=mask).explain(space, 4)
    assert told.components[0] == (1, 6, 9.0) and len(told.components) == 4
    assert all(slot < 2 for slot, _, _ in told.components)
    assert sum(share for *_, share in told.phrases) == pytest.approx(1)
    assert told.norm > told.largest_phrase_norm >= 1
    plain = phrase(space, "kneel slowly").explain(space)
    assert plain.phrases[0][0] == "kneel slowly" and plain.norm <= plain.largest_phrase_norm + 1e-6
    assert told.beyond is not None and told.beyond > 1.5 and plain.beyond is None
    # A point a hundredth beyond the furthest phrase is not told as outside of the phrases: rounded, both are alike.
    assert replace(told, norm=told.largest_phrase_norm * 1.01).beyond is None
    nothing = Action.from_coefficients("rest", space, torch.zeros(3, 8)).explain(space)
    assert nothing.norm == 0 and all(share == 0 for *_, share in nothing.phrases)


def test_without_coefficients_nothing_can_be_moved(space, tmp_path):
    plain = Action.load(inverted().save(tmp_path / "ti.action.safetensors"))
    assert plain.coefficients is None and plain.space_hash == "" and tuple(plain.vectors[1].shape) == (2, 40)
    plain.check(space_hash=space.hash, model_id="tiny@1")
    plain.check(model_id="renamed@1")
    for use in (
        lambda: plain.adjusted(space, (0, 0), 1.0),
        lambda: plain.toward(space, "run", 0.5),
        lambda: plain.combined(space, [random(space, 0)]),
        lambda: random(space, 0).combined(space, [plain]),
        lambda: plain.explain(space),
    ):
        with pytest.raises(ConfigError, match="textual inversion"):
            use()


def test_saved_action_comes_back_the_same(space, tmp_path):
    meta = {"captions": ["a robot <act> in a park"], "config": {"steps": 3, "rate": 1e-3}, "seed": 7}
    u, mask = space.project_phrase("wave slowly")
    for action in (
        Action.from_coefficients("leap", space, u, mask=mask, meta=meta),
        replace(random(space, 3), meta=meta),
    ):
        loaded = Action.load(action.save(tmp_path / "leap.action.safetensors"))
        assert torch.equal(loaded.coefficients, action.coefficients)
        assert all(torch.equal(a, b) for a, b in zip(loaded.vectors, action.vectors, strict=True))
        for name in ("name", "model_id", "space_hash", "meta"):
            assert getattr(loaded, name) == getattr(action, name)
        assert (loaded.mask is None) == (action.mask is None)
        loaded.check(space_hash=space.hash, model_id=space.model_id)


def test_wrong_space_or_model_is_refused_with_both_names(space):
    action = random(space, 0)
    other = ActionSpace.build(tables(), PHRASES, rank=4, model_id="tiny@1", tokenizer_hash="abc")
    with pytest.raises(CheckpointError) as caught:
        action.check(space_hash=other.hash)
    assert space.hash[:12] in str(caught.value) and other.hash[:12] in str(caught.value)
    with pytest.raises(CheckpointError, match="'tiny@1', this is model 'nano@2'"):
        action.check(model_id="nano@2")
    for use in (
        lambda: action.adjusted(other, (0, 0), 1.0),
        lambda: action.toward(space, Action.from_coefficients("far", other, torch.zeros(3, 4)), 0.5),
        lambda: action.combined(other, [action]),
    ):
        with pytest.raises(CheckpointError, match="was made in space"):
            use()
    with pytest.raises(CheckpointError, match="was made for model"):
        action.explain(replace(space, model_id="nano@2"))


def test_unusable_files_are_refused(space, tmp_path):
    path = tmp_path / "a.safetensors"
    space.save(path)
    with pytest.raises(CheckpointError, match="'space' file, expected 'action'"):
        Action.load(path)
    with pytest.raises(CheckpointError, match="'action' file, expected 'space'"):
        ActionSpace.load(random(space, 0).save(path))
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with pytest.raises(CheckpointError, match="cut short"):
        Action.load(path)


@pytest.mark.parametrize(
    "meta", [{"loss": float("nan")}, {"by_step": {1: "x"}}, {"path": object()}], ids=["nan", "key", "object"]
)
def test_meta_must_be_strict_json(space, tmp_path, meta):
    with pytest.raises(CheckpointError, match="strict JSON"):
        replace(random(space, 0), meta=meta).save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
