"""Which of transformers' models train alike when their layers are divided over processes (tensor parallelism):
`torchrun --nproc-per-node 2 -m benchmarks.divided_models [KIND ...]`, on gloo.

Of every kind a small model in float64 has the gradients of one batch by its own loss and by the one without logits,
divided and whole; printed is by how much the worst parameter's are apart, as a share of its largest gradient, or why
the kind is refused.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trainwright.errors import ConfigError
from trainwright.models.head import language_head
from trainwright.objectives.language import FusedLoss
from trainwright.parallel.layouts.layout import Layout
from trainwright.parallel.layouts.sharding import Sharding
from trainwright.parallel.strategy import ProcessOptions
from trainwright.parallel.tensor import TensorSharded
from trainwright.world import current_world

KINDS = (
    "llama", "qwen2", "qwen3", "mistral", "ministral", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo", "olmo2",
    "olmo3", "gpt_neox", "starcoder2", "granite", "smollm3", "cohere", "cohere2", "glm", "glm4", "helium", "nemotron",
    "exaone4", "arcee", "ernie4_5", "seed_oss", "apertus", "hunyuan_v1_dense", "lfm2", "gpt2", "opt", "stablelm",
    "mixtral", "qwen3_moe", "deepseek_v3",
)  # fmt: skip
SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "attention_dropout": 0.0, "residual_dropout": 0.0, "query_pre_attn_scalar": 8,
}  # fmt: skip


def model_of(kind: str) -> Any:
    """Return a small model of a kind, without dropout."""
    known = AutoConfig.for_model(kind)
    left_out = {"head_dim"} if kind == "phi3" else set()
    sizes = {name: size for name, size in SIZES.items() if hasattr(known, name) and name not in left_out}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).double()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Return the whole gradients of one batch by both losses, by name."""
    ids = torch.randint(3, 61, (2, 12), generator=torch.Generator().manual_seed(1))
    head = language_head(model)
    assert not isinstance(head, str), head
    model(input_ids=ids, labels=ids).loss.backward()
    FusedLoss(head).share(model, {"input_ids": ids, "labels": ids}, None).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: getattr(gradient, "full_tensor", lambda one=gradient: one)() for name, gradient in found.items()}


def compared(strategy: TensorSharded, kind: str) -> str:
    """Return how far the gradients of a divided model are from those of a whole one."""
    model = model_of(kind)
    try:
        divided = gradients(strategy.prepare(strategy.place(model)))
        strategy.finish_gradients(list(model.parameters()))
    except ConfigError as error:
        return str(error)
    whole = gradients(model_of(kind))
    apart = {name: float((whole[name] - divided[name]).abs().max() / whole[name].abs().max()) for name in whole}
    worst = max(apart, key=lambda name: apart[name])
    return f"{apart[worst]:.1e} ({worst})"


def main() -> None:
    """Print a line for every kind."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")
    world = current_world()
    for kind in sys.argv[1:] or KINDS:
        strategy = TensorSharded(Sharding(Layout(tensor=world.size)))
        strategy.setup(world, torch.device("cpu"), ProcessOptions(backend="gloo"))
        told = compared(strategy, kind)
        if world.is_main:
            print(f"{kind}: {told}", flush=True)


if __name__ == "__main__":
    main()
