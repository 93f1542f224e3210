"""`trainwright chat runs/sft-1`: a conversation with a model, or with several at once, in the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainwright.cli.numbers import written

if TYPE_CHECKING:
    from trainwright.trained.asking.conversation import Conversation

_COMMANDS = {
    "/reset": "forget all turns",
    "/undo": "take the last question and its answer back",
    "/regen": "answer the last question again",
    "/system TEXT": "set the system prompt; without a text, none",
    "/save FILE": "add the conversation to a file of JSON lines",
    "/help": "this list",
    "/quit": "leave, as Ctrl-D does",
}


def run(argv: Sequence[str]) -> int:
    """Talk with models until the input ends."""
    parser = argparse.ArgumentParser(
        prog="trainwright chat",
        description="Talk with a model; several given, each answers. Ctrl-C stops an answer.",
        epilog="In the conversation: " + "; ".join(f"{name}: {text}" for name, text in _COMMANDS.items()) + ".",
    )
    what = "a run's folder, its job, a checkpoint, or a model's folder; base:RUN is what a run was trained from"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=what)
    parser.add_argument("--system", type=written, metavar="TEXT", help="the system prompt")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="the weights' number format")
    parser.add_argument("--lines", action="store_true", help="for programs: JSON lines in and out")
    from trainwright.cli.after import sampling

    sampling.add_arguments(parser, temperature=0.7, top_p=0.95, tokens=512)
    args = parser.parse_args(argv)

    from trainwright.cli.after import in_job
    from trainwright.cli.after.quiet import quiet
    from trainwright.trained.asking.conversation import Conversation
    from trainwright.trained.asking.writer import writer
    from trainwright.trained.folders import asked_for
    from trainwright.trained.loading import fastest_device

    settings = sampling.asked(args)
    talks: dict[str, Conversation] = {}
    for given in args.runs:
        trained = asked_for(in_job.place_of(given))
        with quiet():
            talks[str(trained.folder)] = Conversation(
                writer(trained, settings, dtype=args.dtype, device=fastest_device()), args.system, seed=args.seed
            )
        if not args.lines:
            print(trained)
    if args.lines:
        from trainwright.cli.after.chat_lines import LineTalk

        LineTalk(talks).go_on()
        return 0
    bare = [name for name, one in talks.items() if not one.is_chat]
    if bare:
        print(f"{' and '.join(bare)}: no chat template, so that each text is gone on with as it is, by itself.")
    print(f"{', '.join(_COMMANDS)}.\n", flush=True)
    Talk(talks).go_on()
    return 0


class Talk:
    """The terminal's side of conversations.

    Args:
        talks: conversations by the names of their models; every one gets the same questions.
    """

    def __init__(self, talks: dict[str, Conversation]) -> None:
        self.talks = talks
        self.shown = sys.stdin.isatty()

    def go_on(self) -> None:
        """Read questions and commands until the input ends."""
        from trainwright.errors import DataError

        if self.shown:
            import readline  # noqa: F401 (input() then knows the keys of a line and what was written before)
        while True:
            try:
                line = input("> " if self.shown else "").strip()
            except EOFError:
                break
            except UnicodeDecodeError as error:
                raise DataError(f"Standard input is no text in UTF-8 ({error.reason} at byte {error.start}).") from None
            except KeyboardInterrupt:
                print("\nCtrl-D or /quit leaves.")
                continue
            if line == "/quit":
                break
            if line:
                self.take(line)
        if self.shown:
            print()

    def take(self, line: str) -> None:
        """Do what a line says: a command, or a question."""
        name, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/reset": self.reset, "/undo": self.undo, "/regen": self.again, "/system": self.system,
            "/save": self.save, "/help": self.help,
        }  # fmt: skip
        if not line.startswith("/"):
            self.ask(line)
        elif name in commands:
            commands[name](rest.strip())
        else:
            from trainwright.errors import did_you_mean

            print(f"There is no {name}.{did_you_mean(name, commands)} /help lists what there is.")

    def ask(self, question: str) -> None:
        """Show every model's answer as it is written; Ctrl-C stops one, and what was written stays."""
        from trainwright.errors import DataError

        for name, one in self.talks.items():
            if len(self.talks) > 1:
                print(f"[{name}]")
            try:
                for piece in one.say(question):
                    print(printable(piece), end="", flush=True)
            except KeyboardInterrupt:
                print(" [stopped]", end="")
            except DataError as error:
                print(f"{error} /reset or /undo makes room.", end="")
            print("\n" if self.shown else "", flush=True)

    def again(self, rest: str) -> None:
        """Answer the last question again."""
        questions = [one.undo() for one in self.talks.values()]
        question = next((one for one in questions if one is not None), None)
        if question is None:
            print("Nothing was asked yet.")
        else:
            self.ask(question)

    def undo(self, rest: str) -> None:
        """Take the last question and its answer back."""
        questions = [one.undo() for one in self.talks.values()]
        taken = next((one for one in questions if one is not None), None)
        print("Nothing was asked yet." if taken is None else f"Taken back: {taken}")

    def reset(self, rest: str) -> None:
        """Forget all turns."""
        for one in self.talks.values():
            one.reset()
        print("Forgotten.")

    def system(self, rest: str) -> None:
        """Set the system prompt."""
        for one in self.talks.values():
            one.system = rest or None
        print(f"System prompt: {rest or 'none'}")

    def save(self, rest: str) -> None:
        """Add the conversations to a file."""
        if not rest:
            print("Give a file: /save conversation.jsonl")
            return
        if not any(one.turns for one in self.talks.values()):
            print("Nothing was said yet.")
            return
        file = Path(rest).expanduser()
        try:
            for one in self.talks.values():
                one.save(file)
        except OSError as error:
            print(f"'{file}' cannot be written: {error.strerror}.")
            return
        print(f"Saved: {file}")

    def help(self, rest: str) -> None:
        """List the commands."""
        for name, text in _COMMANDS.items():
            print(f"{name:<14} {text}")


def printable(text: str) -> str:
    """Return a text without what a terminal would obey, such as the beginning of a colour."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
