"""What a checkpoint in the middle of a generation keeps of it, so that it goes on without the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainwright.reinforcement import generation as store
from trainwright.reinforcement.schedule import Places
from trainwright.session.session import Session


@dataclass(frozen=True)
class InUse:
    """The file of that generation, as a part of a checkpoint.

    Attributes:
        session: of the Trainer.
        places: what the loader reads; its schedule says which generation a place belongs to.
    """

    session: Session
    places: Places

    def state_dict(self) -> dict[str, Any] | None:
        """Return name and content of the file, on the first rank; None between two generations."""
        run: Any = self.session.run
        number, place = divmod(run.position, self.places.schedule.span)
        if not place or not self.session.strategy.is_main:
            return None
        path = store.lying(run, run.epoch, number)
        if path is None:
            return None
        return {"name": path.name, "content": torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Put the file back into the run's folder, where none or another one lies."""
        if state is not None and self.session.strategy.is_main:
            path = self.session.run_folder / store.FOLDER / state["name"]
            store.put_back(state["content"].numpy().tobytes(), path)
