"""Malicious run folders and weights are refused in one line; nothing in them is executed."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from hyperfocal import load
from hyperfocal.config import dump
from hyperfocal.importers import import_torchvision
from hyperfocal.models.backbone import read_state_dict
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.checkpoint import load_checkpoint
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import ConfigError, HyperfocalError


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("read", [load_checkpoint, read_state_dict, import_torchvision])
@pytest.mark.parametrize("how", ["torch", "torch_old", "pickle", "nested"])
def test_code_in_a_pickle_is_not_run(tmp_path, read, how):
    trap, file = tmp_path / "trap", tmp_path / "weights.pth"
    if how == "pickle":
        file.write_bytes(pickle.dumps({"model": Touch(trap)}, protocol=2))
    elif how == "nested":
        torch.save({"state_dict": {"a": torch.zeros(1), "b": Touch(trap)}}, file)
    else:
        data = {"a": Touch(trap)}
        torch.save(data, file, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(HyperfocalError, match=r"weights\.pth") as caught:
        read(file)
    assert len(str(caught.value).splitlines()) == 1
    assert not trap.exists()


@pytest.mark.parametrize(
    "data", [{1: torch.zeros(1)}, {"a": {"b": 1}}, [torch.zeros(1)], torch.zeros(1), 7]
)
def test_weights_files_that_hold_something_else(tmp_path, data):
    torch.save(data, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="contains no state dict"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("model", "kind"), "os.system", "model.kind = 'os.system', but it must be one of"),
        (("model", "kind"), ["retinanet"], "it must be one of"),
        (("model", "loss", "kind"), {"a": 1}, "it must be one of"),
        (("model", "loss", "class"), "subprocess.Popen", "loss.class = 'subprocess.Popen'"),
        (("model", "loss", "class"), "subprocess:Popen", "would execute the module 'subprocess'"),
        (("model", "class"), "os:system", "would execute the module 'os'"),
        (("model", "neck", "class"), "trap:Neck", "would execute the module 'trap'"),
        (("model", "backbone", "class"), ["trap:Net"], "it must be module:Class"),
        (("data", "sampler", "class"), "\x1b[2Jtrap:S", "it must be module:Class"),
        (("data", "class"), "trap:Data", "data.class: no such field"),
        (("model", "backbone", "name"), "hf-hub:someone/something", "a model of timm"),
        (("model", "backbone", "name"), "../../etc/passwd", "a model of timm"),
        (("data", "sampler"), "builtins.eval", "data.sampler"),
        (("train",), "__import__('os')", "train: expected an object"),
    ],
)
def test_a_config_can_name_no_class_of_its_own(tmp_path, monkeypatch, path, value, what):
    (tmp_path / "trap.py").write_text("open('sprung', 'w')")
    monkeypatch.chdir(tmp_path)
    data = dump(load_recipe("demo"))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    run = RunFolder(tmp_path)
    run.config.write_text(json.dumps(data))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert what in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model": ' * 100_000, "\x00", "nul", '"a"'])
def test_broken_configs(tmp_path, text):
    RunFolder(tmp_path).config.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load(tmp_path)
