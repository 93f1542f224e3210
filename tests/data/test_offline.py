"""A machine that the hub cannot be reached from is told so at once, in a sentence."""

from __future__ import annotations

import socket

import pytest

from tests import tiny_language as tiny
from trainwright import ConfigError, DataError
from trainwright.config.composition import built
from trainwright.config.reading.read import load_checked
from trainwright.data.sources import reach


@pytest.fixture
def cut_off(monkeypatch):
    """A hub at a port where nobody listens, and the times that it was asked for."""
    from huggingface_hub import constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reach, "_switched_off", False)
    return port


def run(tmp_path, content):
    return built(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)


def test_a_name_that_is_not_here_is_told_and_asked_for_again_when_the_hub_is_back(cut_off, tmp_path, caplog):
    from huggingface_hub import constants

    place = tiny.make_place(tmp_path / "place")
    wrong = tiny.settings(place, "text")
    wrong["model"]["tokenizer_name"] = "library/tokenizer"
    reason = r"it is not on this machine, and 127\.0\.0\.1 cannot be reached \(Connection refused\)"
    with pytest.raises(ConfigError, match=f"tokenizer_name 'library/tokenizer' holds no tokenizer: {reason}"):
        run(tmp_path, wrong)
    wrong = tiny.settings(place, "text")
    wrong["data"]["train"]["datasets"] = [{"dataset_name": "somebody/rows"}]
    with pytest.raises(DataError, match=f"'somebody/rows' cannot be read: {reason}"):
        run(tmp_path, wrong)
    assert caplog.text.count("only what was downloaded before is found") == 1
    assert constants.HF_HUB_OFFLINE  # so that libraries do not try again and again
    with socket.create_server(("127.0.0.1", cut_off)):
        assert not reach.ask_at_once("somebody/rows")
    assert not constants.HF_HUB_OFFLINE


def test_what_is_here_or_goes_through_a_proxy_is_not_asked_for(cut_off, tmp_path, monkeypatch):
    assert not reach.ask_at_once(str(tmp_path))
    assert not reach.ask_at_once("https://example.org/rows.jsonl")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert not reach.ask_at_once("somebody/rows")


def test_check_says_that_a_model_is_not_here(cut_off, tmp_path, capsys):
    from trainwright.cli.main import main

    place = tiny.make_place(tmp_path / "place")
    content = tiny.settings(place, "text")
    content["model"]["model_name"] = "somebody/model"
    assert main(["check", str(tiny.write_yaml(tmp_path / "run.yaml", content))]) == 0
    said = capsys.readouterr().err
    assert "model.model_name 'somebody/model': it is not on this machine, and 127.0.0.1 cannot be reached" in said
