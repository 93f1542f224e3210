"""Benchmarks: ratios against transformers or a hand-written loop, interleaved in one run, medians."""
