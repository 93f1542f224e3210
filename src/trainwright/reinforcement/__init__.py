"""Reinforcement learning: the stage between the loader and the step, where completions are written and judged."""
