import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.opinions import opinions
from spiceclust.functional.partition import partition_score
from spiceclust.models.heads import ClusterHeads, build_head
from spiceclust.training import head_choice
from spiceclust.training.checkpoint import Artefact, part
from spiceclust.training.features import CachedFeatures
from spiceclust.training.head_choice import finalists, judge, keep


def two_pairs() -> CachedFeatures:
    """Four images on two axes; each one's nearest neighbour lies on the same axis, its second does not."""
    plain = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    neighbors = torch.tensor([[1], [0], [3], [2]], dtype=torch.int32)
    views = plain.unsqueeze(0).half()
    return CachedFeatures(Artefact({"plain": plain, "weak": views, "strong": views, "neighbors": neighbors}))


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
    torch.testing.assert_close(logits[0], two_pairs().plain)
    assert not logits.requires_grad


def test_many_images_are_judged_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, asked = heads_of(torch.eye(2), torch.tensor([[0.0, 3], [3, 0]])), []
    expected, consistencies = judge(heads, two_pairs(), 2)
    monkeypatch.setattr(head_choice, "AT_ONCE", 3)
    heads.register_forward_pre_hook(lambda module, given: asked.append(len(given[0])))
    found = judge(heads, two_pairs(), 2)
    assert asked == [3, 1]
    torch.testing.assert_close(found[0], expected)
    assert found[1] == consistencies


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
    torch.testing.assert_close(head(two_pairs().plain), logits[1])


def test_labels_are_those_of_the_probabilities_where_these_tie() -> None:
    # Logits that differ by less than rounding give equal probabilities: the first cluster has the image then.
    logits = torch.tensor([[[0.0, 1e-9]]])
    assert logits.argmax() == 1
    artefact = keep(ClusterHeads(1, 2, 2, seed=0), 0, logits, {})
    first, second = artefact.tensors["probabilities"][0].tolist()
    assert first == second
    assert artefact.tensors["head_labels"].tolist() == [[0]]


def parted(*labels: list[int], kept: int = 0) -> Artefact:
    """What a stage leaves whose heads gave these labels: each has the label of an image as its logits."""
    weights = torch.stack([F.one_hot(torch.tensor(each), 2).float() for each in labels])
    heads = ClusterHeads(len(labels), 100, 2, seed=0)
    with torch.no_grad():
        heads.weight1.copy_(torch.eye(100).expand_as(heads.weight1))
        heads.weight2.copy_(weights)
        for bias in (heads.bias1, heads.bias2):
            bias.zero_()
    return keep(heads, kept, heads(IMAGES).detach(), {"name": str(labels)})


# A ring of 100 images, each with the next as its neighbour, and each on an axis of its own.
RING, IMAGES = torch.arange(100).roll(-1).view(100, 1), torch.eye(100)
FEATURES = CachedFeatures(
    Artefact({"plain": IMAGES, "weak": IMAGES[None], "strong": IMAGES[None], "neighbors": RING.int()})
)


HALVES = [0] * 50 + [1] * 50
MOSTLY = [0] * 80 + [1] * 20
ONE = [1] * 100
SCRAPS = [0, 1] * 50


def names(**labels: list[int]) -> list[str]:
    return list(finalists({name: parted(each) for name, each in labels.items()}, FEATURES, 2))


def test_every_finalist_carries_its_score() -> None:
    found = finalists({"a": parted(MOSTLY), "b": parted(HALVES)}, FEATURES, 2)
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    # Two of the 100 neighbours are parted by either.
    expected = {"a": 3.5 * entropy - math.log(0.03), "b": 3.5 * math.log(2) - math.log(0.03)}
    assert {name: each.facts["partition_score"] for name, each in found.items()} == pytest.approx(expected)
    alone = finalists({"a": parted(MOSTLY)}, FEATURES, 2)["a"]
    assert alone.facts == {"kept": 0, "name": str((MOSTLY,)), "partition_score": pytest.approx(expected["a"])}
    assert torch.equal(alone.tensors["head_labels"], parted(MOSTLY).tensors["head_labels"])


def test_every_finalist_carries_what_all_heads_say_of_its_labels() -> None:
    other = [i * 4 // 100 % 2 for i in range(100)]
    given = {"first": parted(other), "second": parted(SCRAPS), "third": parted([1 - label for label in HALVES])}
    found = finalists(given, FEATURES, 2)
    assert list(found) == ["first", "third"]  # the heads of the second have a say all the same
    heads = torch.cat([each.tensors["head_labels"].long() for each in given.values()])
    scores = torch.tensor([partition_score(labels, RING, 2) for labels in heads])
    for name, each in found.items():
        own = given[name].tensors["head_labels"][0].long()
        expected = opinions(heads, scores, own, 2)
        torch.testing.assert_close(each.tensors["opinions"], expected)
        assert not torch.allclose(expected, F.one_hot(own, 2).float(), atol=0.01)


def test_the_first_goes_on_beside_the_best_unless_it_is_far_behind() -> None:
    near = [i * 4 // 100 % 2 for i in range(100)]  # four neighbours parted: a score 0.51 less
    far = [i * 10 // 100 % 2 for i in range(100)]  # ten: 1.3 less
    assert names(first=near, best=HALVES) == ["first", "best"]
    assert names(first=far, best=HALVES) == ["best"]
    assert names(first=near, second=far, best=HALVES) == ["first", "best"]  # the second is neither


def test_where_the_first_is_best_the_best_of_the_others_goes_on() -> None:
    near, nearer = [i * 6 // 100 % 2 for i in range(100)], [i * 4 // 100 % 2 for i in range(100)]
    assert names(first=HALVES, second=near, third=nearer) == ["first", "third"]
    assert names(first=HALVES, second=SCRAPS, third=ONE) == ["first"]  # these are far behind


def test_an_empty_cluster_does_not_go_on_for_its_agreement() -> None:
    assert names(one=ONE, two=HALVES) == ["two"]


def test_of_equals_the_earlier_goes_on() -> None:
    assert names(a=HALVES, b=HALVES, c=[1 - label for label in HALVES]) == ["a", "b"]


def test_the_head_with_which_most_others_agree_speaks_for_its_clustering() -> None:
    shifted = [i * 2 // 100 for i in range(5, 100)] + [0] * 5  # as good a cut of the ring as the halves
    found = finalists({"a": parted(shifted, HALVES), "b": parted(HALVES, HALVES)}, FEATURES, 2)
    assert {name: each.facts["kept"] for name, each in found.items()} == {"a": 1, "b": 0}
    for each in found.values():
        assert each.tensors["probabilities"].argmax(dim=1).tolist() == HALVES
        head = build_head(100, 2)
        head.load_state_dict(part(each.tensors, "head."))
        torch.testing.assert_close(head(IMAGES).softmax(dim=1), each.tensors["probabilities"])
        assert not part(each.tensors, "heads.")
    alone = finalists({"a": parted(shifted, HALVES)}, FEATURES, 2)["a"]
    assert alone.facts["kept"] == 0  # a method with one way keeps what its stage prefers


def test_a_head_that_parts_more_neighbours_does_not_speak_for_its_consensus() -> None:
    near = [i * 4 // 100 % 2 for i in range(100)]
    found = finalists({"a": parted(SCRAPS, near), "b": parted(SCRAPS, SCRAPS), "c": parted(HALVES)}, FEATURES, 2)
    assert found["a"].facts["kept"] == 1
