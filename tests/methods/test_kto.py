"""KTO: the numbers of TRL 1.16 where TRL is right, and those of the formula where it is not."""

from __future__ import annotations

import logging

import pytest
import torch

from tests import installed
from tests import tiny_language as tiny
from tests.methods.beside_trl import ARGUMENTS, compare, content_of, logs, trained, weights
from trainwright import ConfigError, DataError
from trainwright.cli.main import main
from trainwright.config.keys import uses
from trainwright.config.reading.read import load_checked
from trainwright.data.text.tokenize import shared_length
from trainwright.data.text.unpaired import UnpairedBatch
from trainwright.tasks.language.text import load_text
from trainwright.world import World

NAMES = [
    "loss", "grad_norm", "kl", "entropy", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen",
    "logps/rejected", "logits/chosen", "logits/rejected",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    logging.getLogger("trl").setLevel(logging.ERROR)
    return tiny.make_place(tmp_path_factory.mktemp("kto"))


def ours(place, tmp_path, data="judged", kwargs=None, model=None, **training):
    content = content_of("KTO", place, tmp_path, data, kwargs or {}, model, **training)
    if (held_out := content["training"].pop("held_out", None)) is not None:
        content["data"]["validation"] = {"datasets": [{"dataset_name": str(held_out)}]}
    return trained(tmp_path, content)


def theirs(place, tmp_path, rows, kwargs=None, template=None, **more):
    import datasets
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    tokenizer.chat_template = template
    arguments = {**ARGUMENTS, "per_device_train_batch_size": 4, **more, **(kwargs or {})}
    made = trl.KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(place / "model"),
        args=trl.KTOConfig(str(tmp_path / "theirs"), **arguments),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    made.train()
    return made


# (data, settings of ours and TRL's, arguments of both)
ALIKE = {
    "kto": ("judged", {}, {}),
    "apo_zero_unpaired": ("judged", {"loss_type": "apo_zero_unpaired"}, {}),
    "weights and beta": ("judged", {"desirable_weight": 1.5, "undesirable_weight": 0.5, "beta": 0.2}, {}),
    "cut at 16": ("judged", {"max_length": 16}, {}),
    "a synced reference": ("judged", {"sync_ref_model": True, "ref_model_sync_steps": 2}, {}),
    "pairs": ("preference", {}, {}),
    "conversations": ("chat_preference", {}, {}),
    "accumulation": ("judged", {}, {"gradient_accumulation_steps": 2}),
}


@installed.with_trl
@pytest.mark.slow
@pytest.mark.parametrize("name", ALIKE)
def test_it_is_trls_where_that_is_asked_for(place, tmp_path, name):
    from trainwright.data.text.chat import NAMED_TEMPLATES

    data, kwargs, more = ALIKE[name]
    template = NAMED_TEMPLATES["chatml"] if data.startswith("chat") else None
    reference = theirs(place, tmp_path, tiny.rows_of(data), kwargs, template, **more)
    mine = ours(
        place, tmp_path, data, {**kwargs, "trl_compatible": True}, {"chat_template": template},
        train_sampling_strategy="sequential", **more,
    )  # fmt: skip
    names = [name for name in NAMES if not more or not name.startswith(("logits", "logps", "rewards", "entropy"))]
    compare(mine, reference, names)


@installed.with_trl
@pytest.mark.slow
def test_evaluation_is_trls_where_that_is_asked_for(place, tmp_path):
    import datasets

    held_out = tiny.rows_of("judged", 12, seed=7)
    reference = theirs(place, tmp_path, tiny.rows_of("judged"), per_device_eval_batch_size=12)
    expected = reference.evaluate(datasets.Dataset.from_list(held_out))
    mine = ours(
        place, tmp_path, kwargs={"trl_compatible": True}, train_sampling_strategy="sequential",
        held_out=tiny.write_rows(tmp_path / "held_out.jsonl", held_out), per_device_eval_batch_size=12,
    ).evaluate()  # fmt: skip
    for name in ("loss", *NAMES[2:]):
        assert mine[f"eval_{name}"] == pytest.approx(expected[f"eval_{name}"], rel=1e-4, abs=1e-4), name


def exact(place, tmp_path, data="judged", kwargs=None, **training):
    """A run in float64 with random weights."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = {
        "model_name": "llama", "load_pretrained_weights": False, "tokenizer_name": str(place / "model"),
        "torch_dtype_str": "float64", "model_kwargs": sizes,
    }  # fmt: skip
    return ours(place, tmp_path, data, kwargs, model, learning_rate=1e-3, **training)


SPLIT = {"kto": ("judged", {}), "apo_zero_unpaired": ("judged", {"loss_type": "apo_zero_unpaired"}), "pairs": (
    "preference", {"desirable_weight": 1.3})}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLIT)
def test_a_step_is_the_same_however_it_is_cut(place, tmp_path, name):
    data, kwargs = SPLIT[name]
    whole = exact(place, tmp_path, data, kwargs, per_device_train_batch_size=4)
    for size in (1, 2):
        more = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size}
        cut = exact(place, tmp_path, data, kwargs, **more)
        assert (weights(cut) - weights(whole)).abs().max() < 1e-9  # only the order of additions differs
        for one, other in zip(logs(cut), logs(whole), strict=True):
            for key in set(NAMES) - {"rewards/margins"}:  # of those micro-batches that have both kinds
                assert (key in one) == (key in other), key
                assert one.get(key, 0) == pytest.approx(other.get(key, 0), rel=1e-6, abs=1e-6), key


def by_the_formula(model, reference, rows, beta, tokenizer):
    """The loss of a step in float64, every row alone, each prompt with the completion of the row before it."""

    def log_prob(judge, prompt, completion):
        ids = torch.tensor(prompt + completion)
        chances = judge(ids[None]).logits[0, :-1].log_softmax(-1)[range(len(ids) - 1), ids[1:]]
        return chances[len(prompt) - 1 :].sum()

    with torch.no_grad():
        prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
        both = [tokenizer(row["prompt"] + row["completion"] + "<|end|>")["input_ids"] for row in rows]
        prompts = [one[: shared_length(one, other)] for one, other in zip(prompts, both, strict=True)]
        written = [other[len(one) :] for one, other in zip(prompts, both, strict=True)]
        ratios, mixed = (
            [log_prob(model, a, b) - log_prob(reference, a, b) for a, b in zip(prompts, others, strict=True)]
            for others in (written, [written[-1], *written[:-1]])
        )
        kl = max(0.0, float(sum(mixed)) / len(rows))
        signs = [1 if row["label"] else -1 for row in rows]
        losses = [1 - torch.sigmoid(beta * sign * (ratio - kl)) for sign, ratio in zip(signs, ratios, strict=True)]
        return float(sum(losses)) / len(rows), kl


def test_its_loss_is_that_of_the_formula(place, tmp_path):
    more = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 1}
    start, end = (exact(place, tmp_path, **{**more, "max_steps": steps, "train_sampling_strategy": "sequential",
                        "lr_scheduler_type": "constant"}) for steps in (1, 2))  # fmt: skip
    reference = start.objective.reference
    model, rows = start.model.eval(), tiny.rows_of("judged")[4:8]
    loss, kl = by_the_formula(model, reference, rows, 0.1, start.processing_class)
    assert (logs(end)[1]["loss"], logs(end)[1]["kl"]) == pytest.approx((loss, kl), rel=1e-6)  # logged in float32
    assert kl > 0


@installed.with_trl
@pytest.mark.slow
def test_by_default_it_is_trls_too_where_a_step_is_one_micro_batch_of_rows_in_their_order(place, tmp_path):
    reference = theirs(place, tmp_path, tiny.rows_of("judged"))
    compare(ours(place, tmp_path, train_sampling_strategy="sequential"), reference, NAMES)


def test_one_row_of_a_process_is_enough_where_others_have_some(place, tmp_path, monkeypatch):
    """The neighbours of a completion are those of the step, over its processes."""
    monkeypatch.setattr(uses, "current_world", lambda: World(size=2, local_size=2))
    file = tiny.write_yaml(tmp_path / "run.yaml", tiny.settings(place, "judged", trainer_type="KTO"))
    one, trls = "training.per_device_train_batch_size=1", "training.trainer_kwargs.trl_compatible=true"
    assert load_checked(file, [one]).config.training.per_device_train_batch_size == 1
    with pytest.raises(ConfigError, match="needs steps of two rows or more"):
        load_checked(file, [one, trls, "training.train_sampling_strategy=sequential"])


def test_the_commands_know_it(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(tiny.write_yaml(tmp_path / "run.yaml", tiny.settings(place, "judged", trainer_type="KTO")))
    assert main(["check", file]) == 0
    assert main(["check", file, "--memory"]) == 0
    assert "in all" in capsys.readouterr().out
    pairs = tiny.write_yaml(tmp_path / "pairs.yaml", tiny.settings(place, "preference", trainer_type="KTO"))
    assert main(["check", str(pairs), "training.max_steps=-1", "training.num_train_epochs=1"]) == 0
    assert "40, each of 4 rows; 1 pass over the data, which have 80 rows" in capsys.readouterr().out  # two of a pair
    assert main(["data", "show", file, "-n", "2"]) == 0
    shown = capsys.readouterr().out
    labels = ["desirable" if row["label"] else "undesirable" for row in tiny.rows_of("judged")[:2]]
    assert all(f"--- row {number}, {label}, " in shown for number, label in enumerate(labels))
    assert main(["init", "kto", "new.yaml"]) == 0
    assert "trainer_type: KTO" in (tmp_path / "new.yaml").read_text()
    assert (
        main(
            [
                "check",
                str(tiny.write_yaml(tmp_path / "no.yaml", tiny.settings(place, "completion", trainer_type="KTO"))),
            ]
        )
        == 2
    )
    assert "Say which one is the judgement: column_map" in capsys.readouterr().err


def test_a_judgement_that_is_none_is_named_with_its_row(place, tmp_path):
    rows = [{**tiny.rows_of("judged", 1)[0], "label": "good"}]
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    content = tiny.settings(place, "judged", trainer_type="KTO")
    content["data"]["train"]["datasets"] = [{"dataset_name": str(tmp_path / "rows.jsonl")}]
    with pytest.raises(DataError, match="Row 0: 'label' is 'good'; true .desirable. or false is expected"):
        load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)


def test_pairs_are_judged_completions_that_stand_together_and_prompts_may_be_texts_beside_messages(place, tmp_path):
    pairs, mixed = tiny.rows_of("preference", 3), tiny.rows_of("judged", 3)
    for row in mixed:
        row["completion"] = [{"role": "assistant", "content": row["completion"]}]
    tiny.write_rows(tmp_path / "mixed.jsonl", mixed)
    content = tiny.settings(place, "preference", trainer_type="KTO")
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    assert len(text.train) == 160
    assert text.train.values("label").tolist() == [1, 0] * 80
    assert text.tokenizer.decode(text.train[1]["completion_ids"]) == pairs[0]["rejected"] + "<|end|>"
    content["data"]["train"]["datasets"] = [{"dataset_name": str(tmp_path / "mixed.jsonl")}]
    content["model"]["chat_template"] = "chatml"
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "mixed.yaml", content)).config)
    assert mixed[0]["prompt"] in text.tokenizer.decode(text.train[0]["prompt_ids"])


def test_conversations_and_alpacas_rows_with_a_judgement_are_prompts_and_their_last_answer(place, tmp_path):
    """As LLaMA-Factory has them."""
    plain = tiny.rows_of("chat_judged", 6)
    forms = {
        "plain": plain,
        "messages": [{"messages": one["prompt"] + one["completion"], "label": one["label"]} for one in plain],
        "alpaca": [
            {"instruction": one["prompt"][0]["content"], "input": "", "output": one["completion"][0]["content"],
             "label": one["label"]} for one in plain
        ],
    }  # fmt: skip
    found = {}
    for name, rows in forms.items():
        tiny.write_rows(tmp_path / f"{name}.jsonl", rows)
        content = tiny.settings(place, "judged", trainer_type="KTO")
        content["model"]["chat_template"] = "chatml"
        content["data"]["train"]["datasets"] = [{"dataset_name": str(tmp_path / f"{name}.jsonl")}]
        text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
        found[name] = [{key: value.tolist() for key, value in row.items()} for row in text.train]
    assert found["messages"] == found["plain"]
    assert found["alpaca"] == found["plain"]
    content["training"]["trainer_type"] = "SFT"
    with pytest.raises(DataError, match="label is false: the completion is one that is not wanted"):
        load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)


def test_a_batch_of_one_row_has_what_its_row_brings():
    ids = torch.tensor([5, 6])
    row = {"prompt_ids": ids, "completion_ids": ids + 2, "label": torch.tensor([1])}
    bare = UnpairedBatch(0)([row])
    assert bare["input_ids"].tolist() == [[5, 6, 7, 8]]
    whole = UnpairedBatch(0)([{**row, "other_ids": ids + 4, "reference": torch.tensor(-1.5)}])
    assert whole["kl_input_ids"].tolist() == [[5, 6, 9, 10]]
    assert whole["kl_labels"].tolist() == [[-100, -100, 9, 10]]
    assert whole["reference"].tolist() == [-1.5]
    assert bare.keys() == {name for name in whole if not name.startswith("kl_")} - {"reference"}
