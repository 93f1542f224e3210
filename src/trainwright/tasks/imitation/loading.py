"""Policies by name, and from a folder."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from trainwright import __version__
from trainwright.checkpoint import layout
from trainwright.data.sources.files import reason
from trainwright.errors import CheckpointError
from trainwright.tasks.imitation.policies.act import ActPolicy
from trainwright.tasks.imitation.policies.diffusion import DiffusionPolicy
from trainwright.tasks.imitation.policies.policy import MlpPolicy, Policy

logger = logging.getLogger(__name__)


def kinds() -> dict[str, type[Policy]]:
    """Return the policies by `policy.kind`."""
    return {"mlp": MlpPolicy, "act": ActPolicy, "diffusion": DiffusionPolicy}


def load_policy(folder: str | Path) -> Policy:
    """Return the policy of a folder, ready to act; of a checkpoint with a moving average, that one's.

    A policy that another version has made is loaded where it fits, and that is said.

    Raises:
        CheckpointError: there is none, or it does not fit this version.
    """
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise CheckpointError(f"'{folder}' holds no policy: it has no config.json.")
    known = {kind.config_class.model_type: kind for kind in kinds().values()}
    given = PreTrainedConfig.get_config_dict(path)[0]
    found, version = given.get("model_type"), given.get("trainwright_version", __version__)
    made = "" if version == __version__ else f" It was made with trainwright {version}, and this is {__version__}."
    if found not in known:
        raise CheckpointError(
            f"'{folder}' holds a '{found}', which is no policy of ours; load it with its own class.{made}"
        )
    policy: Policy
    try:
        policy, told = known[found].from_pretrained(path, output_loading_info=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"'{folder}' cannot be loaded: {reason(error)}{made}") from error
    for what, names in (("lacks", told["missing_keys"]), ("has too much:", told["unexpected_keys"])):
        if names:
            raise CheckpointError(f"'{folder}' {what} {', '.join(sorted(names))} of its policy; train anew.{made}")
    if made:
        logger.warning("'%s' is loaded.%s", folder, made)
    if (path / layout.AVERAGE).is_file():
        weights = torch.load(path / layout.AVERAGE, weights_only=True, map_location="cpu")["weights"]
        policy.load_state_dict(weights, strict=False)
    policy.eval()
    return policy
