"""Alerts: a webhook or a command when a job failed, is lost or stuck, or one of its metrics is beyond a bound."""
