"""The arguments of a run: one plain dataclass per group, composed into TrainingArguments."""
