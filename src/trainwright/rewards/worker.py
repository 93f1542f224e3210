"""A process in which rewards are computed: `python -m trainwright.rewards.worker`; it is ended where one hangs.

It reads pickled (reward, columns) from its input and answers with (rewards, what went wrong). What functions print goes
to the errors of the run.
"""

from __future__ import annotations

import os
import pickle
import sys

from trainwright.rewards.functions import call


def main() -> None:
    """Answer until the input ends."""
    answers, asked = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)
    while True:
        try:
            reward, columns = pickle.load(asked)
        except EOFError:
            return
        try:
            answer: tuple[list[float | None], str | None] = (call(reward, columns), None)
        except Exception as error:  # of the user's function, which costs its row
            answer = ([], f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
