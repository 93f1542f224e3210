"""`trainwright chat RUN --lines`: a conversation for programs, JSON lines in and out.

A line asks: `{"say": TEXT}`, `{"system": TEXT}`, `{"again": true}`, `{"undo": true}` or `{"reset": true}`. The answers
are `{"ready": [{"name", "is_chat"}, ...]}` at the beginning, `{"model": NUMBER, "piece": TEXT}` while a model writes,
`{"model": NUMBER, "error": TEXT}` where it cannot, and `{"done": true}` at the end of every answer, with the question
as `"taken"` where one was taken back. SIGINT stops an answer, the end of the input the program.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Any, TextIO

from trainwright.errors import DataError

if TYPE_CHECKING:
    from trainwright.trained.asking.conversation import Conversation


class LineTalk:
    """The side of conversations that a program sees.

    Args:
        talks: conversations by the names of their models; every one gets the same questions.
        given: lines that ask.
        told: where answers go.
    """

    def __init__(self, talks: dict[str, Conversation], given: TextIO = sys.stdin, told: TextIO = sys.stdout) -> None:
        self.talks = talks
        self.given = given
        self.told = told
        self.is_stopped = False

    def go_on(self) -> None:
        """Answer until the input ends."""
        signal.signal(signal.SIGINT, self._stop)
        self._tell(ready=[{"name": name, "is_chat": one.is_chat} for name, one in self.talks.items()])
        for line in self.given:
            try:
                asked = json.loads(line)
            except ValueError:
                asked = None
            if isinstance(asked, dict):
                self._tell(done=True, **self._answer(asked))
            else:
                self._tell(done=True, error="A JSON object is expected in a line.")

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what a line asks; return what its last answer holds besides."""
        taken = None
        if "system" in asked:
            for one in self.talks.values():
                one.system = str(asked["system"]) or None
        if asked.get("reset"):
            for one in self.talks.values():
                one.reset()
        if asked.get("undo") or asked.get("again"):
            questions = [one.undo() for one in self.talks.values()]
            taken = next((one for one in questions if one is not None), None)
        question = taken if asked.get("again") else asked.get("say")
        if question:
            self._say(str(question))
        return {} if taken is None else {"taken": taken}

    def _say(self, question: str) -> None:
        self.is_stopped = False
        for number, one in enumerate(self.talks.values()):
            try:
                for piece in one.say(question):
                    self._tell(model=number, piece=piece)
                    if self.is_stopped:
                        break
            except DataError as error:
                self._tell(model=number, error=str(error))

    def _stop(self, *_: Any) -> None:
        self.is_stopped = True

    def _tell(self, **words: Any) -> None:
        self.told.write(json.dumps(words) + "\n")
        self.told.flush()
