"""The job that a process is: its metrics, progress and checkpoints, and the wish that it stops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainwright.jobs.tracking.tracking import Tracking
from trainwright.trackers.tracker import TrackedRun, Tracker

_NOT_METRICS = ("train/epoch",)


class JobTracker(Tracker):
    """Writes to the journal of a job, which the process is before and after the run.

    Args:
        job: the job.
        start, end: the part of the job's progress that the run is, in percent.
    """

    def __init__(self, job: Tracking, start: float = 0.0, end: float = 100.0) -> None:
        self.job = job
        self.start, self.end = start, end
        self._run: TrackedRun | None = None
        self._series = ""  # of a trial of a search: the beginning of its metrics' names

    def begin(self, run: TrackedRun) -> None:
        """Note where the run's files are, and which trial of a search it is."""
        if run is self._run:
            return
        self._run = run
        self.job.keep("output_dir", run.output_dir)
        self.job.tell_time()
        self._series = f"{run.trial}/" if run.trial is not None else ""
        if run.trial is not None:
            tried = ", ".join(f"{key}={value}" for key, value in run.parameters.items())
            self.job.event("trial", f"{run.trial}: {tried}")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Note the metrics; those of a search's trials are series of their own."""
        for name, value in metrics.items():
            if name not in _NOT_METRICS:
                self.job.metric(self._series + name, value, step)

    def progress(self, step: int, total_steps: int) -> None:
        """Note how far the job is."""
        self.job.progress(self.start + (self.end - self.start) * step / max(total_steps, 1), step, total_steps)

    def artifact(self, kind: str, path: Path, step: int | None) -> None:
        """Note a checkpoint."""
        self.job.artifact(kind, str(path), step)

    def should_stop(self) -> bool:
        """Whether the job is asked to stop, and nothing has acted on that yet; the run acts on it now."""
        if not self.job.stop_requested or self.job.acted:
            return False
        self.job.acted = True
        return True
