import pytest
import torch
from torch import Tensor

from spiceclust.models.heads import ClusterHeads, build_head
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.head_choice import judge, keep, prefer


def two_pairs() -> Artefact:
    """Four images on two axes; each one's nearest neighbour lies on the same axis, its second does not."""
    plain = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    return Artefact({"plain": plain, "neighbors": torch.tensor([[1], [0], [3], [2]], dtype=torch.int32)})


def heads_of(*weights: Tensor) -> ClusterHeads:
    """Heads whose logits are the (2, 2) matrices applied to the embedding."""
    heads = ClusterHeads(len(weights), 2, 2, seed=0)
    with torch.no_grad():
        heads.weight1.copy_(torch.eye(2).expand_as(heads.weight1))
        heads.weight2.copy_(torch.stack(weights))
        for bias in (heads.bias1, heads.bias2):
            bias.zero_()
    return heads


def test_judging_by_hand() -> None:
    right, one = torch.eye(2), torch.tensor([[1.0, 0], [1, 0]])
    logits, consistencies = judge(heads_of(right, one), two_pairs(), 2)
    assert consistencies == [1, 0]  # all agree, and all in one cluster
    torch.testing.assert_close(logits[0], two_pairs().tensors["plain"])
    assert not logits.requires_grad


def test_the_kept_head_is_complete() -> None:
    heads = heads_of(torch.eye(2), torch.tensor([[0.0, 3], [3, 0]]))
    logits, _ = judge(heads, two_pairs(), 2)
    artefact = keep(heads, 1, logits, {"loss": [1.0]})
    assert artefact.facts == {"loss": [1.0], "kept": 1}
    assert artefact.tensors["head_labels"].tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    sure = 1 / (1 + float(torch.tensor(-3.0).exp()))
    assert artefact.tensors["probabilities"][:, 1].tolist() == pytest.approx([sure, sure, 1 - sure, 1 - sure])
    head = build_head(2, 2)
    head.load_state_dict({name.removeprefix("head."): t for name, t in artefact.tensors.items() if "head." in name})
    torch.testing.assert_close(head(two_pairs().tensors["plain"]), logits[1])


def test_labels_are_those_of_the_probabilities_where_these_tie() -> None:
    # Logits that differ by less than rounding give equal probabilities: the first cluster has the image then.
    logits = torch.tensor([[[0.0, 1e-9]]])
    assert logits.argmax() == 1
    artefact = keep(ClusterHeads(1, 2, 2, seed=0), 0, logits, {})
    first, second = artefact.tensors["probabilities"][0].tolist()
    assert first == second
    assert artefact.tensors["head_labels"].tolist() == [[0]]


@pytest.mark.parametrize(
    ("equal", "free", "chosen"), [(0.90, 0.91, "equal"), (0.90, 0.93, "free"), (0.9, 0.8, "equal")]
)
def test_equal_sizes_are_kept_until_the_neighbours_contradict(equal: float, free: float, chosen: str) -> None:
    def artefact(name: str, consistency: float) -> Artefact:
        facts = {"kept": 1, "consistency": [0.0, consistency], "name": name}
        return Artefact({"head_labels": torch.zeros(2, 3)}, facts)

    found = prefer(artefact("equal", equal), artefact("free", free))
    assert found.facts["name"] == found.facts["sizes"] == chosen
    assert found.facts["consistency_by_sizes"] == {"equal": equal, "free": free}
    assert found.facts["consistency"][found.facts["kept"]] == (equal if chosen == "equal" else free)
