"""What each of three processes finds of `World`: run under torchrun by test_world.py; a failed assertion ends it."""

import re
import sys

import pytest
import torch
from torch import nn

from spiceclust.errors import ConfigError
from spiceclust.progress import Silent
from spiceclust.training import distributed
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.distributed import open_world, refuse_devices

CPU = torch.device("cpu")
N = 8  # shares of 2, 3 and 3


def main() -> None:
    with open_world(Silent()) as world:
        assert world.size == 3
        rows = world.share(N).rows
        whole = torch.arange(N * 2, dtype=torch.float64).view(N, 2)
        for dtype in (torch.float64, torch.float16, torch.int64, torch.bool):
            assert torch.equal(world.gather(whole.to(dtype)[rows], N), whole.to(dtype))
        batches = world.share(4).rows  # 8 rows in batches of 3 stay together: 3, 3, 2 and none would be one too few
        assert torch.equal(world.gather(whole[batches.start * 2 : batches.stop * 2], N, 2), whole)
        assert world.any(world.rank == 2, False) == (True, False)

        made = world.led(lambda: Artefact({"a": whole, "b": torch.tensor(True)}, {"by": "the leader", "rank": 0}), CPU)
        assert torch.equal(made.tensors["a"], whole)
        assert made.tensors["b"].item() is True
        assert made.facts == {"by": "the leader", "rank": 0}
        assert world.led(lambda: Artefact({}), CPU).tensors == {}

        refuse_devices(world, CPU)
        for names, refusal in (
            (("cuda a", "cuda b", "cuda a"), "processes 0 and 2 compute on the same GPU (cuda a)"),
            (("cuda a", "cuda b", "cpu"), "devices of two kinds (cuda in process 1, cpu in process 2)"),
        ):
            distributed.identity_of = lambda device, names=names: names[world.rank]
            with pytest.raises(ConfigError, match=re.escape(refusal)):
                refuse_devices(world, CPU)

        works = {name: (lambda name=name: Artefact({"by": torch.tensor(world.rank)}, {"is": name})) for name in "abcd"}
        divided = world.divided(works, CPU)
        assert {name: (int(each.tensors["by"]), each.facts["is"]) for name, each in divided.items()} == {
            "a": (0, "a"),
            "b": (1, "b"),
            "c": (2, "c"),
            "d": (0, "d"),
        }

        torch.manual_seed(0)
        images, classes = torch.randn(N, 4, dtype=torch.float32), torch.arange(N) % 3

        def network() -> nn.Module:
            return nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))

        alone = network()
        shared = network()
        shared.load_state_dict(alone.state_dict())
        parallel = world.data_parallel(shared)
        for by_mean in (True, False):  # the two ways to a loss: the mean of shares, and the loss of all that was joined
            alone.zero_grad()
            shared.zero_grad()
            expected = nn.functional.cross_entropy(alone(images), classes)
            expected.backward()
            logits = parallel(images[rows])
            if by_mean:
                loss = world.mean(nn.functional.cross_entropy(logits, classes[rows]), N)
            else:
                loss = nn.functional.cross_entropy(world.join(logits, N), classes)
            loss.backward()
            torch.testing.assert_close(loss, expected)
            for ours, theirs in zip(shared.parameters(), alone.parameters(), strict=True):
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(shared.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    print(f"process {world.rank} found all as it should be", file=sys.stderr)


if __name__ == "__main__":
    main()
