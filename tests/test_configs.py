"""Settings: what is refused, in which words, and that they survive JSON."""

import json
import math
from dataclasses import FrozenInstanceError, fields
from importlib import import_module

import pytest

from twinact.configs import METHODS, LearnConfig, MethodConfig, RunConfig, TextualInversionConfig, TwinActConfig
from twinact.errors import ConfigError


def test_dict_round_trip_through_json() -> None:
    method = TwinActConfig(rank=5, similarity_weight=0.25)
    config = LearnConfig(name="twa-leap", method=method, steps=7, learning_rate=0.25)
    assert LearnConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_small_and_frozen() -> None:
    assert all(len(fields(config)) <= 15 for config in (LearnConfig, RunConfig, *METHODS.values()))
    with pytest.raises(FrozenInstanceError):
        LearnConfig(name="leap").steps = 3  # type: ignore[misc]


def test_rate_is_the_methods_own_unless_given() -> None:
    coefficients = LearnConfig(name="leap").rate
    vectors = LearnConfig(name="leap", method=TextualInversionConfig()).rate
    assert coefficients > vectors > 0
    assert LearnConfig(name="leap", learning_rate=1).rate == 1.0


def test_whole_numbers_are_numbers() -> None:
    config = LearnConfig.from_dict({"name": "leap", "prior_weight": 0, "learning_rate": 1})
    assert json.dumps([config.to_dict()["prior_weight"], config.learning_rate]) == "[0.0, 1.0]"


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("name", "Leap", "a-z"),
        ("name", "a", "2 to 28"),
        ("name", "l" * 29, "2 to 28"),
        ("name", "infinity", "number"),
        ("name", "../leap", "a-z"),
        ("name", "leap\n", "a-z"),
        ("name", 7, "a-z"),
        ("method", "twin-act", "did you mean 'twinact'"),
        ("schedule", "linear", "constant, cosine"),
        ("steps", -1, "0 to"),
        ("steps", 2.5, "whole number"),
        ("steps", True, "whole number"),
        ("batch_size", 0, "1 to"),
        ("slots", 8, "1 to 7"),
        ("rank", 0, "1 to"),
        ("seed", -1, "0 to"),
        ("learning_rate", 0.0, r"\(0, 10\]"),
        ("learning_rate", "fast", "number"),
        ("similarity_weight", -0.1, r"\[0,"),
        ("prior_weight", math.nan, "number"),
        ("prior_weight", math.inf, "number"),
        ("noise_bias", 1.0, r"\(-1, 1\)"),
        ("start", " ", "phrase"),
    ],
)
def test_bad_values_are_named(key: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        LearnConfig.from_dict({"name": "leap", key: value})
    assert str(caught.value).startswith(key)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("precision", "fp8", "fp32, bf16, fp16"),
        ("memory", "lo", "did you mean 'low'"),
        ("accumulate", 0, "1 to"),
        ("checkpoint_every", 0, "1 to"),
    ],
)
def test_bad_values_of_a_run_are_named(key: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        RunConfig(**{key: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(key)


def test_unknown_key_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'step'; did you mean 'steps'"):
        LearnConfig.from_dict({"name": "leap", "step": 3})
    with pytest.raises(ConfigError, match="known: name, method"):
        LearnConfig.from_dict({"name": "leap", "zzz": 3})


def test_a_setting_of_another_method_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="'rank' is of method twinact, celeb-basis and not of textual-inversion; leave it out"
    ):
        LearnConfig.from_dict({"name": "leap", "method": "textual-inversion", "rank": 3})


def test_what_depends_on_the_model_is_settled() -> None:
    weights = [(one.pose_weight, one.denoising_weight) for one in map(TwinActConfig().settled, (True, False))]
    assert weights == [(1.0, 0.0), (0.0, 1.0)]
    assert TwinActConfig(denoising_weight=0.3).settled(True).denoising_weight == 0.3
    rates = [LearnConfig(name="leap", method=TwinActConfig().settled(has)).rate for has in (True, False)]
    assert rates == [TwinActConfig.learning_rate, TwinActConfig.denoising_rate]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_every_method_has_a_name_a_title_and_a_way_to_its_code(method: type[MethodConfig]) -> None:
    module, _, name = method.implementation.partition(":")
    implementation = getattr(import_module(module), name)
    assert implementation.name == method.name == LearnConfig(name="leap", method=method()).to_dict()["method"]
    assert method.title and 0 < method.learning_rate < 1
    shared = {one.name for one in fields(LearnConfig)}
    assert not shared & {one.name for one in fields(method)}  # they share one command line


def test_missing_name_is_told() -> None:
    with pytest.raises(ConfigError, match="'name' is missing"):
        LearnConfig.from_dict({"steps": 3})


def test_settings_of_one_name_mean_the_same_in_every_method() -> None:
    facts: dict[str, tuple[object, ...]] = {}
    for method in METHODS.values():
        for one in fields(method):
            own = (one.type, one.metadata["help"], one.metadata["bounds"], one.metadata["choices"])
            assert facts.setdefault(one.name, own) == own, f"{one.name} of {method.name}"
