"""What a method cannot do is said before anything is loaded, in its own words."""

from __future__ import annotations

import pytest

from tests import tiny_language as tiny
from tests.methods.beside_trl import content_of
from trainwright import ConfigError
from trainwright.config.reading.read import load_checked

MISTAKES = {
    "KTO": {
        "training.trainer_kwargs.loss_type=kta": "loss_type 'kta' is not known",
        "training.trainer_kwargs.beta=0": "beta 0.0 is not above 0",
        "training.trainer_kwargs.desirable_weight=-1": "desirable_weight -1.0 is negative",
        "training.per_device_train_batch_size=1": "per_device_train_batch_size needs steps of two rows or more",
        "training.trainer_kwargs.precompute_ref_log_probs=true": "precompute_ref_log_probs needs loss_type: apo_zero",
        "training.trainer_kwargs.trl_compatible=true": "trl_compatible needs training.train_sampling_strategy",
        "training.trainer_kwargs={sync_ref_model: true, ref_model_sync_steps: 0}": "is less than one step",
        "data.train.stream=true": "streams of texts are read by our own trainers only",
    },
    "REWARD": {
        "training.trainer_kwargs.center_rewards_coefficient=-1": "center_rewards_coefficient -1 is negative",
        "training.trainer_kwargs.beta=1": "it is a setting of preference optimisation",
        "data.train.stream=true": "streams of texts are read by our own trainers only",
        "training.label_smoothing_factor=0.1": "pairs have no classes",
    },
    "DISTILL": {
        "training.trainer_kwargs.lmbda=1.5": "lmbda 1.5 is not from 0 to 1",
        "training.trainer_kwargs.beta=2": "beta 2 is not from 0 to 1",
        "training.trainer_kwargs.temperature=0": "temperature 0 is not above 0",
        "training.trainer_kwargs.loss_type=dft": "the divergence is the only loss",
        "training.trainer_kwargs.teacher_model_name_or_path=null": "there is nobody to learn from",
        "training.label_smoothing_factor=0.1": "the teacher says how likely every token is",
    },
}
DATA = {"KTO": "judged", "REWARD": "preference", "DISTILL": "completion"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tiny.make_place(tmp_path_factory.mktemp("mistakes"))
    tiny.write_teacher(place / "teacher")
    return place


@pytest.mark.parametrize(("method", "override"), [(method, one) for method, all in MISTAKES.items() for one in all])
def test_what_cannot_work_is_said_before_anything_is_loaded(place, tmp_path, method, override):
    kwargs = {"teacher_model_name_or_path": str(place / "teacher")} if method == "DISTILL" else {}
    content = content_of(method, place, tmp_path, DATA[method], kwargs)
    with pytest.raises(ConfigError) as error:
        load_checked(tiny.write_yaml(tmp_path / "run.yaml", content), [override])
    assert MISTAKES[method][override] in str(error.value)
