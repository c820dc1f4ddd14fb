"""Settings from files and command lines: precedence and refusals."""

import dataclasses
import inspect
from dataclasses import dataclass

import pytest
import yaml

from cvlib.engine import TrainConfig, config_for
from cvlib.engine.config import load_config, parse_command_line, save_config


@dataclass(frozen=True)
class Arguments(TrainConfig):
    """Settings and an option of a script."""

    data: str = "bananas"
    """Where images are."""


def parse(*arguments, **options):
    return parse_command_line(Arguments, description="", arguments=arguments, **options)


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_saved_settings_are_read_again(tmp_path):
    config = TrainConfig(epochs=7, milestones=(0.2, 0.9), ema=0.99, optimizer="sgd", patience=2)
    save_config(tmp_path / "run.yaml", config)
    assert load_config(tmp_path / "run.yaml", TrainConfig()) == config
    assert yaml.safe_load((tmp_path / "run.yaml").read_text()) == config.as_dict()


def test_a_file_overrides_defaults_and_the_command_line_overrides_the_file(tmp_path):
    path = write(tmp_path, "epochs: 7\nlearning_rate: 1\n")
    config = parse("--seed", "3", "--config", str(path), "--epochs", "9", "--data", "here")
    assert (config.epochs, config.learning_rate, config.seed, config.data) == (9, 1.0, 3, "here")
    assert parse(f"--config={path}").epochs == 7
    assert parse().epochs is None


def test_defaults_may_come_from_elsewhere(tmp_path):
    path = write(tmp_path, "epochs: 7\n")
    config = parse("--config", str(path), base=lambda: Arguments(batch_size=2, epochs=1))
    assert (config.epochs, config.batch_size) == (7, 2)


def test_an_empty_file_changes_nothing(tmp_path):
    assert load_config(write(tmp_path, "# nothing\n"), TrainConfig()) == TrainConfig()


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("epoch: 3", ValueError, r"names of settings, got 'epoch'; did you mean 'epochs'\?"),
        ("learning_rat: 3", ValueError, r"got 'learning_rat'; did you mean 'learning_rate'\?"),
        ("zzz: 3", ValueError, "got 'zzz'; settings: images, epochs"),
        ("data: here", ValueError, "got 'data'"),
        ("epochs: many", TypeError, "expected `epochs` to be an integer, got 'many' of type str"),
        ("epochs: 1.5", TypeError, "expected `epochs` to be an integer, got 1.5 of type float"),
        ("epochs: true", TypeError, "expected `epochs` to be an integer, got True of type bool"),
        ("compile: 1", TypeError, "expected `compile` to be true or false, got 1 of type int"),
        ("learning_rate: yes", TypeError, "`learning_rate` to be a number, got True of type bool"),
        ("recipe: 3", TypeError, "expected `recipe` to be a string, got 3 of type int"),
        ("milestones: 0.5", TypeError, "expected `milestones` to be a list of numbers, got 0.5"),
        ("milestones: [a]", TypeError, "expected `milestones` to be a number, got 'a'"),
        ("seed: null", TypeError, "expected `seed` to be an integer, got None of type NoneType"),
        ("batch_size: 0", ValueError, "expected `batch_size` to be at least 1, got 0"),
        ("optimizer: adam", ValueError, "`optimizer` to be one of muon, adamw, sgd, got 'adam'"),
        ("[1, 2]", ValueError, "expected settings as name: value in .*, got list"),
        ("a: b: c", ValueError, "expected YAML in"),
    ],
)
def test_wrong_files_are_explained(tmp_path, text, error, message):
    path = write(tmp_path, text)
    with pytest.raises(error, match=message) as caught:
        load_config(path, Arguments())
    assert "run.yaml" in str(caught.value)


def test_code_in_a_file_is_not_run(tmp_path):
    path = write(tmp_path, f"recipe: !!python/object/apply:os.mkdir ['{tmp_path / 'harm'}']")
    with pytest.raises(ValueError, match="expected YAML"):
        load_config(path, TrainConfig())
    assert not (tmp_path / "harm").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"an existing YAML file, got .*none\.yaml"):
        load_config(tmp_path / "none.yaml", TrainConfig())
    with pytest.raises(ValueError, match="--config: expected a YAML file, got nothing"):
        parse("--config")


def test_an_unknown_option_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit):
        parse("--learning-rat", "1")
    assert "--learning-rate" in capsys.readouterr().err


def test_defaults_by_model():
    fine_tuning = config_for("mobilenet_v2")
    assert fine_tuning.head_factor == 10 and fine_tuning.freeze_norm
    assert config_for("tiny_ssd") == TrainConfig()
    assert config_for("resnet50", head_factor=1).head_factor == 1
    with pytest.raises(ValueError, match=r"to be a name from list_models\(\), got 'tiny'"):
        config_for("tiny")
    with pytest.raises(ValueError, match=r"config_for: .*'epoch'; did you mean 'epochs'"):
        config_for("tiny_ssd", epoch=3)


def test_every_setting_is_explained():
    text = inspect.getsource(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        after = text.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1]
        assert after.lstrip().startswith('"""'), field.name
