"""Run all benchmarks one after another: `python -m benchmarks`."""

from __future__ import annotations

from benchmarks import (
    algebra,
    checkpoint_stall,
    dpo,
    evaluation,
    generation,
    growth,
    jobs,
    limit,
    loop_overhead,
    methods,
    resume,
    saves,
    sft,
    start_up,
)

for benchmark in (
    loop_overhead, start_up, evaluation, checkpoint_stall, saves, resume, jobs, sft, limit, dpo, methods, algebra,
    generation, growth,
):  # fmt: skip
    print(f"\n## {(benchmark.__doc__ or '').splitlines()[0]}\n", flush=True)
    benchmark.main()
