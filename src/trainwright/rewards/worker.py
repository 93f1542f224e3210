"""A process in which rewards are computed: `python -m trainwright.rewards.worker`; it is ended where one hangs.

It reads pickled (reward, columns) from its input and answers with the rewards, or why there are none. What functions
print goes to the errors of the run.
"""

from __future__ import annotations

import os
import pickle
import sys

from trainwright.rewards.pool import asked


def main() -> None:
    """Answer until the input ends."""
    answers, questions = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)
    while True:
        try:
            reward, columns = pickle.load(questions)
        except EOFError:
            return
        pickle.dump(asked(reward, columns), answers)
        answers.flush()


if __name__ == "__main__":
    main()
