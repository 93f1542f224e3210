"""Scripts written for transformers run with the Trainer and its arguments exchanged, and give the same numbers."""

from __future__ import annotations

import json
from functools import partial

import pytest
import transformers
import yaml

import trainwright
from tests import installed
from tests.scripts import answer, batches, classify, language, media, sequence

SCRIPTS = {
    "causal language model": language.main,
    "masked language model": partial(language.main, causal=False),
    "classification": classify.of_texts,
    "token classification": classify.of_tokens,
    "question answering": answer.main,
    "summarisation": sequence.main,
    "translation": partial(sequence.main, task="translation"),
    "image classification": media.of_pictures,
    "speech classification": media.of_sounds,
    "pictures with texts": batches.of_pairs,
    "speech recognition": batches.of_speech,
    "multiple choice": batches.of_choices,
    "object detection": batches.of_boxes,
    "written answers": batches.of_written_answers,
}
COMMAND = (
    "--do_train --do_eval --max_steps 4 --per_device_train_batch_size 4 --learning_rate 1e-3 --logging_steps 1 "
    "--save_steps 2 --save_total_limit 2 --use_cpu --disable_tqdm True --report_to none --gradient_accumulation_steps 1"
).split()
MORE = {
    "causal language model": "--gradient_checkpointing --max_train_samples 20 --max_eval_samples 8",
    "classification": "--do_predict --eval_strategy steps --eval_steps 2 --load_best_model_at_end --warmup_steps 0.5",
    "token classification": "--do_predict",
    "question answering": "--eval_strategy epoch --max_steps -1 --num_train_epochs 1",
    "summarisation": "--predict_with_generate --do_predict",
    "translation": "--predict_with_generate --generation_max_length 6",
    "image classification": "--remove_unused_columns False",
    "speech classification": "--remove_unused_columns False --do_predict",
    "pictures with texts": "--remove_unused_columns False --gradient_accumulation_steps 2",
    "speech recognition": "--do_predict --eval_strategy steps --eval_steps 3",
    "multiple choice": "--do_predict",
    "object detection": "--eval_strategy steps --eval_steps 3",
    "written answers": "--predict_with_generate --eval_strategy steps --eval_steps 3",
}
FLOAT32 = 1e-4  # and what transformers logs has four decimals
LOOSER = {
    "masked language model": 0.1,  # masks are drawn anew for every batch, so that a resumed run draws the same
    "token classification": 1e-3,  # the mean over all tokens, not that of the batches' means
}
NOT_COMPARED = ("perplexity", "runtime", "per_second", "flos", "jit_compilation_time")


def ran(library, name, folder):
    command = ["--output_dir", str(folder), *COMMAND, *MORE.get(name, "").split()]
    return SCRIPTS[name](library, command)


CAUSAL = pytest.param("causal language model", marks=installed.true_mean)


@pytest.mark.slow
@pytest.mark.parametrize("name", [CAUSAL if name in CAUSAL.values else name for name in SCRIPTS])
def test_a_script_gives_transformers_numbers(name, tmp_path):
    ours = ran(trainwright, name, tmp_path / "ours")
    theirs = ran(transformers, name, tmp_path / "theirs")
    wanted = {key: value for key, value in theirs.items() if not key.endswith(NOT_COMPARED)}
    assert set(wanted) <= set(ours)
    for key, value in wanted.items():
        assert ours[key] == pytest.approx(value, abs=LOOSER.get(name, FLOAT32)), key
    saved = json.loads((tmp_path / "ours" / "all_results.json").read_text())
    assert saved["eval_loss"] == ours["eval_loss"]
    assert (
        json.loads((tmp_path / "ours" / "trainer_state.json").read_text())["global_step"] == 4 or "epoch" in MORE[name]
    )
    header = (tmp_path / "ours" / "README.md").read_text().split("---")[1]
    assert yaml.safe_load(header)["library_name"] == "transformers"


@pytest.mark.slow
def test_a_script_goes_on_from_its_last_checkpoint(tmp_path):
    whole = ran(trainwright, "classification", tmp_path / "whole")
    ran(trainwright, "classification", tmp_path / "resumed")
    for path in sorted((tmp_path / "resumed" / "checkpoint-4").iterdir()):
        path.unlink()
    (tmp_path / "resumed" / "checkpoint-4").rmdir()
    again = ran(trainwright, "classification", tmp_path / "resumed")
    assert again["eval_loss"] == whole["eval_loss"]
    assert again["classes"] == whole["classes"]
