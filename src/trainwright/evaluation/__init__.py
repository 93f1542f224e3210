"""Evaluation and prediction: by loss, by metrics, by generation; and steps of the past shown again."""
