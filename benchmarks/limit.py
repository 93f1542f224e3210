"""How near the machine's limit fine-tuning is: useful operations a second, of what a matrix product reaches there.

`python -m benchmarks.limit [THREADS] [VOCABULARY...]`. Rows, model and engines of `benchmarks.sft`. Useful are the
operations of the forward pass and twice as many of the backward pass: of real tokens in the layers, of a token and
those before it in the attention, of labelled targets in the head. Padding, what is computed again, norms,
activations, the optimizer and the embeddings count as nothing. The limit is the fastest of some products of float32
matrices of 2,048 rows and columns, in the same process and with the same threads before and after training; both are
given per second, and per CPU second, which other work on the machine disturbs less.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

from benchmarks import language, sft

ROUNDS = 3


def peaks() -> tuple[float, float]:
    """Return the most operations of a product of square matrices per second, and per CPU second."""
    import torch

    size, seconds, spent = 2048, [], []
    first, second, result = (torch.randn(size, size) for _ in range(3))
    for _ in range(8):
        start, begun = time.perf_counter(), time.process_time()
        torch.mm(first, second, out=result)
        seconds.append(time.perf_counter() - start)
        spent.append(time.process_time() - begun)
    return 2 * size**3 / min(seconds), 2 * size**3 / min(spent)


def measure(engine: str, vocabulary: int, threads: int) -> dict[str, float]:
    """Train in this process; return what is useful and the limit in operations a second, and their ratios."""
    import torch

    torch.set_num_threads(threads)
    before = peaks()
    found = sft.measure(engine, vocabulary, threads)
    limit, of_cpu = map(max, before, peaks())
    share, cpu_share = found["operations"] / limit, found["operations per CPU second"] / of_cpu
    return {"useful": found["operations"], "limit": limit, "share": share, "per CPU second": cpu_share}


def main() -> None:
    """Print a table of medians and the range of the rounds' shares."""
    numbers = [int(given) for given in sys.argv[1:] if given.isdigit()]
    threads, vocabularies = (numbers or [2])[0], numbers[1:] or [8192, 50304]
    print("| vocabulary | engine | GFLOP/s | limit | share | of CPU seconds |\n|---|---|---|---|---|---|")
    for vocabulary in vocabularies:
        found = language.in_turns("benchmarks.limit", sft.ENGINES, ROUNDS, vocabulary, threads)
        for engine, rounds in found.items():
            useful, limit = (statistics.median(one[what] for one in rounds) / 1e9 for what in ("useful", "limit"))
            shares = " | ".join(spread([one[what] for one in rounds]) for what in ("share", "per CPU second"))
            print(f"| {vocabulary} | {engine} | {useful:.0f} | {limit:.0f} | {shares} |", flush=True)


def spread(values: list[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(values):.2f} [{min(values):.2f} to {max(values):.2f}]"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
