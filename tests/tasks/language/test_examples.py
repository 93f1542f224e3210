"""The examples of docs/from_a_file.md, with a few steps: random weights, preferences, adapters."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import pytest

from trainwright import TrainerState
from trainwright.cli.main import main

EXAMPLES = Path(__file__).parents[3] / "examples"
FEW = ["training.max_steps=3", "training.logging_steps=1", "training.save_steps=3", "training.use_cpu=true"]


@pytest.mark.slow
def test_from_random_weights_to_preferences_and_adapters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["python_library.py", "library", "40"])
    runpy.run_path(str(EXAMPLES / "python_library.py"), run_name="__main__")
    source = tmp_path / "source"
    source.mkdir()
    for path in sorted(Path(shutil.__file__).parent.glob("*.py"))[:60]:
        shutil.copy(path, source)
    shutil.copy(shutil.__file__, source / "chunk.py")  # a name that is held out, of which not every Python has one
    roots = [f"data.{split}.datasets.0.dataset_kwargs.root=source" for split in ("train", "validation")]
    first = [*FEW, "training.eval_steps=3", "data.validation.datasets.0.sample_count=2", *roots]
    assert main(["train", "-c", str(EXAMPLES / "1_sft.yaml"), *first]) == 0
    assert main(["train", "-c", str(EXAMPLES / "2_dpo.yaml"), *FEW]) == 0
    assert main(["train", "-c", str(EXAMPLES / "3_lora.yaml"), *FEW]) == 0

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("library/3_lora")  # merged
    assert 2e6 < model.num_parameters() < 3e6
    logs = [
        TrainerState.load_from_json(f"library/{name}/checkpoint-3/trainer_state.json").log_history
        for name in ("1_sft", "2_dpo", "3_lora")
    ]
    assert any("eval_mean_token_accuracy" in entry for entry in logs[0])
    assert logs[0][0]["loss"] == pytest.approx(7.6, abs=0.2)  # ln 2048, the loss of knowing nothing
    assert logs[1][0]["rewards/margins"] == 0
    assert logs[1][0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # ln 2
    assert Path("library/3_lora/checkpoint-3/adapter_model.safetensors").exists()
