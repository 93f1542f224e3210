"""Models that ranks share: `torchrun --nproc-per-node 2 tests/ranks/sharding.py FOLDER`, or 4."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import tiny, tiny_language
from tests.ranks import launch
from tests.tasks.language import two_ranks as language
from trainwright import Trainer, TrainingArguments
from trainwright.errors import ConfigError
from trainwright.evaluation.generation import Generation
from trainwright.trainer.seq2seq import Seq2SeqTrainer
from trainwright.world import current_world

STEPS, ROWS, GLOBAL = 20, 53, 8  # rows of a step; the last of a pass has 5, and a rank none in one of its micro-batches
FEW = {"max_steps": 8, "eval_steps": 4}  # to the next pass
HYBRID = {"replicate": 2, "shard": 2}
TENSOR = {"shard": 2, "tensor": 2}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return getattr(tensor.detach(), "full_tensor", tensor.detach)()


def held(model: torch.nn.Module) -> float:
    """Return the share of a model's parameters that this process holds."""
    mine = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in model.parameters())
    return mine / sum(p.numel() for p in model.parameters())


def rows(count: int, seed: int = 3) -> list[dict[str, Any]]:
    """Ragged rows, of which the first two of every eight have no target at all."""
    made = [{name: row[name] for name in ("input_ids", "labels")} for row in tiny.tokens(count, ragged=True, seed=seed)]
    for number, row in enumerate(made):
        if number % 8 < 2:
            row["labels"] = torch.full_like(torch.as_tensor(row["labels"]), -100)
    return made


def train(
    place: Path,
    model: Any,
    sharding: dict[str, Any] | None = None,
    *,
    kind: Any = Trainer,
    rows: Any = rows,
    **args: Any,
) -> tuple[Any, dict[str, Any]]:
    """Train 20 steps of 8 rows with two evaluations; as many processes as there are share the rows of a step."""
    ranks = current_world().size // (sharding or {}).get("tensor", 1)
    settings = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": GLOBAL // 2 // ranks, "max_steps": STEPS,
        "per_device_eval_batch_size": 4, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 10,
        "save_strategy": "no", "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True, "report_to": "none",
        "ddp_timeout": 60, "train_sampling_strategy": "sequential", "max_grad_norm": 0.5, **args,
    }  # fmt: skip
    if sharding is not None:
        settings |= {"fsdp": True, "fsdp_config": sharding}
    trainer = kind(
        model, TrainingArguments(str(place), **settings), train_dataset=rows(ROWS), eval_dataset=rows(13, seed=8)
    )
    said: list[str] = []
    trainer.note = said.append
    trainer.train()
    logged = trainer.state.log_history
    weights = {name: whole(p) for name, p in trainer.model.named_parameters() if p.requires_grad}
    digest = hashlib.sha256()
    for tensor in weights.values():
        digest.update(tensor.contiguous().numpy().tobytes())
    found = {
        "bits": digest.hexdigest(),
        "weights": torch.cat([tensor.flatten() for tensor in weights.values()]).tolist(),
        **{name: [one[name] for one in logged if name in one] for name in ("loss", "grad_norm", "eval_loss")},
        "held": held(trainer.model),
        "fused": not any("use_fused_loss is off" in note for note in said),
        "layout": trainer.strategy.describe(),
    }
    return trainer, found


def exact(place: Path, make: Any, sharding: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """Train a model in float64."""
    RAN_OUT.clear()
    found = train(place, make().double(), sharding, **FEW, **more)[1]
    return {**found, "ran_out": list(RAN_OUT)}


def single(place: Path, sharding: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """Train a model with dropout in float32; only bits are kept."""
    found = train(place, tiny.llama(dropout=0.1), sharding, **more)[1]
    return {name: value for name, value in found.items() if name != "weights"}


MIXED = {"param_dtype": "bf16", "reduce_dtype": "fp32"}
RATE, MIXED_STEPS = 0.1, 6


def mixed(place: Path) -> Any:
    """Train in bfloat16 with gradients that are added up in float32."""
    found = train(
        place, tiny.llama(), MIXED, rows=lambda count, seed=3: tiny.tokens(count, seed=seed), optim="sgd",
        learning_rate=RATE, lr_scheduler_type="constant", max_steps=MIXED_STEPS, max_grad_norm=0.0,
        use_fused_loss=False, eval_strategy="no",
    )[1]  # fmt: skip
    return {name: found[name] for name in ("loss", "weights")}


def mixed_by_hand(place: Path) -> Any:
    """The same by torch's FSDP2 alone."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model = tiny.llama()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for part in (*model.model.layers, model):
        part = fully_shard(part, mp_policy=policy)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    optimizer, losses = torch.optim.SGD(model.parameters(), RATE), []
    data, half = tiny.tokens(ROWS, seed=3), GLOBAL // 2
    for step in range(MIXED_STEPS):
        some = data[step * GLOBAL :][:GLOBAL]
        mine = some[current_world().rank * half :][:half]
        ids, labels = (torch.stack([torch.as_tensor(row[name]) for row in mine]) for name in ("input_ids", "labels"))
        count = sum(int((torch.as_tensor(row["labels"])[1:] != -100).sum()) for row in some)
        logits = model(input_ids=ids).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach() / count
        torch.distributed.all_reduce(total)
        losses.append(float(total))
    return {"loss": losses, "weights": torch.cat([whole(p).flatten() for p in model.parameters()]).tolist()}


class Resuming(Trainer):
    def train(self, *args, **kwargs):
        return super().train(resume_from_checkpoint=True)


def resumed(place: Path, sharding: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Train to the end, and again from the checkpoint of the eighth step."""
    saves = {"save_strategy": "steps", "save_steps": 8, "eval_steps": 4, **more}
    straight = single(place, sharding, **saves)
    if current_world().is_main:
        for step in (16, 20):
            shutil.rmtree(place / f"checkpoint-{step}")
    torch.distributed.barrier()
    both = straight, single(place, sharding, kind=Resuming, **saves)
    return [{name: value for name, value in one.items() if name != "held"} for one in both]


def lora() -> Any:
    import peft

    model = tiny.llama().double()
    torch.manual_seed(5)
    settings = peft.LoraConfig(
        r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    return peft.get_peft_model(model, settings)


def qwen(**changes: Any) -> Any:
    """Return a model with norms of single heads, fewer heads of keys than of queries, and a tied output layer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": tiny.VOCABULARY, "hidden_size": 32, "intermediate_size": 46, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    }  # fmt: skip
    return Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=True, attention_bias=True, **changes))


def adapted() -> Any:
    import peft

    settings = peft.LoraConfig(
        r=4, target_modules=["q_proj", "o_proj", "down_proj", "lm_head"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    model = tiny.llama().double()
    torch.manual_seed(5)
    return peft.get_peft_model(model, settings)


def llama_classifier() -> Any:
    from transformers import LlamaForSequenceClassification

    config = tiny.llama().config
    config.num_labels = 3
    torch.manual_seed(0)
    return LlamaForSequenceClassification(config)


RAN_OUT: list[int] = []
"""The rows with which memory ran out on this process."""


def hungry(where: str, layer: int = 1, first: int = 0) -> Any:
    """Return a model that runs out of memory with two rows, on the second rank after some calls, in the midst of a
    forward or backward pass."""
    model, calls = tiny.llama(), []
    part = model.model.layers[layer].mlp

    def fails(*given: Any) -> None:
        if len(given[-1][0]) > 1 and current_world().rank == 1 and len(calls) > first:
            RAN_OUT.append(len(given[-1][0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if model.training and torch.is_grad_enabled():
            calls.append(1)
            if where == "forward":
                fails([hidden])
            else:
                hidden.register_hook(lambda gradient: fails([gradient]))
        return type(part).forward(part, hidden)

    part.forward = forward
    return model


class Chosen(tiny.Words):
    """Has two heads, of which each row takes one by its first token, so that a process may need one alone in a step;
    and a third that no row takes."""

    def __init__(self) -> None:
        super().__init__()
        self.others = nn.ModuleDict({name: nn.Linear(16, tiny.VOCABULARY) for name in ("odd", "none")})

    def forward(self, input_ids, labels=None):
        hidden = torch.tanh(self.hidden(self.embedding(input_ids)))
        heads = (self.head, self.others["odd"])
        logits = torch.stack([heads[int(ids[0]) % 2](one) for ids, one in zip(input_ids, hidden, strict=True)])
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def chosen() -> Chosen:
    torch.manual_seed(0)
    return Chosen()


class OtherLayers(tiny.Words):
    """Calls one of two layers, by the rank."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])

    def forward(self, input_ids, labels=None):
        hidden = self.layers[current_world().rank](self.embedding(input_ids))
        return {"loss": nn.functional.cross_entropy(self.head(hidden).flatten(0, 1), labels.flatten())}


def other_layers(place: Path) -> str:
    """Return what is said where processes call other layers."""
    with pytest.raises(ConfigError) as error:
        train(place, OtherLayers().double(), {}, max_steps=2, eval_strategy="no")
    return str(error.value)


def classes(count: int, seed: int = 3) -> list[dict[str, Any]]:
    return [
        {"input_ids": row["input_ids"], "labels": number % 3}
        for number, row in enumerate(tiny.tokens(count, seed=seed))
    ]


MODELS: dict[str, dict[str, Any]] = {
    "plain": {"make": tiny.llama},
    "built logits": {"make": tiny.llama, "use_fused_loss": False},
    "tied": {"make": tiny.gpt2},
    "LoRA": {"make": lora},
    "classification": {"make": tiny.bert_classifier, "rows": classes},
    "classified by Llama": {"make": llama_classifier, "rows": classes},
    "Qwen": {"make": qwen},
    "Qwen, built logits": {"make": qwen, "use_fused_loss": False},
    "adapted": {"make": adapted},
    "own layers": {"make": tiny.words},
    "chosen": {"make": chosen, "weight_decay": 0.5},
    "recomputed": {"make": tiny.llama, "gradient_checkpointing": True},
    "averaged": {"make": tiny.llama, "ema_decay": 0.9},
    "muon": {"make": tiny.llama, "optim": "muon"},
    "out of memory, forward": {"make": lambda: hungry("forward"), "auto_find_batch_size": True},
    "out of memory, backward": {"make": lambda: hungry("backward", 0, 4), "auto_find_batch_size": True},
}  # fmt: skip


def generated(place: Path, sharding: dict[str, Any] | None, make: Any = None) -> Any:
    """Evaluate by generation: prompts of any length, for which ranks need unequal numbers of tokens and batches."""
    torch.manual_seed(1)
    tokenizer = tiny_language.new_tokenizer()
    made = []
    for number in range(7):
        ids = torch.randint(5, 300, (3 + number % 4,)).tolist()
        made.append({"input_ids": ids, "labels": [-100] * 2 + ids[2:], "attention_mask": [1] * len(ids)})

    def padded(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(one["input_ids"]) for one in batch)
        fill = {"input_ids": 1, "labels": -100, "attention_mask": 0}
        return {
            name: torch.tensor([one[name] + [value] * (width - len(one[name])) for one in batch])
            for name, value in fill.items()
        }

    args = TrainingArguments(
        str(place), per_device_eval_batch_size=2, use_cpu=True, disable_tqdm=True, report_to="none", ddp_timeout=60,
        remove_unused_columns=False, **({"fsdp": True, "fsdp_config": sharding} if sharding is not None else {}),
    )  # fmt: skip
    trainer = Trainer(
        tiny_language.new_model(num_key_value_heads=2), args, eval_dataset=made, data_collator=padded,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.generation = Generation(verify="all", max_length=9)
    trainer.evaluate()
    return json.loads((place / "eval_results" / "step_0.json").read_text())


def translated(place: Path, sharding: dict[str, Any] | None) -> Any:
    """Predict by generation with an encoder, which is called before the whole model is."""
    from trainwright import Seq2SeqTrainingArguments

    args = Seq2SeqTrainingArguments(
        str(place), per_device_eval_batch_size=2, use_cpu=True, disable_tqdm=True, report_to="none", ddp_timeout=60,
        predict_with_generate=True, generation_max_length=8,
        **({"fsdp": True, "fsdp_config": sharding} if sharding is not None else {}),
    )  # fmt: skip
    found = Seq2SeqTrainer(tiny.t5(), args).predict(tiny.tokens(7))
    return found.predictions.tolist()


def predicted(place: Path, sharding: dict[str, Any] | None) -> Any:
    """Predict ragged rows of any number, down to less than there are processes, brought to the host now and then: what
    a metric is given."""
    given: list[Any] = []

    def metrics(found: Any) -> dict[str, float]:
        given.append([found.predictions.sum(-1).tolist(), found.label_ids.tolist()])
        return {"rows": len(found.label_ids)}

    for count in (13, 7, 1):
        for accumulated in (None, 2):
            args = TrainingArguments(
                str(place), per_device_eval_batch_size=2, eval_accumulation_steps=accumulated, use_cpu=True,
                report_to="none", disable_tqdm=True, ddp_timeout=60,
                **({"fsdp": True, "fsdp_config": sharding} if sharding is not None else {}),
            )  # fmt: skip
            trainer = Trainer(tiny.llama().double(), args, compute_metrics=metrics)
            found = trainer.predict(rows(count))
            given[-1] += [found.metrics.get("test_loss"), found.metrics["test_rows"]]  # none of rows without targets
    return given


def wrong_plan(place: Path) -> str:
    """Train by a plan in which norms of single heads are like any other."""
    model = qwen()
    model._tp_plan = {name: way for name, way in model.tp_plan.items() if "norm" not in name}
    try:
        train(place, model, {"tensor": 2}, **FEW)
    except ConfigError as error:
        return str(error)
    return "trained"


def divided_classes(place: Path) -> Any:
    """Return by how much losses, what is noted, and gradients of an output layer that processes divide are off from
    those of torch on its whole logits: of sizes that they do not divide evenly, one of which leaves some without."""
    from torch.distributed.tensor import Shard, distribute_tensor

    from trainwright.models.head import Head
    from trainwright.objectives.language import FusedLoss, Labelled
    from trainwright.objectives.linear import loss as linear_loss
    from trainwright.objectives.linear.rows import new_watch
    from trainwright.parallel.layouts.layout import TENSOR, Layout
    from trainwright.parallel.layouts.sharding import Sharding
    from trainwright.parallel.strategy import ProcessOptions
    from trainwright.parallel.tensor import TensorSharded

    strategy, found = TensorSharded(Sharding(Layout(tensor=current_world().size))), []
    strategy.setup(current_world(), torch.device("cpu"), ProcessOptions())
    generator = torch.Generator().manual_seed(4)
    for classes, cap, kept in ((61, None, 2**24), (61, 5.0, 0), (1001, None, 0), (3, None, 2**24)):
        layer = torch.nn.Linear(8, classes).double()
        hidden = torch.randn(600, 8, generator=generator, dtype=torch.float64).requires_grad_()
        targets, factors = (torch.randint(classes, (600,), generator=generator) for _ in range(2))
        for parameter in layer.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        logits = layer(hidden) * 2
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        chances = logits.log_softmax(-1)
        noted = {
            "top1": (logits.argmax(-1) == targets).double(), "entropy": -(chances.exp() * chances).sum(-1),
            "mean_logit": logits.mean(-1), "log_sum_square": (2 * chances).logsumexp(-1),
        }  # fmt: skip
        picked = chances.gather(1, targets[:, None]).squeeze(1)
        inputs = (hidden, *layer.parameters())
        wanted = [picked, *torch.autograd.grad((picked * factors).sum() - picked.sum(), inputs)]
        for name, parameter in [*layer.named_parameters()]:
            cut = distribute_tensor(parameter.detach(), strategy.mesh[TENSOR], [Shard(0)], src_data_rank=None)
            setattr(layer, name, torch.nn.Parameter(cut))
        fused, watch = FusedLoss(Head(layer, 2.0, cap)), new_watch(tuple(noted), targets)
        some, inputs = Labelled(hidden, targets, torch.arange(600), 601, None), (hidden, *layer.parameters())
        with mock.patch.multiple(linear_loss, _ELEMENTS=0, _KEPT=kept):  # chunks of 256 rows
            log_probs, total = fused.log_probs(some, watch), fused.share_of(some, 1.0)
            ours = [log_probs, *map(whole, torch.autograd.grad((log_probs * factors).sum() + total, inputs))]
        off = [float((one - other).abs().max() / other.abs().max()) for one, other in zip(ours, wanted, strict=True)]
        found.append([off, [float((watch[name] - noted[name]).abs().max()) for name in noted]])
    return found


def anonymous() -> float:
    """Return the megabytes of this process that no file holds, and that are not free again."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("Anonymous:"))


def read_in_parts(place: Path, tensor: int = 1) -> Any:
    """Load a model of 62 MB and share it: how much memory that takes, what is sent, and whether it is the saved one."""
    from trainwright.config.schema import ModelParams
    from trainwright.models.load import load_model
    from trainwright.parallel.layouts.layout import Layout
    from trainwright.parallel.layouts.sharding import Sharding
    from trainwright.parallel.sharded import Sharded
    from trainwright.parallel.strategy import ProcessOptions
    from trainwright.parallel.tensor import TensorSharded

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12, "tie_word_embeddings": True}
    if current_world().is_main:
        tiny.llama(**sizes).save_pretrained(place)
    strategy, sent = (TensorSharded(Sharding(Layout(tensor=tensor))) if tensor > 1 else Sharded()), []
    strategy.setup(current_world(), torch.device("cpu"), ProcessOptions())
    strategy.barrier()
    send = torch.distributed._broadcast_coalesced
    torch.distributed._broadcast_coalesced = lambda group, some, *more: (
        sent.extend(one.nbytes for one in some),
        send(group, some, *more),
    )
    before = anonymous()
    model = load_model(ModelParams(model_name=str(place)), None)
    loaded, size = anonymous() - before, sum(p.nbytes for p in model.parameters()) / 1e6
    strategy.place(model)
    shared = anonymous() - before
    torch.distributed._broadcast_coalesced = send
    same = all(torch.equal(whole(p), own) for p, own in zip(model.parameters(), tiny.llama(**sizes).parameters()))
    return {"loaded": loaded / size, "shared": shared / size, "sent": sum(sent) / 1e6 / size, "same": same}


def resident(name: str) -> float:
    """Return the megabytes of this process in memory, `VmRSS`, or the most since that was forgotten, `VmHWM`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(name))


def drawn_in_parts(place: Path) -> Any:
    """Build a model of 60 MB of random weights and share it: the most memory that takes, and whether it is the one that
    a process draws at once."""
    from trainwright.parallel import deferred
    from trainwright.parallel.sharded import Sharded
    from trainwright.parallel.strategy import ProcessOptions

    def make() -> Any:
        return tiny.llama(hidden_size=256, intermediate_size=1024, num_hidden_layers=14, tie_word_embeddings=True)

    strategy, size = Sharded(), 4 * sum(p.numel() for p in make().parameters()) / 1e6
    strategy.setup(current_world(), torch.device("cpu"), ProcessOptions())
    strategy.place(deferred.built(tiny.llama))  # which loads what sharding needs
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # tensors of 64 kB have pages of their own, which are free at once
    anonymous()
    Path("/proc/self/clear_refs").write_text("5")  # the most is forgotten
    before = resident("VmRSS")
    model = strategy.place(deferred.built(make))
    most, drawn_next = resident("VmHWM") - before, torch.rand(2)
    at_once = make()
    same = all(torch.equal(whole(p), own) for p, own in zip(model.parameters(), at_once.parameters(), strict=True))
    return {"most": most / size, "same": same and torch.equal(drawn_next, torch.rand(2))}


def rounded_alike(place: Path) -> bool:
    """Whether three updates in bfloat16 of tensors of which each process holds a part are those of whole ones."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from trainwright.optim import bf16

    bf16._BLOCK = 1 << 18  # so that there are three of the largest
    generator, found = torch.Generator().manual_seed(7), []
    tensors = [torch.randn(shape, generator=generator).bfloat16() for shape in ((37, 50), (5,), (1200, 500))]
    mesh = init_device_mesh("cpu", (current_world().size,))
    whole_ones, rows = torch.Tensor.clone, lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)])
    for spread in (whole_ones, rows, lambda tensor: distribute_tensor(tensor, mesh, [Shard(tensor.ndim - 1)])):
        parameters = [torch.nn.Parameter(spread(tensor)) for tensor in tensors]
        optimizer = bf16.AdamWBF16(parameters, lr=1e-3, weight_decay=0.1)
        for step in range(3):
            for parameter, tensor in zip(parameters, tensors, strict=True):
                parameter.grad = spread((tensor * (step + 1)).cos())
            optimizer.step()
        found.append([whole(p) for p in parameters])
    return all(torch.equal(first, other) for first, *others in zip(*found, strict=True) for other in others)


def from_file(place: Path, name: str, sharding: dict[str, Any] | None) -> Any:
    """Train a case of tests/tasks/language/two_ranks.py by a file with a section `fsdp`."""
    place.mkdir(parents=True, exist_ok=True)
    data = place.parent / "language"
    if current_world().is_main and not (data / "ready").exists():
        tiny_language.make_place(data)
        language.exact_copy(data / "model", data / "exact")
        (data / "ready").touch()
    while not (data / "ready").exists():
        time.sleep(0.1)
    more = {} if sharding is None else {"fsdp": {"enable_fsdp": True, **sharding}}
    return language.run(data, place, name, current_world().size // (sharding or {}).get("tensor", 1), more)


FILES = (
    "SFT, LoRA", "SFT, from files", "SFT, bfd", "DPO", "DPO, tied head", "DPO, LoRA", "DPO, reference computed before",
    "KTO", "DISTILL", "dft", "DPO, a synced reference", "REWARD",
)  # fmt: skip
OF_TENSORS = ("classified by Llama", "Qwen", "Qwen, built logits", "adapted")
DIVIDED_FILES = ("SFT, bfd", "SFT, soft-cap", "DPO, LoRA", "KTO", "dft", "DPO, a synced reference", "REWARD")
WAYS = {
    "fsdp": (2, {}, tuple(name for name in MODELS if name not in (*OF_TENSORS, "muon", "out of memory, backward"))),
    "often": (2, {"reduce_gradients": "micro_batch"}, ("plain", "LoRA", "chosen", "out of memory, backward")),
    "fsdp of four": (4, {}, ("plain", "tied")),
    "hybrid": (4, HYBRID, ("plain", "tied", "LoRA", "classification", "muon")),
    "divided": (2, {"tensor": 2}, ("plain", "Qwen", "recomputed")),
    "divided, often": (2, {"tensor": 2, "reduce_gradients": "micro_batch"}, ("Qwen, built logits",)),
    "divided, sharded": (4, TENSOR, (*OF_TENSORS, "averaged", "muon")),
    "divided, copied": (4, {"replicate": 2, "tensor": 2}, ("Qwen",)),
    "hybrid, often": (4, {**HYBRID, "reduce_gradients": "micro_batch"}, ("plain", "out of memory, forward")),
}
"""By name: ranks, `fsdp_config`, and the models that are trained so."""
LAUNCHED: dict[int, dict[str, launch.Case]] = {2: {}, 4: {}}
for name, more in (("fused", {}), ("built", {"use_fused_loss": False}), ("noise", {"neftune_noise_alpha": 5.0})):
    LAUNCHED[2][f"ddp, {name}"] = lambda place, more=more: single(place, None, **more)
    LAUNCHED[2][f"fsdp, {name}"] = lambda place, more=more: single(place, {}, **more)
LAUNCHED[2]["zero 2"] = lambda place: single(place, {"reshard_after_forward": False})
LAUNCHED[2]["resumed"] = lambda place: resumed(place, {}, ema_decay=0.9, optim="muon")
LAUNCHED[2]["other layers"] = other_layers
LAUNCHED[2]["mixed"] = mixed
LAUNCHED[2]["mixed, by hand"] = mixed_by_hand
LAUNCHED[2]["read in parts"] = read_in_parts
LAUNCHED[2]["read in parts, divided"] = lambda place: read_in_parts(place, 2)
LAUNCHED[2]["generated"] = lambda place: generated(place, {})
LAUNCHED[2]["divided, wrong plan"] = wrong_plan
LAUNCHED[2]["generated, divided"] = lambda place: generated(place, {"tensor": 2})
LAUNCHED[2]["predicted"] = lambda place: predicted(place, {})
LAUNCHED[2]["predicted by data parallel ones"] = lambda place: predicted(place, None)
LAUNCHED[2]["translated"] = lambda place: translated(place, {})
for way, (ranks, config, names) in WAYS.items():
    for name in names:
        LAUNCHED[ranks][f"{way}, {name}"] = lambda place, config=config, model=MODELS[name]: exact(
            place, sharding=config, **model
        )
for ranks, config, names in ((2, {"shard": 2}, FILES), (4, HYBRID, FILES[2::2])):
    for name in names:
        LAUNCHED[ranks][f"file, {name}"] = lambda place, name=name, config=config: from_file(place, name, config)
for name in DIVIDED_FILES:
    LAUNCHED[2][f"divided file, {name}"] = lambda place, name=name: from_file(place, name, {"tensor": 2})
for ranks in LAUNCHED:
    LAUNCHED[ranks]["divided classes"] = divided_classes
    LAUNCHED[ranks]["rounded alike"] = rounded_alike
    LAUNCHED[ranks]["drawn in parts"] = drawn_in_parts

if __name__ == "__main__":
    torch.set_num_threads(1)
    launch.run_all(LAUNCHED[current_world().size], sys.argv[2:])
