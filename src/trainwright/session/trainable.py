"""The parameters that are trained: those that require gradients now, which callbacks may change while a run goes on."""

from __future__ import annotations

from torch import nn


class Trained:
    """Looks at every step which parameters require gradients; neither look waits for a device.

    Attributes:
        parameters: those that do, by name.
    """

    def __init__(self, model: nn.Module) -> None:
        self._all = dict(model.named_parameters())
        self._flags: list[bool] = []
        self.parameters: dict[str, nn.Parameter] = {}
        self.look()

    def look(self) -> bool:
        """Look anew; return whether it is others than before."""
        flags = [parameter.requires_grad for parameter in self._all.values()]
        if flags == self._flags:
            return False
        self._flags = flags
        self.parameters = {name: parameter for name, parameter in self._all.items() if parameter.requires_grad}
        return True
