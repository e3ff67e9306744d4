"""What a user may choose, and how a wrong choice is told."""

import dataclasses

import pytest

from calib.config import Config, ConfigError


def test_defaults_survive_a_round_trip():
    config = Config()
    assert Config.from_mapping(config.resolved()) == config
    assert {f.name for f in dataclasses.fields(Config)} == set(config.resolved())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("method", "magic", "auto, learned, robust, wls"),
        ("zeropoint_per", "ccd", "exposure, detector"),
        ("surface", "cubic", "auto, off, plane, quadratic"),
        ("seeing_response", True, "auto, on, off"),
        ("extinction", "no", "auto, on, off"),
        ("score", 1, "true or false"),
        ("adapt", "no", "true or false"),
        ("fine_tune", 1, "true or false"),
        ("max_passes", 0, "whole number"),
        ("max_passes", 2.5, "whole number"),
        ("max_passes", True, "whole number"),
        ("seed", -1, "whole number"),
        ("workers", -1, "whole number, not negative"),
        ("workers", 1.5, "whole number"),
        ("workers", "all", "whole number"),
        ("workers", True, "whole number"),
        ("tolerance", 0.0, "between 0 and 1"),
        ("tolerance", "small", "between 0 and 1"),
        ("seed", 2**63, "at most 9223372036854775807"),
        ("columns", {"mag": 3}, "names to names"),
        ("columns", "mag=m", "names to names"),
        ("columns", ["mag", "m"], "names to names"),
    ],
)
def test_wrong_values_are_named(key, value, said):
    with pytest.raises(ConfigError, match=said) as told:
        Config(**{key: value})
    assert key in str(told.value)
    assert "\n" not in str(told.value)


def test_seed_zero_is_a_seed():
    assert Config(seed=0).seed == 0


def test_toml(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('method = "robust"\nscore = false\ntolerance = 0.1\n[columns]\nmag = "MAG_AUTO"\n')
    config = Config.from_toml(path)
    assert config == Config(method="robust", score=False, tolerance=0.1, columns={"mag": "MAG_AUTO"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods = 'robust'", "unknown key methods; known are"),
        ("method = 'x'", "method is 'x'"),
        ("method = ", "is not TOML"),
        ("method = '\xff'", "is not TOML"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, said):
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=said) as told:
        Config.from_toml(path)
    assert str(path) in str(told.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.from_toml(tmp_path / "none.toml")


def test_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().method = "wls"


def test_workers_do_not_make_another_answer():
    config = Config(method="robust", workers=3)
    assert config.answers_as(Config(method="robust", workers=1).resolved())
    assert not config.answers_as(Config(method="wls", workers=3).resolved())
    before = Config(method="robust").resolved()
    del before["workers"]
    assert config.answers_as(before)
    del before["seed"]
    assert not config.answers_as(before)
    assert not config.answers_as(config.resolved() | {"unheard": 1})
