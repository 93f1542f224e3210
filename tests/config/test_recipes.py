"""Recipes with what people's files hold, on rows with the real columns of the datasets that they name: each is checked
and trains two steps, as it is and with TRL's trainers where they can."""

from __future__ import annotations

import logging
import math
import random
from pathlib import Path

import pytest
import torch
import yaml

from tests import tiny_language as tiny
from tests.installed import with_trl
from trainwright import ConfigError
from trainwright.cli.main import main
from trainwright.config import methods
from trainwright.config.composition import built
from trainwright.config.reading.read import load_checked

FILES = {path.stem: path for path in sorted((Path(__file__).parent / "recipes" / "run").glob("*.yaml"))}
NEEDS_TRL = [name for name, path in FILES.items() if "trainer_type: TRL" in path.read_text()]


def rows(rng):
    """A row with the real columns of every dataset."""
    ask, answer, other = (tiny.sentence(rng, 3, 9) for _ in range(3))
    chat = [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    worse = [chat[0], {"role": "assistant", "content": other}]
    some = answer.split()
    return {
        "alpaca": {"instruction": ask, "input": rng.choice(["", other]), "output": answer},
        "aya": {"inputs": ask, "targets": answer, "language": "English", "annotation_type": "original-annotations"},
        "dolly": {
            "category": "qa", "new-instruction": field(ask), "new-context": field(""), "new-response": field(answer),
            "original-instruction": ask, "original-context": "", "original-response": other,
        },
        "sharegpt": {"conversations": [{"from": "human", "value": ask}, {"from": "gpt", "value": answer}], "id": "x"},
        "chat": {"prompt_id": "7", "messages": chat + worse},
        "chatqa": {"document": other, "messages": chat[:1], "answers": [answer]},
        "problems": {"problem": ask, "solution": answer},
        "turns": {"turns": chat + worse},
        "pairs": {"source": "x", "prompt": ask, "chosen": chat, "rejected": worse},
        "feedback": {
            "prompt": ask, "prompt_id": "7", "chosen": chat, "rejected": worse, "messages": chat, "score_chosen": 8.0,
            "score_rejected": 3.0,
        },
        "hh": {"chosen": dialogue(ask, answer), "rejected": dialogue(ask, other)},
        "preferences": {"prompt": chat[:1], "chosen": chat[1:], "rejected": worse[1:]},
        "texts": {"text": f"{ask} {answer} {other}", "url": "https://example.org", "timestamp": "2019"},
        "web": {"content": f"{ask} {answer}", "url": "https://example.org"},
        "judged": {"prompt": chat[:1], "completion": chat[1:], "label": rng.random() < 0.5},
        "completions": {"prompt": f"{ask} ", "completion": answer},
        "reviews": {"review": answer, "stars": rng.randrange(2)},
        "words": {"id": "1", "tokens": some, "ner_tags": [len(one) % 3 for one in some]},
        "articles": {"article": f"{ask} {other}", "highlights": answer, "id": "1"},
    }  # fmt: skip


def dialogue(ask, answer):
    """A conversation as HH's texts have it."""
    return f"\n\nHuman: {ask}\n\nAssistant: {answer}"


def field(text):
    """A field of Argilla's."""
    return {"user_id": [None], "value": [text], "status": ["submitted"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

    logging.getLogger("trl").setLevel(logging.ERROR)
    place, rng = tmp_path_factory.mktemp("recipes"), random.Random(5)
    made = [rows(rng) for _ in range(16)]
    for name in made[0]:
        tiny.write_rows(place / f"{name}.jsonl", [one[name] for one in made])
    tiny.new_model().save_pretrained(place / "llama")
    tiny.new_model(hidden_size=48).save_pretrained(place / "teacher")
    sizes = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes, intermediate_size=32)).save_pretrained(place / "bert")
    small = {"vocab_size": 320, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**small, decoder_start_token_id=1)).save_pretrained(place / "t5")
    for name in ("llama", "bert", "t5"):
        tiny.new_tokenizer().save_pretrained(place / name)
    return place


def trained(path, folder, *more):
    """The trainer of a recipe after two steps."""
    trial = ["training.max_steps=2", "training.use_cpu=true", "training.save_final_model=false"]
    holder = built(load_checked(path, [*trial, f"training.output_dir={folder}", *more]).config)
    holder.train()
    return holder.trainer


BY_TRL = [with_trl, pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(one, marks=BY_TRL) if one in NEEDS_TRL else one for one in FILES])
def test_a_recipe_is_checked_and_trains_two_steps(place, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(place)
    assert main(["check", str(FILES[name]), "training.max_steps=2"]) == 0, capsys.readouterr().err
    trainer = trained(FILES[name], tmp_path / "run")
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    assert (trainer.state.global_step, len(losses)) == (2, 2)
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("name", ["28_classify", "30_seq2seq"])
def test_the_memory_of_other_models_is_not_estimated(place, monkeypatch, capsys, name):
    monkeypatch.chdir(place)
    assert main(["check", str(FILES[name]), "--memory"]) == 2
    assert "is not estimated; leave out --memory" in capsys.readouterr().err


def test_there_is_a_recipe_for_every_trainer():
    named = {yaml.safe_load(path.read_text())["training"].get("trainer_type") for path in FILES.values()}
    assert named == {*methods.METHODS, "OUMI", None}
    assert len(FILES) == 40


PAIRS = ("13_orpo_dpo", "14_ultrafeedback_trl", "15_hh", "16_dpo_lora", "17_debug_dpo")
CANNOT = {  # what TRL's trainer cannot, and what is said
    "10_messages_column": "TRL learns all of the assistant's turns",
    "18_c4_stream": "streams of texts are read by our own trainers only",
    "06_ultrachat_completions": "The chat template is not training-compatible",
    "11_text_sft_jsonl": "The chat template is not training-compatible",
    "28_classify": "it is a setting of classification",
    "29_classify_words": "lora_task_type TOKEN_CLS is not supported",
    "30_seq2seq": "it is a setting of sequence-to-sequence training",
    "31_kto": "it is a setting of Kahneman-Tversky optimisation",
    "32_reward": "it is a setting of reward modelling",
    "33_distill": "it is a setting of distillation",
    "34_kto_trl": "it is a setting of Kahneman-Tversky optimisation",
    "35_reward_trl": "it is a setting of reward modelling",
    "36_gkd_trl": "training.gkd: it is of trainer_type TRL_GKD",
    "37_gold_trl": "training.gold: it is of trainer_type TRL_GOLD",
    "40_grpo": "it is a setting of reinforcement learning",
    "41_rloo": "it is a setting of reinforcement learning",
    "42_grpo_trl": "it is of trainer_type TRL_GRPO",
}  # fmt: skip
QUICK = ("13_orpo_dpo", *CANNOT)


@with_trl
@pytest.mark.parametrize("name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in FILES])
def test_the_same_recipe_trains_with_trl_where_it_can(place, tmp_path, monkeypatch, name):
    monkeypatch.chdir(place)
    kind = f"training.trainer_type={'TRL_DPO' if name in PAIRS else 'TRL_SFT'}"
    if name in CANNOT:
        with pytest.raises(ConfigError, match=CANNOT[name]):
            trained(FILES[name], tmp_path / "run", kind)
        return
    trainer = trained(FILES[name], tmp_path / "run", kind)
    assert trainer.state.global_step == 2
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))
