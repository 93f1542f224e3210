"""The command line and the demo, with a few steps."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

from trainwright import CheckpointError, ConfigError, DataError, TrainerState
from trainwright.cli.main import main
from trainwright.cli.tour import plug
from trainwright.cli.training import init
from trainwright.errors import DivergenceError, JobError, SaveError
from trainwright.tasks.code import functions, samples, twice
from trainwright.tasks.code import text as texts

SMALL = [
    "training.max_steps=6",
    "training.eval_steps=3",
    "training.save_steps=3",
    "training.logging_steps=1",
    "training.warmup_steps=2",
    "model.model_kwargs.hidden_size=16",
    "model.model_kwargs.intermediate_size=16",
    "model.model_kwargs.ngram_buckets=64",
    "data.train.datasets.0.dataset_kwargs.root=./source",
    "data.train.datasets.0.dataset_kwargs.vocab_size=300",
    "data.train.datasets.0.dataset_kwargs.block_size=32",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a little source code, as the current directory."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(80):
        lines = [f"def function_{number}_{i}(x):\n    return x + {i}\n" for i in range(12)]
        (source / f"module_{number}.py").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.slow
def test_demo_runs_resumes_and_says_that_it_is_complete(place, capsys):
    assert main(["demo", "--no-kill", *SMALL]) == 0
    out = capsys.readouterr().out
    assert re.search(r"To beat, in bits per byte of files never seen: gzip \d\.\d+, xz \d\.\d+", out)
    said = [re.search(rf"step {step}/6  (\d\.\d+) bits per byte", out)[1] for step in (3, 6)]
    final = re.search(r"^(\d\.\d+) bits per byte of files never seen, \w+ than xz", out, re.MULTILINE)[1]
    assert said[1] == final  # the same files, the same number
    assert re.search(r"Given the first lines of 40 functions in those files, it wrote \d+ that Python accepts", out)
    assert "done twice" not in out
    run = place / "runs" / "demo"
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "samples.py.txt").read_text().count("def function_") >= 40
    assert [step for step, _ in twice.read(run)] == [1, 2, 3, 4, 5, 6]

    assert main(["demo", "--no-kill", *SMALL]) == 0
    assert "This run is complete: 6 steps, in runs/demo/. Start anew with: rm -r runs/demo" in capsys.readouterr().out

    state = TrainerState.load_from_json(run / "checkpoint-3" / "trainer_state.json")
    assert state.global_step == 3
    for file in (run / "checkpoint-6").iterdir():
        file.unlink()
    (run / "checkpoint-6").rmdir()
    assert main(["demo", "--no-kill", *SMALL]) == 0
    out = capsys.readouterr().out
    assert f"{final} bits per byte of files never seen" in out
    assert "Steps 4 to 6 were done twice, before the kill and after it: their 3 losses are equal bit for bit." in out


def test_the_demos_text_is_read_once(place, monkeypatch):
    made = texts.text_of("source", 300, place / "run")
    with monkeypatch.context() as patch:
        patch.setattr(texts, "python_source", lambda root: pytest.fail("read again"))
        again = texts.text_of("source", 300, place / "run")
    assert (again.about, again.held_out) == (made.about, made.held_out)
    assert again.tokenizer("def f(x):")["input_ids"] == made.tokenizer("def f(x):")["input_ids"]
    np.testing.assert_array_equal(again.train, made.train)
    np.testing.assert_array_equal(again.held_out_tokens, made.held_out_tokens)
    assert len(texts.text_of("source", 280, place / "run").tokenizer) == 280
    with pytest.raises(DataError, match="holds too few functions"):
        texts.text_of("nothing", 300, place / "other")


def test_functions_of_a_program():
    given = '''
"""A module."""
if True:
    def first(x): return x  # a comment
class A:
    """A class."""
    @property
    def f(self):
        "What it does."
        text = """no
        docstring"""  # another
        def inner(): "Nothing."
        return {"a" : self,
                'b': text}
    def nothing(self):
        """Only this."""
'''
    assert functions.functions_of([given, "no program"]) == [
        "def first(x):\n    return x",
        "@property\ndef f(self):\n    text = 'no\\n        docstring'\n\n    def inner():\n        pass\n"
        "    return {'a': self, 'b': text}",
    ]


def test_a_sample_ends_where_its_function_ends():
    rest = "\n    if x:\n\n        return 1\n    return 2"
    for ended in (True, False):
        assert samples.first_function(f"{rest}\n\ndef g():\n    pass\n", ended) == rest
        assert samples.first_function(f"{rest}\nx = 1", ended) == rest
    assert samples.first_function(rest, True) == rest
    assert samples.first_function(f"{rest}\n    never_who", False) == rest
    assert samples.is_function(f"def f(x):{rest}")
    for other in ("def f():\n    pass", "def f():\n    'Text.'", "def f(", "x = 1", "", "def f():\n    x = = 1"):
        assert not samples.is_function(other), other
    assert samples.is_function("def f():\n    'Text.'\n    return 1")
    texts = [
        "def f(a, *, b=1) -> int:\n    return a",
        "def g(self):\n    return 1",
        "@property\ndef h(x):\n    return 1",
    ]
    assert samples.signatures(texts, 3) == ["def f(a, *, b=1) -> int:"] * 3


@pytest.mark.slow
def test_what_a_model_writes_leaves_its_training_alone(place):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import trainwright.tasks.code.model  # noqa: F401  makes ngram_llama known

    made = texts.text_of("source", 300, place / "run")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 2, "ngram_buckets": 64}  # fmt: skip
    config = AutoConfig.for_model("ngram_llama", vocab_size=300, pad_token_id=0, eos_token_id=0, **sizes)
    model = AutoModelForCausalLM.from_config(config).train()
    before = torch.get_rng_state()
    asked = ["def f(x):", "def a_longer_name(x, y):"]
    written = samples.write_functions(model, made.tokenizer, asked, seed=1)
    assert [one.splitlines()[0][: len(prompt)] for one, prompt in zip(written, asked, strict=True)] == asked
    assert samples.write_functions(model, made.tokenizer, asked, seed=1) == written
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_losses_of_steps_done_twice(tmp_path):
    assert twice.last_step(tmp_path) == 0
    first = twice.Losses(tmp_path)
    for step, loss in ((1, 0.1), (2, 1 / 3), (3, 0.3)):
        first.add(step, loss)
    first.close()
    assert not twice.done_twice(tmp_path)
    with (tmp_path / twice.LOSSES).open("a") as file:
        file.write('{"step": 4, "lo')  # a kill
    assert twice.last_step(tmp_path) == 3
    second = twice.Losses(tmp_path)
    second.add(2, 1 / 3)
    assert twice.verdict(twice.done_twice(tmp_path)).endswith("their 1 losses are equal bit for bit.")
    second.add(3, 0.3 + 1e-16)
    second.close()
    assert twice.done_twice(tmp_path) == {2: (1 / 3, 1 / 3), 3: (0.3, 0.3 + 1e-16)}
    assert twice.verdict(twice.done_twice(tmp_path)).endswith(
        "1 of their 2 losses are NOT the same, the first at step 3."
    )


@pytest.mark.slow
def test_ctrl_c_saves_the_same_command_goes_on_and_is_killed_once(place):
    long = [*SMALL, "training.max_steps=100000", "training.save_steps=100000", "training.eval_steps=100000"]
    command = [sys.executable, "-m", "trainwright.cli.main", "demo"]
    environment = {**os.environ, "TRAINWRIGHT_JOBS": "on", "TRAINWRIGHT_HOME": str(place / "home")}
    run = place / "runs" / "demo"
    keyboard, terminal = pty.openpty()

    def at_a_terminal():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with (place / "first.txt").open("w") as out:
        process = subprocess.Popen([*command, *long], cwd=place, stdout=out, stderr=out, stdin=terminal,
                                   env=environment, preexec_fn=at_a_terminal, start_new_session=True)  # fmt: skip
    while twice.last_step(run) < 3:
        assert process.poll() is None, (place / "first.txt").read_text()
        time.sleep(0.05)
    os.write(keyboard, b"\x03")  # Ctrl-C, which the terminal sends to the whole group
    assert process.wait(timeout=300) == 130
    os.close(keyboard)
    os.close(terminal)
    said = (place / "first.txt").read_text()
    stopped = re.search(r"Interrupted by SIGINT at step (\d+) of 100000; saved in .runs/demo.", said)
    assert stopped, said
    assert (run / f"checkpoint-{stopped[1]}" / "manifest.json").exists()
    steps = 2 * int(stopped[1]) + 500
    short = [*long, f"training.max_steps={steps}", "training.save_steps=50"]
    done = subprocess.run([*command, *short], cwd=place, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"at step {stopped[1]} of {steps}" in done.stderr
    pulled = re.search(
        r"Now we pull the plug: SIGKILL after step (\d+). The last save is that of step (\d+);", done.stdout
    )
    assert pulled, done.stdout
    step, saved = map(int, pulled.groups())
    assert step - saved >= 20
    assert f"Resuming from 'runs/demo/checkpoint-{saved}' at step {saved} of {steps}" in done.stderr
    equal = (
        f"Steps {saved + 1} to {step} were done twice, before the kill and after it: their {step - saved} losses are"
    )
    assert f"{equal} equal bit for bit." in done.stdout
    env = {"TRAINWRIGHT_HOME": environment["TRAINWRIGHT_HOME"]}
    listed = subprocess.run(
        [*command[:3], "jobs", "list"], capture_output=True, text=True, timeout=300, env={**os.environ, **env}
    )  # fmt: skip
    assert [listed.stdout.count(status) for status in ("INTERRUPTED", "COMPLETE", "LOST")] == [1, 1, 0], listed.stdout


def test_a_training_that_ends_early_keeps_its_plug(tmp_path):
    leave = [sys.executable, "-c", "raise SystemExit(3)"]
    assert plug.train(leave, tmp_path, 10) == 3
    killed = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"]
    assert plug.train(killed, tmp_path, 10) == 128 + signal.SIGTERM


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


@pytest.mark.slow
def test_train_runs_a_file_and_resumes(place, capsys):
    from importlib.resources import files

    recipe = files("trainwright") / "recipes" / "demo.yaml"
    assert main(["train", "-c", str(recipe), *SMALL, "training.output_dir=out"]) == 0
    assert (place / "out" / "checkpoint-6").is_dir()
    more = [*SMALL, "training.max_steps=8", "training.output_dir=out"]
    assert main(["train", "-c", str(recipe), "--resume", *more]) == 0
    assert TrainerState.load_from_json(place / "out" / "checkpoint-8" / "trainer_state.json").global_step == 8


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError, 2), (DataError, 2), (CheckpointError, 2), (JobError, 2), (SaveError, 1), (DivergenceError, 1)],
)
def test_exit_codes_tell_a_mistake_from_a_run_that_could_not_end_well(monkeypatch, capsys, error, code):
    def fail(argv):
        raise error("What was wrong.")

    monkeypatch.setattr(init, "run", fail)
    assert main(["init"]) == code
    assert capsys.readouterr().err == "trainwright init: What was wrong.\n"


@pytest.mark.parametrize("lines", [10, 10_000])  # those that fit in the buffer are written at the end
def test_a_reader_that_leaves_is_no_mistake(lines):
    code = f"""
import sys, time
from types import SimpleNamespace
from trainwright.cli.main import main
jobs = SimpleNamespace(run=lambda argv: [print("a line") for _ in range({lines})] and 0)
sys.modules["trainwright.cli.jobs.jobs"] = jobs
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

    monkeypatch.setattr("trainwright.cli.jobs.jobs.run", run)
    with pytest.raises(BrokenPipeError, match="of a data worker"):
        main(["jobs", "list"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("jobs worker --slots 0", "argument --slots: 0 is too small; at least 1 is expected"),
        ("jobs worker --grace nan", "argument --grace: nan is too small; at least 0 is expected"),
        ("jobs stop x --grace -1", "argument --grace: -1 is too small; at least 0 is expected"),
        ("jobs submit a.py --restart -1", "argument --restart: -1 is too small"),
        ("jobs submit a.py --gpus -1", "argument --gpus: -1 is too small"),
        ("jobs metrics x loss --attempt 0", "argument --attempt: 0 is too small"),
        ("algebra generate parity p --train 0", "argument --train: 0 is too small"),
        ("algebra generate parity p --processes 0", "argument --processes: 0 is too small"),
        ("imitation record --env E -o x.npz --episodes 0", "argument --episodes: 0 is too small"),
        ("imitation record --env E -o x.npz --seed -1", "argument --seed: -1 is too small"),
        ("imitation eval x --episodes many", "argument --episodes: invalid int value: 'many'"),
        ("replay . --step 0", "argument --step: 0 is too small"),
        ("data show r.yaml -n 0", "argument -n/--rows: 0 is too small"),
        ("compare r.yaml --rounds 0", "argument --rounds: 0 is too small"),
        ("train r.yaml --new --overwrite", "argument --overwrite: not allowed with argument --new"),
        ("demo algebra --no-kill", "demo algebra is never killed, so --no-kill has no effect"),
        ("demo --against transformers training.max_steps=5", "so 'training.max_steps=5' has no effect; leave it out"),
    ],
)
def test_what_can_mean_nothing_is_refused(words, said, capsys):
    with pytest.raises(SystemExit) as left:
        main(words.split())
    assert left.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["init sft {}", "imitation record --env CartPole-v1 -o {}", "imitation eval x --film {}", "jobs export none -o {}"],
)
def test_a_file_that_cannot_be_written_is_told_before_the_work(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    (tmp_path / "file").write_text("precious")
    for place, why in ((tmp_path / "file" / "x.npz", "cannot be written: Not a directory"), (tmp_path, "is a folder")):
        if words.startswith("init") and place == tmp_path:
            why = "exists; give another name"
        assert main([word.format(place) for word in words.split()]) == 2
        assert why in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"


def test_help_and_version(capsys):
    for argv, text in ((["--help"], "train a small model of Python code"), (["--version"], "trainwright 0.")):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 0
        assert text in capsys.readouterr().out
