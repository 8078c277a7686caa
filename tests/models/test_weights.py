import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spiceclust.errors import ConfigError
from spiceclust.models.weights import digest_of, misfit, read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor] = WEIGHTS) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"epoch": 3, "arch": "resnet50", "state_dict": WEIGHTS, "optimizer": {"state": {}, "param_groups": []}},
        {"model": WEIGHTS, "args": {"lr": 0.1}},
        {"state_dict": {"a.weight": torch.zeros(2, 3)}, "state_dict_ema": WEIGHTS},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_comes_out_of_what_scripts_wrap_it_in(content: Any, zipped: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=zipped)
    assert_same(read_weights(tmp_path / "w.pth.tar"))


def test_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert_same(read_weights(tmp_path / "w.safetensors"))


class Harm:
    """What a hostile checkpoint can hold: unpickling it calls a function."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "harmed"
    torch.save({"state_dict": WEIGHTS, "extra": Harm(mark)}, tmp_path / "w.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harm(mark)))
    for name in ("w.pth", "plain.pth"):
        with pytest.raises(ConfigError, match=r"hold more than tensors .* save the state dict alone") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x02 no pickle", b"\xff" * 100])
def test_a_damaged_file_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_weights(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [3, [WEIGHTS], {"epoch": 3}, torch.ones(2)])
def test_a_file_without_named_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="hold no tensors by name"):
        read_weights(tmp_path / "w.pth")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(ConfigError, match="cannot be opened"):
            read_weights(tmp_path / name)


def test_misfit_names_the_first_of_each_kind_and_counts() -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1), "n.num_batches_tracked": torch.zeros(())}
    assert misfit(expected, expected) == ""
    assert misfit(expected, {name: expected[name] for name in "abc"}) == ""  # nothing reads the counter
    assert misfit(expected, {"a": torch.zeros(2)}) == "2 missing, first b"
    given = {**{name: expected[name] for name in "bc"}, "a": torch.zeros(4), "x": torch.zeros(1), "y": torch.zeros(1)}
    assert misfit(expected, given) == "2 unexpected, first x; 1 of another shape, first a: (4,) instead of (2,)"


def test_the_digest_follows_every_value_and_name() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    first = digest_of(module)
    assert digest_of(module) == first
    module[1].running_mean[1] += 1
    assert digest_of(module) != first
    module[1].running_mean[1] -= 1
    assert digest_of(module) == first
    assert digest_of(nn.Sequential(*module, nn.ReLU())) == first  # it has no state; the class is in the config
    assert digest_of(nn.ModuleDict({"a": module[0], "b": module[1]})) != first
