"""Distillation: TRL's numbers where TRL is right, and those of the formula in float64; no logits of either model."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from torch.nn.functional import kl_div

from tests import installed
from tests import tiny_language as tiny
from tests.methods.beside_trl import ARGUMENTS, compare, content_of, logs, trained, weights
from trainwright import ConfigError
from trainwright.cli.main import main
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.data.text.named_templates import NAMED_TEMPLATES
from trainwright.objectives.distillation.linear_divergence import Layer, linear_divergence

BETAS = (0.0, 0.3, 0.5, 1.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    logging.getLogger("trl").setLevel(logging.ERROR)
    place = tiny.make_place(tmp_path_factory.mktemp("distill"))
    tiny.write_teacher(place / "teacher")
    return place


def content_in(place, tmp_path, data="completion", kwargs=None, model=None, **training):
    kwargs = {"teacher_model_name_or_path": str(place / "teacher"), **(kwargs or {})}
    return content_of("DISTILL", place, tmp_path, data, kwargs, model, **training)


def ours(place, tmp_path, *given, **named):
    return trained(tmp_path, content_in(place, tmp_path, *given, **named))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_divergence_of_two_heads_and_its_gradients_are_those_of_the_logits(beta, temperature):
    torch.manual_seed(0)
    student = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((700, 5), (3001, 5), (3001,))]
    teacher = [torch.randn(shape, dtype=torch.float64) for shape in ((700, 7), (3001, 7))]
    total, entropy = linear_divergence(
        Layer(*student, scale=0.8, cap=3.0), Layer(*teacher, scale=1.1), beta, temperature
    )  # in several chunks
    total.backward()
    found, expected = [one.grad.clone() for one in student], None
    for one in student:
        one.grad = None
    logits = 3.0 * torch.tanh(0.8 * (student[0] @ student[1].T + student[2]) / 3.0)
    log_p = (logits / temperature).log_softmax(-1)
    log_t = (1.1 * (teacher[0] @ teacher[1].T) / temperature).log_softmax(-1)
    if beta in (0, 1):
        pair = (log_p, log_t) if beta == 0 else (log_t, log_p)
        expected = kl_div(*pair, reduction="sum", log_target=True)
    else:
        log_m = torch.log((1 - beta) * log_p.exp() + beta * log_t.exp())
        expected = beta * kl_div(log_m, log_t, reduction="sum", log_target=True)
        expected = expected + (1 - beta) * kl_div(log_m, log_p, reduction="sum", log_target=True)
    expected.backward()
    assert float(total) == pytest.approx(float(expected), rel=1e-10)
    for one, other in zip(found, student, strict=True):
        assert torch.allclose(one, other.grad, rtol=1e-8, atol=1e-10)
    assert torch.allclose(entropy.double(), -(log_p.exp() * log_p).sum(-1), atol=1e-5)


@installed.with_trl
def test_it_is_the_divergence_of_trls_chunks():
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    torch.manual_seed(0)
    hidden, weight = torch.randn(1, 40, 6), torch.randn(50, 6)
    other_hidden, other_weight = torch.randn(1, 40, 8), torch.randn(50, 8)
    for beta in BETAS:
        mask = torch.ones(1, 40)
        theirs, *_ = _chunked_divergence_loss(hidden, other_hidden, weight, other_weight, mask, beta, temperature=0.8)
        mine, _ = linear_divergence(Layer(hidden[0], weight), Layer(other_hidden[0], other_weight), beta, 0.8)
        assert float(mine) / 40 == pytest.approx(float(theirs), rel=1e-5)


def gkd(place, tmp_path, rows, kwargs, template, **more):
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    tokenizer.chat_template = template
    arguments = {**ARGUMENTS, "per_device_train_batch_size": 4, "data_seed": 42, "lmbda": 0.0, **more, **kwargs}
    made = GKDTrainer(
        model=AutoModelForCausalLM.from_pretrained(place / "model"),
        teacher_model=AutoModelForCausalLM.from_pretrained(place / "teacher"),
        args=GKDConfig(str(tmp_path / "theirs"), **arguments),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    made.train()
    return made


@installed.with_trl
@pytest.mark.slow
@pytest.mark.parametrize(("beta", "accumulation"), [(0.0, 1), (0.5, 1), (0.5, 2), (1.0, 1)])
def test_off_policy_it_is_trls_gkd(place, tmp_path, beta, accumulation):
    template, more = NAMED_TEMPLATES["chatml"], {"gradient_accumulation_steps": accumulation}
    reference = gkd(place, tmp_path, tiny.rows_of("chat"), {"beta": beta}, template, **more)
    mine = ours(place, tmp_path, "chat", {"beta": beta}, {"chat_template": template}, **more)
    assert mine.objective.fused_reference is not None
    compare(mine, reference, ["loss", "grad_norm"])


def exact(place, tmp_path, data="completion", kwargs=None, **training):
    return ours(place, tmp_path, data, kwargs, {"torch_dtype_str": "float64"}, learning_rate=1e-3, **training)


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {"packing": True, "max_length": 96}, {"padding_free": True, "beta": 0.0}])
def test_a_step_is_the_same_however_it_is_cut(place, tmp_path, kwargs):
    whole = exact(place, tmp_path, kwargs=kwargs)
    for size in (1, 2):
        more = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size}
        cut = exact(place, tmp_path, kwargs=kwargs, **more)
        assert (weights(cut) - weights(whole)).abs().max() < 1e-9  # only the order of additions differs
        for one, other in zip(logs(cut), logs(whole), strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [None, 0.7])
def test_its_loss_is_that_of_the_formula_with_logits_or_without(place, tmp_path, temperature):
    kwargs = {"temperature": temperature, "beta": 0.3}
    fused = exact(place, tmp_path, kwargs=kwargs, max_steps=1, train_sampling_strategy="sequential")
    plain = exact(
        place, tmp_path, kwargs=kwargs, max_steps=1, train_sampling_strategy="sequential", use_fused_loss=False
    )
    start, teacher = exact(place, tmp_path, max_steps=1).model, fused.objective.reference
    start.load_state_dict(type(start).from_pretrained(place / "model").state_dict())
    total, count = 0.0, 0
    with torch.no_grad():
        for number in range(4):
            row = fused.train_dataset[number]
            p, t = (
                (one.double()(row["input_ids"][None]).logits[0, :-1] / (temperature or 1.0)).softmax(-1)
                for one in (start, teacher)
            )
            where = row["labels"][1:] != -100
            p, t = p[where], t[where]
            m = 0.7 * p + 0.3 * t
            total += float(0.3 * (t * (t / m).log()).sum() + 0.7 * (p * (p / m).log()).sum())
            count += len(p)
    for trainer in (fused, plain):
        assert logs(trainer)[0]["loss"] == pytest.approx(total / count, rel=1e-6)
        assert logs(trainer)[0]["grad_norm"] == pytest.approx(logs(fused)[0]["grad_norm"], rel=1e-6)


def test_a_teacher_of_other_tokens_is_refused(place, tmp_path):
    tiny.new_model(vocab_size=321).save_pretrained(tmp_path / "wide")
    tiny.new_model().save_pretrained(tmp_path / "other")
    tiny.new_tokenizer().save_pretrained(tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    inner = json.loads(file.read_text())
    numbers = inner["model"]["vocab"]
    numbers["a"], numbers["b"] = numbers["b"], numbers["a"]
    file.write_text(json.dumps(inner))
    told = {
        "wide": "predicts 321 tokens, and the student 320",
        "other": "has another vocabulary: its token [0-9]+ is '[ab]', which the student knows as",
        "none": "there is no folder '.*none'",
    }
    for name, words in told.items():
        content = content_in(place, tmp_path, kwargs={"teacher_model_name_or_path": str(tmp_path / name)})
        with pytest.raises(ConfigError, match=words):
            build_trainer(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)


def test_the_commands_know_it(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(tiny.write_yaml(tmp_path / "run.yaml", content_in(place, tmp_path)))
    assert main(["check", file]) == 0
    assert main(["check", file, "--memory"]) == 0
    assert "in all" in capsys.readouterr().out
    teacher = "training.trainer_kwargs.teacher_model_name_or_path"
    (tmp_path / "empty").mkdir()
    for other, words in (
        ("./none", "there is no folder './none'"),
        (f"{tmp_path}/empty", f"{teacher} '{tmp_path}/empty' cannot"),
    ):
        main(["check", file, f"{teacher}={other}"])
        told = capsys.readouterr()
        assert words in told.out + told.err
    assert main(["data", "show", file, "-n", "1"]) == 0
    assert "DISTILL on prompt and completion" in capsys.readouterr().out
    assert main(["init", "distill", "new.yaml"]) == 0
    assert "trainer_type: DISTILL" in (tmp_path / "new.yaml").read_text()
