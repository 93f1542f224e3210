"""Policies by name, and from a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedConfig

from trainwright.checkpoint import layout
from trainwright.errors import CheckpointError
from trainwright.tasks.imitation.act import ActPolicy
from trainwright.tasks.imitation.diffusion import DiffusionPolicy
from trainwright.tasks.imitation.policies import MlpPolicy, Policy


def kinds() -> dict[str, type[Policy]]:
    """Return the policies by `policy.kind`."""
    return {"mlp": MlpPolicy, "act": ActPolicy, "diffusion": DiffusionPolicy}


def load_policy(folder: str | Path) -> Policy:
    """Return the policy of a folder, ready to act; of a checkpoint with a moving average, that one's.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise CheckpointError(f"'{folder}' holds no policy: it has no config.json.")
    known = {kind.config_class.model_type: kind for kind in kinds().values()}
    found = PreTrainedConfig.get_config_dict(path)[0].get("model_type")
    if found not in known:
        raise CheckpointError(f"'{folder}' holds a '{found}', which is no policy of ours; load it with its own class.")
    policy: Policy
    policy, told = known[found].from_pretrained(path, output_loading_info=True)
    if told["missing_keys"]:
        raise CheckpointError(f"'{folder}' lacks {', '.join(sorted(told['missing_keys']))} of its policy; train anew.")
    if (path / layout.AVERAGE).is_file():
        weights = torch.load(path / layout.AVERAGE, weights_only=True, map_location="cpu")["weights"]
        policy.load_state_dict(weights, strict=False)
    policy.eval()
    return policy
