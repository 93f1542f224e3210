"""Imports of other packages: the tables of docs/doors.md, and `trainwright doors`, which goes by them."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import transformers

import trainwright
from tests import ROOT
from trainwright.cli.main import main
from trainwright.cli.tour import moved

SCRIPT = '''\
"""A script."""
import os, transformers
from calt.io import IOPipeline, ReversedOrderLoadPreprocessor as Reversed  # two
from calt.models.base import ModelRegistry
from oumi.core.configs import (
    TrainerType,  # of a file
    TrainingConfig,
)
from oumi.core.trainers import BaseTrainer, Trainer; x = 1
if x:
    from transformers.trainer_utils import EvalPrediction, get_last_checkpoint
    from transformers import AutoModel, TrainingArguments as Args
from transformers.utils import logging
from transformerlab.sdk.v1.train import tlab_trainer
from trl import SFTTrainer
from lab import lab
from policy.trainer import BaseTrainer
import calt.trainer as ct
import calt.io
from mine import Trainer as Own

print(transformers.AutoModel, transformers.trainer_utils, ct.Trainer, ct.TrainerLoader)
'''
WANTED = '''\
"""A script."""
import os, trainwright as transformers
from trainwright.pipelines import IOPipeline, ReversedOrderLoadPreprocessor as Reversed  # two
from calt.models.base import ModelRegistry
from trainwright.config import (
    TrainerType,  # of a file
    TrainingConfig,
)
from trainwright.config import BaseTrainer; from trainwright import Trainer; x = 1
if x:
    from trainwright import EvalPrediction
    from transformers.trainer_utils import get_last_checkpoint
    from trainwright import AutoModel, TrainingArguments as Args
from transformers.utils import logging
from trainwright.jobs import tlab_trainer
from trl import SFTTrainer
from trainwright.jobs import lab
from trainwright import BaseTrainer
import trainwright.pipelines as ct
import calt.io
from mine import Trainer as Own

print(transformers.AutoModel, transformers.trainer_utils, ct.Trainer, ct.TrainerLoader)
'''


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def test_changed_lines_are_shown_and_the_file_stays(script, capsys):
    assert main(["doors", "script.py"]) == 0
    assert script.read_text() == SCRIPT
    shown, said = capsys.readouterr()
    lines = [line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert sorted(line[1:] for line in lines if line[0] == "+") == sorted(
        set(WANTED.splitlines()) - set(SCRIPT.splitlines())
    )
    assert said.splitlines() == [
        "script.py:4: calt.models.base.ModelRegistry has no counterpart here; instead: "
        "`ModelPipeline.from_io_dict(cfg.model, io_dict).build()`.",
        "script.py:15: trl.SFTTrainer has no counterpart here; instead: a file: `trainwright init sft`, then "
        "`trainwright train sft.yaml`.",
        "script.py:19: import calt.io: import the names that are used, each by itself.",
        "script.py:22: transformers.trainer_utils has no counterpart here.",
        "script.py:22: calt.trainer.TrainerLoader has no counterpart here; instead: "
        "`TrainerPipeline.from_io_dict(…).build()`.",
    ]


def test_a_file_is_changed_where_that_is_asked_for(script, capsys):
    assert main(["doors", "script.py", "--write"]) == 0
    assert script.read_text() == WANTED
    assert "script.py: written." in capsys.readouterr().err
    script.write_text("import torch\n")
    assert main(["doors", "script.py"]) == 0
    assert capsys.readouterr() == ("", "script.py: no import of another package's that is written differently here.\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"from calt import (\n", "line 1, is no Python"), (b"x = '\xff'\n", "is no Python"), (None, "cannot be read")],
)
def test_what_is_no_script_is_told(script, content, said, capsys):
    script.unlink() if content is None else script.write_bytes(content)
    assert main(["doors", "script.py"]) == 2
    assert said in capsys.readouterr().err


def test_ends_of_lines_stay(script):
    script.write_bytes(b"if 1:\r\n\tfrom oumi.core.trainers import Trainer, BaseTrainer\r\n")
    assert main(["doors", "script.py", "--write"]) == 0
    assert script.read_bytes() == (
        b"if 1:\r\n\tfrom trainwright import Trainer\r\n\tfrom trainwright.config import BaseTrainer\r\n"
    )


def test_a_mark_at_the_beginning_and_a_star(script, capsys):
    script.write_bytes(b"\xef\xbb\xbffrom transformers import *\nfrom calt import *\n")
    assert main(["doors", "script.py", "--write"]) == 0
    assert script.read_bytes() == b"\xef\xbb\xbffrom trainwright import *\nfrom calt import *\n"
    assert "script.py:2: calt.*: import the names that are used, each by itself." in capsys.readouterr().err


def test_every_new_import_works():
    for system in moved.SYSTEMS:
        names = [name for row in system.rows for name in row.names]
        assert len(names) == len(set(names)), system.title
        for row in system.rows:
            assert bool(row.new) != bool(row.note)
            for name in row.names if row.new else ():
                assert getattr(importlib.import_module(row.new), name), name
        for _, new in (*system.whole, *system.rest):
            importlib.import_module(new)


def test_what_we_have_of_transformers_names_is_in_the_table():
    modules = [transformers.trainer_callback, transformers.trainer_utils, transformers]
    theirs = {name for name in trainwright._OURS if any(hasattr(module, name) for module in modules)}
    assert set(moved.TRANSFORMERS.rows[0].names) == theirs
    around = {one.name for one in pkgutil.iter_modules(transformers.__path__) if one.name.startswith(moved.NOT_HERE)}
    assert around >= {"trainer_utils", "training_args"}


def test_the_page_is_the_table():
    assert (ROOT / "docs" / "doors.md").read_text() == moved.page()
