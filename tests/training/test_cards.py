"""What a run says of itself, read as a person reads it, against what is true of the run."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import types
from pathlib import Path

import datasets
import pytest
import torch
import yaml

from tests import ROOT, tiny, tiny_language
from trainwright import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, bars
from trainwright.callbacks.curve import curve
from trainwright.callbacks.table import LogTable
from trainwright.checkpoint.output import summed
from trainwright.cli.main import main
from trainwright.data.contents import Contents, contents_of
from trainwright.training import run_cards
from trainwright.world import World


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch) -> Terminal:
    """Make standard output and error one terminal of 100 characters and 40 lines."""
    stream = Terminal()
    for name, value in {"COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def printed(stream: io.StringIO) -> list[str]:
    """Return the lines of a terminal without colours and movements."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n")
    return [line.rstrip() for line in plain.split("\n")]


def card(lines: list[str], title: str) -> dict[str, str]:
    """Return what a card says, by name; continued lines joined."""
    start = next(number for number, line in enumerate(lines) if line.startswith("╭") and title in line)
    found: dict[str, str] = {}
    last = ""
    for line in lines[start + 1 :]:
        if line.startswith("╰"):
            break
        match = re.fullmatch(r"│ (\S+(?: \S+)*?)? {2,}(.*?) *│", line)
        assert match, line
        name, text = match.groups()
        last = name or last
        found[last] = text if name else f"{found[last]} {text}"
    return found


def arguments(folder, **more):
    given = {"max_steps": 6, "logging_steps": 2, "use_cpu": True, "save_strategy": "no"}
    return TrainingArguments(str(folder / "out"), **{**given, **more})


# ---- a run from a file


CHATML = "<|im_start|>{role}\n{content}<|im_end|>\n"
LONGEST = 110


def counted_by_hand(rows: list, tokenizer) -> tuple[int, int, int]:
    """Return (tokens, learned, rows cut) of chats in ChatML: learned is what the assistant writes, and its end."""
    tokens = learned = cut = 0
    for row in rows:
        ids: list[int] = []
        mine: list[bool] = []
        text, spans = "", []
        for message in row["messages"]:
            part = CHATML.format(**message)
            if message["role"] == "assistant":
                begin = len(text) + len("<|im_start|>assistant\n")
                spans.append((begin, len(text) + len(part)))
            text += part
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = made["input_ids"][:LONGEST]
        mine = [any(a <= first < b for a, b in spans) for first, _ in made["offset_mapping"]][:LONGEST]
        cut += len(made["input_ids"]) > LONGEST
        tokens, learned = tokens + len(ids), learned + sum(mine[1:])
    return tokens, learned, cut


@pytest.mark.slow
def test_the_cards_of_a_file_are_true_and_the_commands_on_them_work(tmp_path, monkeypatch):
    place = tiny_language.make_place(tmp_path)
    terminal = a_terminal(monkeypatch)
    monkeypatch.chdir(tmp_path)
    told = tiny_language.settings(place, "chat", save_strategy="steps", save_steps=3, save_final_model=True)
    told["training"] |= {"output_dir": "runs/chat", "eval_strategy": "steps", "eval_steps": 3, "logging_steps": 2}
    told["training"]["trainer_kwargs"] = {"assistant_only_loss": True, "max_length": LONGEST}
    told["model"]["chat_template"] = "chatml"
    told["data"]["validation"] = {"datasets": [{"dataset_name": str(place / "chat.jsonl"), "sample_count": 8}]}
    file = tiny_language.write_yaml(tmp_path / "chat.yaml", told)
    assert main(["train", "-c", str(file)]) == 0

    lines = printed(terminal)
    assert lines[:1] == [
        f"{file} has no mistakes; the run's folder is runs/chat. Loading libraries, data and model ..."
    ]
    assert all(len(line) <= 100 for line in lines if line[:1] in "╭│╰ ")
    rows = tiny_language.rows_of("chat")
    tokens, learned, cut = counted_by_hand(rows, tiny_language.new_tokenizer())
    begun, over = card(lines, "Training"), card(lines, "Done: 6 steps")
    assert begun["data"] == f"80 rows, {tokens:,} tokens; {cut} of 80 cut off at the end ({cut / 80:.1%})"
    assert begun["learned"] == f"{learned / tokens:.1%} of the tokens: the assistant's answers"
    parameters = sum(p.numel() for p in tiny_language.new_model().parameters())
    assert begun["model"] == f"LlamaForCausalLM from {place / 'model'}, {parameters:,} parameters, all trained"
    assert begun["steps"] == f"6, each of 4 rows; {6 * 4 / 80:.3g} passes over the data"
    assert (
        begun["device"]
        == f"cpu ({torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}), float32 weights"
    )
    assert begun["memory"].startswith(f"{parameters * 4 * 4 / 1e6:.2f} MB: weights {parameters * 4 / 1e6:.2f} MB, ")
    assert begun["disk"].startswith(f"2 checkpoints of {parameters * 4 * 3 / 1e6:.2f} MB, ")  # with two of AdamW
    assert begun["folder"] == over["folder"] == "runs/chat"
    assert begun["to stop"].endswith("trainwright train --resume runs/chat")

    history = yaml.safe_load((tmp_path / "runs/chat/checkpoint-6/trainer_state.json").read_text())["log_history"]
    losses = [one["loss"] for one in history if "loss" in one]
    assert over["loss"] == f"{losses[0]:.3f} at first, {losses[-1]:.3f} at last"
    best = min((one["eval_loss"], one["step"]) for one in history if "eval_loss" in one)
    assert over["best"].startswith(f"eval_loss {best[0]:.3f} at step {best[1]}")
    assert re.fullmatch(r"[\d,.]+ tokens per second of training, [\d.e-]+ s a step", over["speed"])
    shares = [int(share) for share in re.findall(r"(\d+)%", over["time"])]
    assert "training" in over["time"]
    assert 95 <= sum(shares) <= 105

    again, talk = over["next"].split(" trainwright ")
    assert (again, talk) == ("trainwright train --resume runs/chat training.max_steps=MORE", "chat runs/chat")
    assert main([*again.replace("MORE", "8").split()[1:]]) == 0
    lines = printed(terminal)
    assert card(lines, "Training goes on after step 6")["steps"].endswith("6 of them are done")
    assert card(lines, "Done: 8 steps")
    assert main(["train", "--resume", "runs/chat"]) == 0
    said = "\n".join(printed(terminal)[len(lines) - 1 :])
    assert "Training goes on" not in said
    assert "Done: 8 steps" in said


# ---- a run from Python


class Twice(TrainerCallback):
    """Prints, as a user does in the middle of a run."""

    def on_step_end(self, args, state, control, **kwargs):
        print(f"mine {state.global_step}")


def test_on_a_terminal_the_log_is_a_table_and_prints_stay_readable(tmp_path, monkeypatch):
    terminal = a_terminal(monkeypatch)
    rows = tiny.tokens(ragged=True)
    args = arguments(
        Path(),  # so that the card's lines are not broken
        eval_strategy="steps",
        eval_steps=2,
        include_num_input_tokens_seen="all",
        save_strategy="steps",
        save_steps=3,
    )
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(tiny.llama(), args, train_dataset=rows, eval_dataset=rows[:8], callbacks=[Twice()])
    trainer.train()
    lines = printed(terminal)
    assert max(map(len, lines)) <= 100
    learned = sum(int((row["labels"][1:] != -100).sum()) for row in rows)
    begun = card(lines, "Training")
    assert begun["data"] == f"48 rows, {48 * 12} tokens"
    assert begun["learned"] == f"{learned / (48 * 12):.1%} of the tokens: those with a label"
    header = next(line for line in lines if line.strip().startswith("step "))
    assert header.split() == ["step", "loss", "gradient", "rate", "tokens/s", "left"]
    table = {line.split()[0]: line for line in lines if re.match(r" *\d/6  +\d", line)}
    logged = {f"{one['step']}/6": one for one in trainer.state.log_history if "loss" in one}
    assert list(table) == list(logged) == ["2/6", "4/6", "6/6"]
    for step, line in table.items():
        assert len(line) <= len(header)
        cells = line.split()
        assert float(cells[1]) == pytest.approx(logged[step]["loss"], rel=1e-3)
        assert float(cells[2]) == pytest.approx(logged[step]["grad_norm"], rel=1e-3)
        assert float(cells[3]) == pytest.approx(logged[step]["learning_rate"], rel=1e-2)
        assert line.index(cells[1]) + len(cells[1]) == header.index("loss") + 4  # aligned to the right
    evaluated = [line for line in lines if re.match(r" *\d/6  eval_loss", line)]
    assert len(evaluated) == 3
    assert [line for line in lines if line.startswith("mine")] == [f"mine {step}" for step in range(1, 7)]
    assert any("●" in line for line in lines)
    assert not any("train_runtime" in line for line in lines)
    assert "train_runtime" in trainer.state.log_history[-1]
    loads = re.fullmatch(r"LlamaForCausalLM.from_pretrained\('(.*)'\)", card(lines, "Done: 6 steps")["next"])
    assert loads
    assert LlamaForCausalLM.from_pretrained(loads[1]).num_parameters() == trainer.model.num_parameters()


def test_without_a_terminal_a_card_is_one_line_of_stderr_and_the_log_as_before(tmp_path, capsys):
    trainer = Trainer(tiny.new_line(), arguments(tmp_path), train_dataset=tiny.line_rows())
    trainer.train()
    out, err = capsys.readouterr()
    begun, over = err.splitlines()
    assert begun.startswith("Training: model: Line, 5 parameters, all trained; data: 40 rows; steps: 6, each of 8 rows")
    assert f"folder: {tmp_path / 'out'}; to stop: Ctrl-C, which saves first; to go on: train(" in begun
    assert over.startswith("Done: 6 steps: loss: ")
    assert over.endswith("next: save_model() of the Trainer, for nothing is saved yet.")
    assert out.splitlines()[0].startswith("step 2/6  loss ")
    trainer.train()
    assert capsys.readouterr().err.count("Training: ") == 1


@pytest.mark.slow
def test_cards_heed_levels_trials_and_ranks(tmp_path, monkeypatch):
    terminal = a_terminal(monkeypatch)
    Trainer(tiny.new_line(), arguments(tmp_path, disable_tqdm=True), train_dataset=tiny.line_rows()).train()
    assert "╭" not in terminal.getvalue()
    assert terminal.getvalue().count("\nDone: 6 steps: ") == 1
    terminal.truncate(0)
    Trainer(tiny.new_line(), arguments(tmp_path, log_level="error"), train_dataset=tiny.line_rows()).train()
    assert "Done" not in terminal.getvalue()
    args = arguments(tmp_path, log_level="warning", disable_tqdm=True)
    trainer = Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows())
    assert run_cards.speaks(trainer.strategy, None)
    trainer.strategy.world = World(rank=1, local_rank=1, size=2)
    assert not run_cards.speaks(trainer.strategy, None)
    args = arguments(tmp_path / "search", eval_strategy="steps", eval_steps=3, max_steps=3)
    rows = tiny.line_rows()
    trainer = Trainer(args=args, model_init=lambda: tiny.new_line(), train_dataset=rows, eval_dataset=rows)
    terminal.truncate(0)
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2)}, n_trials=2
    )
    assert "Training" not in terminal.getvalue()
    assert "eval_loss" in terminal.getvalue()


# ---- what data holds


def learned_in(rows, collator) -> tuple[int, int]:
    """Return (tokens, targets) of all rows as the collator makes batches of them, one at a time."""
    tokens = learned = 0
    for number in range(len(rows)):
        batch = collator([rows[number]])
        tokens += batch["input_ids"].numel()
        learned += int((batch["labels"][:, 1:] != -100).sum())
    return tokens, learned


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
@pytest.mark.parametrize("kind", ["chat", "text", "completion"])
def test_packed_rows_are_counted_as_they_are_batched(tmp_path, strategy, kind):
    from trainwright.config.reading.read import load_checked
    from trainwright.tasks.language.text import load_text

    place = tiny_language.make_place(tmp_path)
    told = tiny_language.settings(place, kind)
    told["training"]["trainer_kwargs"] = {"packing": True, "packing_strategy": strategy, "max_length": 40}
    if kind == "chat":
        told["training"]["trainer_kwargs"]["assistant_only_loss"] = True
        told["model"]["chat_template"] = "chatml"
    text = load_text(load_checked(tiny_language.write_yaml(tmp_path / "run.yaml", told)).config)
    held = contents_of(text.train)
    assert (held.tokens, held.learned) == learned_in(text.train, text.method.collator(text))
    assert held.rows == len(text.train)
    assert held.counted is None
    over = sum(int(length > 40) for length in text.train.rows.lengths)
    assert held.cut == (over if strategy == "bfd" else 0, 80)
    assert over


def test_rows_that_are_not_prepared_are_counted_from_the_first_thousand():
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}] * 1000 + [{"input_ids": [5], "labels": [5]}] * 500
    held = contents_of(rows, shifted=True)
    assert (held.rows, held.counted, held.tokens, held.learned) == (1500, 1000, 3000, 2000)
    table = datasets.Dataset.from_list(rows).shuffle(seed=0).with_format("torch")
    first = [table[number] for number in range(1000)]
    held = contents_of(table)
    assert held.tokens == sum(len(row["input_ids"]) for row in first)
    assert held.learned == sum(int((row["labels"] != -100).sum()) for row in first)


def test_no_code_of_the_user_runs_for_a_card():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 7

        def __getitem__(self, number):
            raise AssertionError("a card has read a row")

    assert contents_of(Rows()) == Contents(7)
    made = datasets.Dataset.from_list([{"input_ids": [1]}]).with_transform(lambda batch: pytest.fail("a card has read"))
    assert contents_of(made) == Contents(1)
    assert contents_of(iter([{"input_ids": [1]}])) == Contents()
    odd = [{"input_ids": [[1, 2], [3]]}], [{"input_ids": "text"}], [{"input_ids": None}], [{"pixels": [1]}], [3]
    assert [contents_of(rows) for rows in odd] == [Contents(1)] * 5


# ---- signs that a run does not learn


def notes_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "trainwright"]


class Told(Trainer):
    """Its loss is what it is told, one value a step, with a gradient or without."""

    told = (1.0,)
    slope = 1.0

    def compute_loss(self, model, inputs, return_outputs=False):
        value = self.told[min(self.state.global_step, len(self.told) - 1)]
        nothing = sum(p.sum() for p in model.parameters()) * self.slope
        return nothing - nothing.detach() + value


def notes_of_told(folder, caplog, told, slope=1.0, **more):
    trainer = Told(tiny.new_line(), arguments(folder, logging_steps=1, **more), train_dataset=tiny.line_rows())
    trainer.told, trainer.slope = told, slope
    caplog.clear()
    trainer.train()
    return notes_of(caplog)


def test_a_gradient_of_0_and_a_loss_far_above_its_start_are_told_once(tmp_path, caplog):
    (flat,) = notes_of_told(tmp_path, caplog, [1.0], slope=0.0)
    assert flat.startswith(
        "The gradient is 0 at step 2 as at the log before, and the loss stays at 1: nothing is learned."
    )
    assert notes_of_told(tmp_path, caplog, [1.0]) == []
    (far,) = notes_of_told(tmp_path, caplog, [1.0, 4.0, 2.0, 3.5, 3.6, 9.0])
    assert far.startswith("The loss, 3.6 at step 5, is more than 3 times what it was at first, 1:")
    assert notes_of_told(tmp_path, caplog, [1.0, 4.0, 2.0, 4.0, 2.0]) == []


def test_a_warm_up_longer_than_the_run_is_told(tmp_path, caplog):
    passes = {"max_steps": -1, "num_train_epochs": 1, "learning_rate": 1e-3}  # 5 steps
    (warm,) = notes_of_told(tmp_path, caplog, [1.0], warmup_steps=10, **passes)
    assert "warmup_steps=10, but the run has 5 steps" in warm
    assert "reaches 40.0% of learning_rate=0.001" in warm  # (5 - 1) / 10
    assert notes_of_told(tmp_path, caplog, [1.0], warmup_steps=5, **passes) == []
    assert notes_of_told(tmp_path, caplog, [1.0], warmup_steps=10, lr_scheduler_type="constant", **passes) == []


def test_steps_whose_labels_are_all_masked_are_told_once(tmp_path, caplog):
    rows = tiny.tokens(48)
    for row in rows[16:32]:
        row["labels"] = torch.full_like(row["labels"], -100)
    args = arguments(tmp_path, train_sampling_strategy="sequential")
    Trainer(tiny.llama(), args, train_dataset=rows).train()
    (masked,) = notes_of(caplog)
    assert masked.startswith("All labels of step 3 are masked (-100)")


def test_rows_that_are_all_cut_off_are_told(tmp_path):
    from trainwright.data.text.prepare import Prepared
    from trainwright.data.token_rows import TokenRows

    rows = TokenRows(datasets.Dataset.from_dict({"input_ids": [[1], [2]], "labels": [[1], [2]]}))
    (said,) = Prepared(rows, cut=2, lost=9, left_out=torch.zeros(0).numpy()).report(1, "training data")
    assert said.startswith("All 2 rows of the training data are longer than max_length=1; 9 tokens")


# ---- bars, and the table


def test_a_bar_comes_after_its_patience_and_joins_those_that_are_there(monkeypatch):
    stream = a_terminal(monkeypatch)
    monkeypatch.setattr(bars, "_wanted", True)  # as before a training of this process said otherwise
    monkeypatch.setattr(bars, "PATIENCE", 1e9)
    with bars.counting(2, "rows read") as tell:
        tell(1)
    assert stream.getvalue() == ""
    monkeypatch.setattr(bars, "PATIENCE", 0.0)
    with bars.counting(2, "rows read") as tell:
        tell(1)
    assert "rows read" in stream.getvalue()
    assert "1/2" in stream.getvalue()
    shown = bars.open_bars(stream)
    with bars.counting(2, "evaluating") as tell:
        tell(1)
        assert [task.description for task in shown.tasks] == ["evaluating"]
    assert not shown.tasks
    bars.close_bars()
    bars.want(False)
    with bars.counting(2, "unwanted") as tell:
        tell(1)
    assert "unwanted" not in stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_table_is_no_wider_than_the_terminal(width):
    table = LogTable(width, "20000", "tokens/s")
    logs = {
        "loss": 12.5,
        "grad_norm": 0.01234,
        "learning_rate": 1.5e-5,
        "mean_token_accuracy": 0.25,
        "rewards/margins": 1,
    }
    lines = table.lines(
        {**logs, "logps/chosen": -1.0, "entropy": 3.0}, {"step": "1/20000", "tokens/s": 98765.0, "left": 3725}
    )
    more = table.lines({"loss": float("nan"), "mine": 3}, {"step": "2/20000", "tokens/s": 1.5, "left": None})
    evaluated = table.evaluation(
        {f"eval_{'long_' * number}loss": 1.0 for number in range(7)} | {"eval_runtime": 3.0}, "2/20000"
    )
    assert max(map(len, [*lines, *more, *evaluated])) <= width
    if width < 80:
        return
    header, row = lines[-2], lines[-1]
    assert row.split()[:6] == ["1/20000", "12.50", "0.0123", "1.50e-05", "98,765", "1:02:05"]
    for title, cell in zip(header.split()[:6], row.split()[:6], strict=True):
        assert header.index(title) + len(title) == row.index(cell) + len(cell)
    shown = " ".join([*lines, *more])
    assert all(name in shown or name.replace("_", " ").split()[0] in shown for name in ("entropy", "mine"))
    assert evaluated[-1].endswith("(3.0 s)")


@pytest.mark.parametrize("width", [1, 5, 17, 20])
def test_a_terminal_narrower_than_a_row_ends_no_run(width):
    table = LogTable(width, "1000000", "steps/s")
    progress = {"step": "1/1000000", "steps/s": 2.0, "left": 3.0}
    assert table.lines({"loss": 1.5, "_": 1, "": 2}, progress)[-1].split() == ["1/1000000", "1.500"]
    assert table.evaluation({"eval_loss": 2.5}, "1/1000000")[0].split() == ["1/1000000", "eval_loss", "2.500"]


class Worded(Trainer):
    """Logs texts, as overrides of `log` do that round for reading."""

    def log(self, logs, start_time=None):
        super().log({name: f"{value:.3f}" if isinstance(value, float) else value for name, value in logs.items()})


def test_logs_that_are_texts_are_shown_and_end_no_run(tmp_path, monkeypatch):
    stream = a_terminal(monkeypatch)
    given = arguments(tmp_path, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=3)
    Worded(tiny.new_line(), given, train_dataset=tiny.line_rows(8), eval_dataset=tiny.line_rows(4)).train()
    Worded(tiny.new_line(), given, train_dataset=tiny.line_rows(8), eval_dataset=tiny.line_rows(4)).train(
        resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3")
    )
    rows = [line for line in printed(stream) if re.match(r" *2/6 +[\d.]+ ", line)]
    assert len(rows) == 1


def test_the_curve_stands_where_its_points_are():
    lines = curve([(1, 4.0), (10, 2.0)], [(5, 3.0), (10, 1.0)], 10, 60, " loss ")
    assert len(lines) == 8
    assert max(map(len, lines)) <= 60
    assert lines[0].lstrip().startswith("4 ┤")
    assert lines[6].lstrip().startswith("1 ┤")
    assert lines[6].endswith("●")  # the last mark: lowest, at the right
    assert [number for number, line in enumerate(lines) if "●" in line] == [2, 6]  # 3.0 is a third below 4.0
    assert lines[7].endswith("step 10")
    assert curve([(1, float("nan"))], [(5, 3.0)], 10, 60, "") == []


def test_a_notebook_gets_transformers_bar_and_table(tmp_path, monkeypatch):
    shown: list[str] = []

    class Display:
        def update(self, html):
            shown.append(html)

    def display(html, display_id=False):
        shown.append(html)
        return Display()

    ipython, part = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(config={"IPKernelApp": {}})
    ipython.display, part.HTML, part.display = part, str, display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", part)
    monkeypatch.delitem(sys.modules, "transformers.utils.notebook", raising=False)
    rows = tiny.tokens()
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3)
    trainer = Trainer(tiny.llama(), args, train_dataset=rows, eval_dataset=rows[:8])
    trainer.train()
    assert "<progress value='6' max='6'" in shown[-1]
    losses = [one["eval_loss"] for one in trainer.state.log_history if "eval_loss" in one]
    assert all(f"<td>{loss:.6f}</td>" in shown[-1] for loss in losses)
    assert "eval_runtime" in trainer.evaluate()
    (callback,) = [one for one in trainer.callback_handler.callbacks if type(one).__name__ == "NotebookCallback"]
    callback.on_train_begin(trainer.args, trainer.state, trainer.control)
    written = {"eval_loss": 2.5, "eval_generation_success_rate": 0.75, "eval_generation_step": 6}
    callback.on_evaluate(trainer.args, trainer.state, trainer.control, metrics=written)
    callback.training_tracker.display()
    assert "Generation Success Rate" in shown[-1]
    assert "0.750000" in shown[-1]
    assert "Generation Step" not in shown[-1]
    sys.modules.pop("transformers.utils.notebook")


@pytest.mark.slow
def test_evaluating_and_checking_a_checkpoint_show_bars(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream = a_terminal(monkeypatch)
    monkeypatch.setattr(bars, "PATIENCE", 0.0)
    rows = tiny.tokens()
    args = arguments(Path(), eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3)
    big = tiny.llama(hidden_size=128, intermediate_size=512)  # its checkpoint has megabytes
    trainer = Trainer(big, args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert "evaluating" in stream.getvalue()
    trainer.train(resume_from_checkpoint=True)
    assert "MB of checkpoint-6 checked" in stream.getvalue()


def test_a_checksum_tells_of_every_piece(tmp_path):
    content = bytes(range(256)) * 20_000  # more than one piece
    (tmp_path / "file").write_bytes(content)
    told: list[float] = []
    found = summed(tmp_path / "file", "sha256", told.append)
    assert found == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert sum(told) == pytest.approx(5.12)
    assert len(told) > 1


@pytest.mark.slow
def test_the_command_that_goes_on_is_that_of_the_door(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ["dataset.num_train_samples=64", "dataset.num_test_samples=4", "train.max_steps=2"]
    assert main(["algebra", "train", str(ROOT / "src/trainwright/recipes/algebra.yaml"), *few]) == 0
    assert re.search(
        r"to go on: trainwright algebra train \S+ .* train.max_steps=2 --resume\.\n", capsys.readouterr().err
    )
