"""Reward models as rewards: the scores of transformers, through the same doors as functions."""

from __future__ import annotations

import json

import pytest
import torch

from tests import tiny_language as tiny
from trainwright.errors import ConfigError
from trainwright.rewards import functions, model
from trainwright.rewards.pool import Pool


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    place = tmp_path_factory.mktemp("judge")
    config = tiny.new_model().config.to_dict() | {"id2label": {0: "score"}, "label2id": {"score": 0}}
    config["initializer_range"] = 0.5
    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    made.save_pretrained(place)
    tiny.new_tokenizer().save_pretrained(place)
    return place


PROMPTS = ["the cat ", "a small red house and ", "it was "]
ANSWERS = ["sat on the mat", "the", "very very happy then"]


def columns():
    return {"prompts": PROMPTS, "completions": ANSWERS, "completion_ids": [[1]] * 3}


def expected(folder):
    """What transformers gives each text alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    judge, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    texts = [prompt + answer + tokenizer.eos_token for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    with torch.no_grad():
        return [float(judge(**tokenizer(text, return_tensors="pt")).logits) for text in texts]


def test_scores_are_those_of_transformers_whatever_company_a_text_has(folder):
    for size in (1, 2, 3):
        found = model.score(PROMPTS, ANSWERS, str(folder), batch_size=size)
        assert found == pytest.approx(expected(folder), abs=1e-5)  # float32, sums in another order


def test_a_model_and_a_function_are_rewards_side_by_side(folder):
    rewards = functions.of_names(["matches", str(folder)], {"matches": {"pattern": "the.*"}}, "cpu")
    assert [(one.name, one.here) for one in rewards] == [("matches", False), (folder.name, True)]
    pool = Pool(rewards, processes=1, timeout=60)
    try:
        (matched, scored), failures = pool.judge(columns())
    finally:
        pool.close()
    assert not failures
    assert matched == [0.0, 1.0, 0.0]
    assert scored == pytest.approx(expected(folder), abs=1e-5)


def test_a_conversation_is_scored_as_its_template_ends_it(folder, tmp_path):
    tokenizer = tiny.new_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer.save_pretrained(tmp_path)
    prompt, answer = [{"role": "user", "content": "the cat"}], [{"role": "assistant", "content": "sat"}]
    found = model.score([prompt], [answer], str(tmp_path))
    ids = tokenizer.apply_chat_template(prompt + answer, return_tensors="pt", return_dict=True)["input_ids"]
    from transformers import AutoModelForSequenceClassification

    with torch.no_grad():
        wanted = float(AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()(ids).logits)
    assert found == pytest.approx([wanted], abs=1e-5)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "holds no config.json"),
        ({"architectures": ["LlamaForCausalLM"]}, "is LlamaForCausalLM with 2 scores"),
        ({"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}}, "3 scores"),
    ],
)
def test_a_folder_that_gives_no_single_score_is_refused(tmp_path, content, told):
    if content is not None:
        (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=told):
        functions.of_names([str(tmp_path)], {})
