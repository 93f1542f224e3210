"""What a rank does: `torchrun --nproc-per-node 2 -m tests.tasks.language.two_ranks PLACE` trains every case in turn."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from tests import tiny_language as tiny
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.world import current_world

# Gemma 3 caps its logits where that is asked for
CAPPED = {"final_logit_softcapping": 5.0, "head_dim": 16}
CASES: dict[str, dict[str, Any]] = {
    "SFT": {},
    "SFT, tied head": {"model": {"tie_word_embeddings": True}},
    "SFT, soft-cap": {"name": "gemma3_text", "model": CAPPED},
    "SFT, LoRA": {"use_peft": True},
    "SFT, from files": {"folder": "exact"},
    "SFT, bfd": {"kwargs": {"packing": True, "max_length": 96}},
    "DPO": {"data": "preference"},
    "DPO, tied head": {"data": "preference", "model": {"tie_word_embeddings": True}},
    "DPO, soft-cap": {"data": "preference", "name": "gemma3_text", "model": CAPPED},
    "DPO, LoRA": {"data": "preference", "use_peft": True},
    "DPO, a synced reference": {"data": "preference", "kwargs": {"sync_ref_model": True, "ref_model_sync_steps": 2}},
    "dft": {"kwargs": {"loss_type": "dft"}},
    "REWARD": {"data": "preference", "trainer_type": "REWARD"},
    "DISTILL": {"data": "completion", "trainer_type": "DISTILL", "kwargs": {"teacher_model_name_or_path": "teacher"}},
    "KTO": {"data": "judged", "trainer_type": "KTO"},
    "KTO, LoRA": {"data": "judged", "trainer_type": "KTO", "use_peft": True},
    "DPO, reference computed before": {"data": "preference", "kwargs": {"precompute_ref_log_probs": True}},
}  # fmt: skip
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the values of a parameter, which ranks may share."""
    return getattr(tensor.detach(), "full_tensor", tensor.detach)()


def exact_norm(norm: Gemma3RMSNorm, x: torch.Tensor) -> torch.Tensor:
    """Gemma 3's norm without its detour through float32."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps) * (1 + norm.weight)


def exact_copy(source: Path, place: Path) -> None:
    """Save a model of transformers in float64, in two files, with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float64)
    model.save_pretrained(place, max_shard_size=sum(p.nbytes for p in model.parameters()) // 2)
    AutoTokenizer.from_pretrained(source).save_pretrained(place)


def run(place: Path, out: Path, name: str, ranks: int, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train a case in float64 for 6 steps of 12 rows, the last ones ragged, and return losses and weights.

    Args:
        more: further sections of its file.
    """
    case = dict(CASES[name])
    model, kind, folder_of_model = case.pop("model", {}), case.pop("name", "llama"), case.pop("folder", None)
    kwargs, data = dict(case.pop("kwargs", {})), case.pop("data", "text")
    if "teacher_model_name_or_path" in kwargs:
        kwargs["teacher_model_name_or_path"] = str(place / "teacher")
    folder = out / name.replace(" ", "-").replace(",", "")
    changes = {"gradient_accumulation_steps": 4 // ranks, "per_device_train_batch_size": 3, "trainer_kwargs": kwargs}
    content = tiny.settings(place, data, output_dir=str(folder), **changes, **case)
    content |= more or {}
    content["data"]["train"]["datasets"][0]["sample_count"] = 41
    content["model"] = {
        "model_name": kind,
        "load_pretrained_weights": False,
        "tokenizer_name": str(place / "model"),
        "torch_dtype_str": "float64",
        "model_kwargs": {**SIZES, **model},
    }
    if folder_of_model is not None:
        content["model"] = {"model_name": str(place / folder_of_model), "torch_dtype_str": "auto"}
    Gemma3RMSNorm.forward = exact_norm
    file = tiny.write_yaml(out / f"rank{current_world().rank}.yaml", content)
    trainer = build_trainer(load_checked(file).config)
    trainer.train()
    return {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "rewards": [entry.get("rewards/margins", 0.0) for entry in trainer.state.log_history if "loss" in entry],
        "weights": torch.cat([whole(p).flatten() for p in trainer.model.parameters()]).tolist(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, out = Path(sys.argv[1]), Path(sys.argv[2])
    results = {name: run(place, out, name, current_world().size) for name in CASES}
    (out / f"rank{current_world().rank}.json").write_text(json.dumps(results))
