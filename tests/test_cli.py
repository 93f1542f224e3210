"""The command line and the demo, with a few steps."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from trainwright import TrainerState
from trainwright.cli.main import main

SMALL = [
    "training.max_steps=6",
    "training.eval_steps=3",
    "training.save_steps=3",
    "training.logging_steps=2",
    "training.warmup_steps=2",
    "model.model_kwargs.hidden_size=16",
    "model.model_kwargs.intermediate_size=16",
    "model.model_kwargs.ngram_buckets=64",
    "data.train.datasets.0.dataset_kwargs.root=./source",
    "data.train.datasets.0.dataset_kwargs.vocab_size=300",
    "data.train.datasets.0.dataset_kwargs.block_size=32",
    "data.train.datasets.0.dataset_kwargs.eval_blocks=4",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a little source code, as the current directory."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        lines = [f"def function_{number}_{i}(x):\n    return x + {i}\n" for i in range(12)]
        (source / f"module_{number}.py").write_text("\n".join(lines))
    return tmp_path


def test_demo_runs_resumes_and_says_that_it_is_complete(place, capsys):
    assert main(["demo", *SMALL]) == 0
    out = capsys.readouterr().out
    assert re.search(r"To beat, in bits per byte of files never seen: gzip \d\.\d+, xz \d\.\d+", out)
    assert re.search(r"step 3/6  \d\.\d+ bits per byte", out)
    assert re.search(r"\d\.\d+ bits per byte over all held-out files, \w+ than xz", out)
    assert re.search(r"\d+ of 40 samples are accepted by ast.parse", out)
    run = place / "runs" / "demo"
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "samples.py.txt").exists()

    assert main(["demo", *SMALL]) == 0
    assert "This run is complete: 6 steps, in runs/demo/. Start anew with: rm -r runs/demo" in capsys.readouterr().out

    state = TrainerState.load_from_json(run / "checkpoint-3" / "trainer_state.json")
    assert state.global_step == 3
    for file in (run / "checkpoint-6").iterdir():
        file.unlink()
    (run / "checkpoint-6").rmdir()
    assert main(["demo", *SMALL]) == 0
    assert "bits per byte over all held-out files" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(place):
    long = [*SMALL, "training.max_steps=4000", "training.save_steps=4000", "training.eval_steps=4000"]
    command = [sys.executable, "-m", "trainwright.cli.main", "demo", *long, "training.logging_steps=1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("To beat"):
            break
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 130
    stopped = re.search(r"Interrupted by SIGINT at step (\d+) of 4000; saved in .runs/demo.", out)
    assert stopped
    assert (place / "runs" / "demo" / f"checkpoint-{stopped[1]}" / "manifest.json").exists()
    short = [*long, f"training.max_steps={int(stopped[1]) + 2}"]
    done = subprocess.run([*command[:4], *short], cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert f"at step {stopped[1]} of {int(stopped[1]) + 2}" in done.stderr


def test_mistakes_exit_with_2_and_one_sentence(place, capsys):
    (place / "run.yaml").write_text("training: {learning_rat: 1.0}\n")
    assert main(["train", "-c", "run.yaml"]) == 2
    err = capsys.readouterr().err
    assert "run.yaml:1: unknown key training.learning_rat\n" in err
    assert "^^^^^^^^^^^^ Did you mean 'learning_rate'?" in err
    (place / "run.yaml").write_text("modle: {}\n")
    assert main(["train", "-c", "run.yaml"]) == 2
    assert "modle" in capsys.readouterr().err
    assert main(["train", "-c", "none.yaml"]) == 2
    assert "There is no file 'none.yaml'" in capsys.readouterr().err
    (place / "run.yaml").write_text(
        "{model: {model_name: llama}, data: {train: {datasets: [{dataset_name: python_sorce}]}}}\n"
    )
    assert main(["train", "-c", "run.yaml"]) == 2
    err = capsys.readouterr().err
    assert "there is no dataset 'python_sorce'" in err
    assert "Did you mean 'python_source'?" in err
    assert main(["demo", "training.learning_rate"]) == 2
    assert "write key=value" in capsys.readouterr().err
    assert not (place / "runs").exists()


def test_train_runs_a_file_and_resumes(place, capsys):
    from importlib.resources import files

    recipe = files("trainwright") / "recipes" / "demo.yaml"
    assert main(["train", "-c", str(recipe), *SMALL, "training.output_dir=out"]) == 0
    assert (place / "out" / "checkpoint-6").is_dir()
    more = [*SMALL, "training.max_steps=8", "training.output_dir=out"]
    assert main(["train", "-c", str(recipe), "--resume", *more]) == 0
    assert TrainerState.load_from_json(place / "out" / "checkpoint-8" / "trainer_state.json").global_step == 8


@pytest.mark.parametrize("lines", [10, 10_000])  # those that fit in the buffer are written at the end
def test_a_reader_that_leaves_is_no_mistake(lines):
    code = f"""
import sys, time
from types import SimpleNamespace
from trainwright.cli.main import main
sys.modules["trainwright.cli.jobs"] = SimpleNamespace(run=lambda argv: [print("a line") for _ in range({lines})] and 0)
sys.stdin.read()
sys.exit(main(["jobs", "show"]))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_another_pipe_that_breaks_is_raised(monkeypatch, capfd):
    def run(argv):
        raise BrokenPipeError("of a data worker")

    monkeypatch.setattr("trainwright.cli.jobs.run", run)
    with pytest.raises(BrokenPipeError, match="of a data worker"):
        main(["jobs", "list"])


def test_help_and_version(capsys):
    for argv, text in ((["--help"], "train a small model of Python code"), (["--version"], "trainwright 0.")):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 0
        assert text in capsys.readouterr().out
