"""Values of a run's file as YAML and OmegaConf read them: merged keys, variables of the environment."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainwright import ConfigError
from trainwright.config.reading.read import load
from trainwright.config.reading.tree import apply, parse, plain

HEAD = "model: {model_name: x}\ndata: {train: {datasets: [{dataset_name: r.jsonl}]}}\n"


@pytest.mark.parametrize(
    "text",
    [
        "base: &b {x: 1, y: 2}\nrun:\n  <<: *b\n  x: 3\n",
        "base: &b {x: 1, y: 2}\nrun:\n  x: 3\n  <<: *b\n",
        "a: &a {x: 1, y: 2}\nb: &b {x: 5, z: 6}\nrun: {<<: [*a, *b], z: 7}\n",
        "a: &a {x: 1}\nb: &b\n  <<: *a\n  x: 2\nc: *b\nd: {<<: *b, x: 3}\ne: [*b, *b]\n",
        "a: &a {x: {y: 1, z: 2}}\nb: {<<: *a, x: {y: 3}}\n",
    ],
)
def test_merged_keys_are_those_of_pyyaml(text):
    assert plain(parse(text, "run.yaml")) == yaml.safe_load(text)


def test_a_key_that_a_mapping_itself_gives_twice_is_a_mistake_all_the_same():
    with pytest.raises(ConfigError, match=r"run.yaml:4: not valid YAML: the key 'x' is given twice"):
        parse("a: &a {x: 1}\nb:\n  x: 2\n  x: 3\n  <<: *a\n", "run.yaml")


@dataclass
class Typed:
    seed: int = 0
    learning_rate: float = 0.0
    use_peft: bool = False
    run_name: str = ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "text"),
    [("seed", "7"), ("seed", "-7"), ("learning_rate", "1e-4"), ("learning_rate", "1"), ("use_peft", "true"),
     ("use_peft", "False"), ("use_peft", "1"), ("use_peft", "no"), ("run_name", "0010"), ("run_name", "true"),
     ("seed", "7.5"), ("seed", "many"), ("seed", ""), ("learning_rate", "fast"), ("use_peft", "perhaps")],
)  # fmt: skip
def test_a_variable_of_the_environment_is_what_omegaconfs_typed_nodes_make_of_it(tmp_path, monkeypatch, key, text):
    monkeypatch.setenv("OF_RUN", text)
    (tmp_path / "run.yaml").write_text(f"{HEAD}training:\n  {key}: ${{oc.env:OF_RUN}}\n")
    typed = OmegaConf.merge(OmegaConf.structured(Typed), {key: "${oc.env:OF_RUN}"})
    try:
        expected = OmegaConf.to_object(typed)
    except OmegaConfBaseException:
        with pytest.raises(ConfigError, match=rf"training.{key}: '{text}' is a text, but .* is expected"):
            load(tmp_path / "run.yaml")
        return
    found = getattr(load(tmp_path / "run.yaml").config.training, key)
    assert (found, type(found)) == (getattr(expected, key), type(getattr(expected, key)))


def test_a_value_of_the_command_line_has_no_comment(tmp_path):
    (tmp_path / "run.yaml").write_text(HEAD)
    found = load(tmp_path / "run.yaml", ["training.run_name=exp #3", "training.seed= 4 "]).config.training
    assert (found.run_name, found.seed) == ("exp #3", 4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: \x00", "run.yaml:2: not valid YAML: the character U+0000 is not allowed."),
        ("a:\n  b: !!bool x", "run.yaml:2: not valid YAML: 'x' is no bool"),
        (
            "a:\n  x: 1\n  b:1e-4\n",
            "run.yaml:3: not valid YAML: a key is followed by a colon and a blank, as in key: value",
        ),
        ("a: !!timestamp x", "run.yaml:1: not valid YAML: 'x' is no timestamp"),
        ("a: !!int ''", "run.yaml:1: not valid YAML: '' is no int"),
    ],
)
def test_characters_and_tags_that_yaml_refuses_are_told_with_their_line(text, told):
    with pytest.raises(ConfigError) as error:
        parse(text, "run.yaml")
    assert str(error.value).splitlines()[0] == told


def test_a_digit_that_is_no_number_is_no_item_of_a_list():
    with pytest.raises(ConfigError, match="there is no item '²'"):
        apply(parse("a: [1]", "run.yaml"), ["a.²=1"])
