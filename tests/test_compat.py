"""What differs between versions of torch and transformers: caches above all. `make test-versions` runs it on each."""

from __future__ import annotations

import logging
import re
import tomllib
from dataclasses import dataclass, fields

import pytest
import torch
import transformers

import trainwright
from tests import ROOT, tiny
from tests.installed import TRANSFORMERS
from trainwright import compat
from trainwright.args.foreign import adopt, check
from trainwright.config.params import TrainingParams
from trainwright.config.schema import TrainingConfig
from trainwright.tasks.algebra.models.models import POSITIONS
from trainwright.upstream.build import foreign_arguments

TOKENS = 30
MAMBA_BEAMS = (5, 13)


class Letters:
    """As much of a tokenizer as building a model for problems needs."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __len__(self):
        return TOKENS


def problem_model(kind, positions):
    from trainwright.tasks.algebra.models.models import new_model

    torch.manual_seed(0)
    sizes = {"d_model": 32, "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_heads": 4,
             "num_decoder_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_sequence_length": 40,
             "init_std": 0.3}  # fmt: skip
    return new_model({"model_type": kind, "use_positional_embedding": positions, **sizes}, Letters())


def named_model(kind, **sizes):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    tiny_sizes = {"vocab_size": TOKENS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                  "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "pad_token_id": 0,
                  "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**tiny_sizes, **sizes}))


def demo_model(kind):
    import trainwright.tasks.code.model  # noqa: F401 (registers the model)

    return named_model(kind, ngram_buckets=512)


MODELS = {f"{kind} {place}": (problem_model, kind, place) for kind in ("generic", "bart", "decoder_only")
          for place in POSITIONS[kind]}  # fmt: skip
MODELS |= {"demo": (demo_model, "ngram_llama")}
MODELS |= {kind: (named_model, kind) for kind in ("gpt2", "llama", "qwen3", "mamba")}


@pytest.fixture(params=MODELS)
def made(request):
    make, *given = MODELS[request.param]
    return make(*given).eval()


def prompts(made):
    """Three prompts of different lengths, filled to one as `generate` wants them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, TOKENS, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    encoder = made.config.is_encoder_decoder
    for row, hidden in ((1, 2), (2, 4)):
        mask[row, slice(7 - hidden, 7) if encoder else slice(0, hidden)] = 0
    return ids.masked_fill(mask == 0, 0), mask


@pytest.mark.slow
def test_decoding_with_a_cache_is_decoding_without(made):
    ids, mask = prompts(made)
    settings = {"do_sample": False, "max_new_tokens": 16, "min_new_tokens": 16, "output_logits": True,
                "return_dict_in_generate": True}  # fmt: skip
    beaming = (1,) if "mamba" in made.config.model_type and TRANSFORMERS < MAMBA_BEAMS else (1, 3)
    for beams in beaming:
        ours, without = (made.generate(ids, attention_mask=mask, num_beams=beams, use_cache=cached, **settings)
                         for cached in (True, False))  # fmt: skip
        assert torch.equal(ours.sequences, without.sequences), beams
        # float32: only the order of additions differs
        torch.testing.assert_close(torch.stack(ours.logits), torch.stack(without.logits), atol=1e-4, rtol=1e-4)
    assert len(set(ours.sequences.flatten().tolist())) > 2  # a model that repeats one token would prove nothing


@pytest.mark.slow
def test_a_filled_row_is_written_as_it_is_alone(made):
    ids, mask = prompts(made)
    settings = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12}
    together = made.generate(ids, attention_mask=mask, **settings)[:, -12:]
    for row in range(3):
        alone = ids[row][mask[row].bool()][None]
        written = made.generate(alone, attention_mask=torch.ones_like(alone), **settings)
        assert torch.equal(written[0, -12:], together[row]), row


def test_a_cache_is_no_prediction(made, tmp_path):
    """The same numbers as the model's own logits; caches are objects and tuples of many names."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, TOKENS, (4, 6), generator=generator)
    given = {"decoder_input_ids": ids} if made.config.is_encoder_decoder else {}
    rows = [{"input_ids": one, "labels": one, **dict.fromkeys(given, one)} for one in ids]
    args = trainwright.TrainingArguments(str(tmp_path), per_device_eval_batch_size=2, use_cpu=True, disable_tqdm=True,
                                         report_to="none")  # fmt: skip
    found = trainwright.Trainer(made, args).predict(rows).predictions
    found = found[0] if made.config.is_encoder_decoder and isinstance(found, tuple) else found
    with torch.no_grad():
        wanted = made(input_ids=ids, **given).logits
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-5, rtol=1e-5)


def test_the_demo_does_not_go_on_from_a_cache_it_cannot_read():
    made = demo_model("ngram_llama").eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        read = made(ids[:, :3], use_cache=True)
        kept = {compat.cache_field(): read[compat.cache_field()]}
        with pytest.raises(trainwright.ConfigError, match="cannot go on from a cache with input_ids alone"):
            made(ids[:, 3:], **kept)
        embeds = made.embedded(ids)[:, 3:]
        last = made(inputs_embeds=embeds, **kept).logits
        torch.testing.assert_close(last[:, -1], made(ids).logits[:, -1], atol=1e-5, rtol=1e-5)


def test_beams_are_those_without_a_cache(tmp_path):
    made = named_model("mamba").eval()
    ids, mask = prompts(made)
    settings = {"num_beams": 3, "max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
    args = trainwright.Seq2SeqTrainingArguments(
        str(tmp_path), predict_with_generate=True, use_cpu=True, report_to="none", per_device_eval_batch_size=3
    )
    rows = [{"input_ids": one, "attention_mask": seen} for one, seen in zip(ids, mask, strict=True)]
    found = trainwright.Seq2SeqTrainer(made, args).predict(rows, **settings).predictions
    wanted = made.generate(ids, attention_mask=mask, use_cache=False, **settings)
    assert torch.equal(torch.from_numpy(found)[:, -16:], wanted[:, -16:])


@dataclass
class Older:
    """Arguments as transformers before 5.23 has them, as far as they matter here."""

    gradient_checkpointing: bool = True
    gradient_checkpointing_kwargs: dict | None = None
    report_to: str = "none"
    use_cpu: bool = False


@pytest.mark.parametrize("kind", [Older, transformers.TrainingArguments])
@pytest.mark.parametrize("on", [True, False])
def test_engines_of_theirs_recompute_activations_as_the_file_says(kind, on):
    settings = {"use_reentrant": False} if on else None
    training = TrainingParams(enable_gradient_checkpointing=on, gradient_checkpointing_kwargs=settings, use_cpu=True,
                              report_to="none")  # fmt: skip
    args = foreign_arguments(TrainingConfig(training=training), kind, {})
    assert (args.gradient_checkpointing, args.gradient_checkpointing_kwargs) == (on, settings)


def test_what_their_release_does_not_know_is_refused():
    with pytest.raises(trainwright.ConfigError, match="^training.ddp_static_graph is unknown to the Older"):
        foreign_arguments(TrainingConfig(training=TrainingParams(ddp_static_graph=True)), Older, {})


def test_an_older_name_that_is_changed_later_is_seen(tmp_path):
    args = adopt(transformers.TrainingArguments(str(tmp_path), gradient_checkpointing=True, use_cpu=True))
    assert args.activation_checkpointing is True
    older = "activation_checkpointing" not in {f.name for f in fields(args)}
    args.gradient_checkpointing = False
    check(args)
    assert args.activation_checkpointing is not older  # from 5.23 on it is not read again, by transformers neither


def test_what_was_never_tested_is_said_once(tmp_path, monkeypatch, caplog):
    installed = {"torch": "9.1.0+cu999", "transformers": compat.TESTED["transformers"] + ".7"}
    monkeypatch.setattr(compat, "version", installed.__getitem__)
    compat.warn_of_untested_versions.cache_clear()
    with caplog.at_level(logging.WARNING, "trainwright"):
        for _ in range(2):
            args = trainwright.TrainingArguments(str(tmp_path), use_cpu=True)
            trainwright.Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows())
    compat.warn_of_untested_versions.cache_clear()
    said = [text for text in caplog.messages if "Newer than" in text]
    assert len(said) == 1
    assert f"torch 9.1.0+cu999 (tested up to {compat.TESTED['torch']})" in said[0]
    assert "transformers" not in said[0]


def test_the_table_of_versions_is_that_of_the_project():
    text = (ROOT / "docs" / "versions.md").read_text().partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]
    columns = {name: [row[rows[0].index(name)] for row in rows[2:]] for name in ("versions", "torch", "transformers")}
    table = {name: dict(zip(columns["versions"], columns[name], strict=True)) for name in ("torch", "transformers")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    floors = dict(re.findall(r"^([\w-]+)>=(\S+)$", "\n".join(project["dependencies"]), re.M))
    for name, tested in compat.TESTED.items():
        assert compat.release(table[name]["floor"]) == compat.release(floors[name])
        assert table[name]["pinned"] == pinned[name]
        assert compat.release(table[name]["newest"]) == compat.release(tested)
