import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spiceclust.errors import TrainingError
from spiceclust.progress import Task
from spiceclust.training import snapshots
from spiceclust.training.context import Context
from spiceclust.training.loop import CURVE_POINTS, Order, cosine, train
from spiceclust.training.snapshots import Kept, Snapshots

CPU = torch.device("cpu")
CONTEXT = Context(0, CPU, bf16=False)


class Recorded:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int]] = []
        self.steps: list[int] = []
        self.notes: list[str] = []

    def say(self, text: str) -> None: ...

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        self.tasks.append((name, total))
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.steps.append(steps)
        self.notes.append(note)


# batches


def stream(n: int, size: int, count: int, name: str = "x", seed: int = 0) -> list[int]:
    """The first `count` image numbers."""
    order = Order(n, size, name, Context(seed, CPU, bf16=False))
    whole = [image for number in range(-(-count // size)) for image in order.batch(number).rows.tolist()]
    return whole[:count]


@given(st.integers(1, 30), st.integers(1, 40))
def test_every_image_comes_once_before_any_comes_again(n: int, size: int) -> None:
    numbers = stream(n, size, 4 * n)
    for epoch in range(4):
        assert sorted(numbers[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(st.integers(1, 30), st.integers(1, 40))
def test_batches_have_one_size_and_go_on_across_epochs(n: int, size: int) -> None:
    order = Order(n, size, "x", CONTEXT)
    drawn = [order.batch(number).rows for number in range(5)]
    assert all(batch.shape == (size,) and batch.dtype == torch.int64 for batch in drawn)
    assert torch.cat(drawn).tolist() == stream(n, 1, 5 * size)  # the size cuts the stream, it does not change it


@given(st.integers(1, 30), st.integers(1, 40), st.lists(st.integers(0, 9), max_size=12))
def test_a_batch_is_the_same_whichever_came_before(n: int, size: int, asked: list[int]) -> None:
    order = Order(n, size, "x", CONTEXT)
    for number in asked:
        assert torch.equal(order.batch(number).rows, Order(n, size, "x", CONTEXT).batch(number).rows)


def test_epochs_have_orders_of_their_own() -> None:
    numbers = stream(50, 7, 150)
    assert numbers[:50] != numbers[50:100] != numbers[100:]
    assert numbers[:50] != list(range(50))


def test_the_order_depends_on_seed_and_name_alone() -> None:
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), stream(50, 7, 200)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert stream(50, 7, 200) == first
    assert stream(50, 7, 200, seed=1) != first
    assert stream(50, 7, 200, name="y") != first


# cosine


def test_cosine_by_hand() -> None:
    # 10 steps, of which the first 5 rise: 1/6 ... 5/6; then half a cosine over the other 5
    factors = [cosine(step, 10, 0.5) for step in range(11)]
    rising = [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]
    falling = [0.5 * (1 + math.cos(math.pi * part / 5)) for part in range(6)]
    assert factors == pytest.approx([*rising, *falling])
    assert cosine(5, 10, 0.5) == 1
    assert cosine(10, 10, 0.5) == pytest.approx(0)


def test_without_warm_up_the_rate_starts_in_full() -> None:
    assert [cosine(step, 4, 0.0) for step in range(4)] == pytest.approx([1, 0.5 + math.sqrt(0.125), 0.5, 0.1464466])


@given(st.integers(1, 3000), st.sampled_from([0.0, 0.05, 0.3, 0.9]))
def test_the_rate_rises_then_falls_and_never_leaves_its_range(steps: int, warmup: float) -> None:
    factors = [cosine(step, steps, warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    full = math.ceil(warmup * steps)
    assert all(a < b for a, b in pairwise(factors[:full]))
    assert all(a > b for a, b in pairwise(factors[full:]))


@given(st.integers(100, 3000))
def test_the_rate_ends_near_nothing(steps: int) -> None:
    assert cosine(steps - 1, steps, 0.05) < 0.001


# train


def run(losses: list[float], context: Context = CONTEXT) -> list[float]:
    """Trains a parameter that the losses do not depend on, so that they come as given."""
    weight = torch.zeros(1, requires_grad=True)
    return train(
        lambda number: losses[number] + 0 * weight.sum(),
        steps=len(losses),
        optimizer=torch.optim.SGD([weight], lr=0.1),
        rate=lambda number: 1.0,
        state={},
        name="1 pretrain",
        part="pretrain",
        context=context,
    )


@pytest.mark.parametrize("steps", [1, 2, 199, 200, 201, 399, 400, 401, 999, 1000])
def test_the_curve_has_at_most_200_points(steps: int) -> None:
    curve = run([1.0] * steps)
    assert CURVE_POINTS == 200
    assert min(steps, 100) <= len(curve) <= 200


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=450))
def test_the_curve_is_made_of_means_over_equal_stretches(losses: list[int]) -> None:
    curve = run([float(loss) for loss in losses])
    stretch = -(-len(losses) // len(curve))  # the last stretch may be shorter
    parts = [losses[start : start + stretch] for start in range(0, len(losses), stretch)]
    assert curve == pytest.approx([sum(part) / len(part) for part in parts], rel=1e-5)


def test_a_short_training_keeps_every_loss() -> None:
    assert run([3.0, 2.0, 1.0]) == [3, 2, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("steps", [10, 1000])
@pytest.mark.parametrize("place", [1, 5, -1])
def test_a_loss_that_is_not_finite_stops_the_training_in_one_line(bad: float, steps: int, place: int) -> None:
    losses = [1.0] * steps
    losses[place] = bad
    with pytest.raises(TrainingError) as caught:
        run(losses)
    assert str(caught.value) == (
        f"1 pretrain: the loss is {bad} at step {place % steps} of {steps}; pretrain.learning_rate=0.1 is the likely "
        "cause: lower it with --config in a new folder (finished 1-pretrain and 2-embed can be copied there)"
    )


def test_a_loss_that_is_lost_before_anything_is_learned_is_not_the_learning_rate_s_fault() -> None:
    with pytest.raises(TrainingError, match=r"nan at step 0 of 900, before .*: an encoder or views of your own") as why:
        run([math.nan] * 900)
    assert "learning_rate" not in str(why.value)


def breaking(at: int, mask: float, context: Context = CONTEXT) -> list[float]:
    """Four steps whose losses are finite, and in one of them a gradient that is not."""
    weight = torch.zeros(1, requires_grad=True)

    def step(number: int) -> Tensor:
        return weight.sqrt().sum() if number == at else torch.ones((), requires_grad=True)

    return train(
        step,
        steps=4,
        optimizer=torch.optim.SGD([weight], lr=0.1),
        rate=lambda number: 1.0,
        state={"model": Kept(weight=weight.detach(), mask=torch.tensor(mask))},
        name="5 semi",
        part="semi",
        context=context,
    )


def test_weights_that_are_lost_in_the_last_step_are_no_result() -> None:
    with pytest.raises(TrainingError) as caught:
        breaking(at=3, mask=0.0)
    assert str(caught.value).startswith(
        "5 semi: 1 of the tensors that it changes (model/weight, ...) hold values that are not finite after step 3 of "
        "4; semi.learning_rate=0.1 is the likely cause"
    )


def test_weights_that_are_lost_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SECONDS", 0.0)
    monkeypatch.setattr(snapshots, "SHARE", math.inf)
    kept = Snapshots(tmp_path, "key", CPU)
    with pytest.raises(TrainingError, match="after step 1 of 4"):
        breaking(at=1, mask=0.0, context=replace(CONTEXT, snapshots=kept))
    weight = torch.ones(1)
    assert kept.restore("5 semi", {"model": Kept(weight=weight, mask=torch.ones(()))})[0] == 1
    assert weight.item() == 0


def test_what_was_not_finite_before_is_no_fault_of_the_training() -> None:
    assert breaking(at=-1, mask=-math.inf) == [1.0] * 4


def test_a_training_stops_soon_after_the_loss_is_lost() -> None:
    done: list[int] = []
    weight = torch.zeros(1, requires_grad=True)

    def step(number: int) -> Tensor:
        done.append(number)
        return weight.sum() * 0 + (math.nan if number >= 500 else 1.0)

    optimizer = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(TrainingError):
        train(step, steps=2000, optimizer=optimizer, rate=lambda _: 1.0, state={}, name="x", part="y", context=CONTEXT)
    assert len(done) <= 500 + 2000 // CURVE_POINTS + 1


def test_the_rate_scales_every_group_from_its_own_base() -> None:
    first, second = (torch.zeros(1, requires_grad=True) for _ in range(2))
    groups = [{"params": [first], "lr": 1.0}, {"params": [second], "lr": 10.0}]
    rates = [0.5, 1.0, 0.25, 0.0]
    train(
        lambda number: (first + second).sum(),  # a gradient of 1, at every step anew
        steps=4,
        optimizer=torch.optim.SGD(groups),
        rate=lambda number: rates[number],
        state={},
        name="x",
        part="pretrain",
        context=CONTEXT,
    )
    assert first.item() == pytest.approx(-1.75)  # 0.5 + 1 + 0.25 + 0
    assert second.item() == pytest.approx(-17.5)


def test_training_follows_the_gradient() -> None:
    weight = torch.tensor([4.0], requires_grad=True)
    curve = train(
        lambda number: (weight - 1).square().sum(),
        steps=3,
        optimizer=torch.optim.SGD([weight], lr=0.25),
        rate=lambda number: 1.0,
        state={},
        name="x",
        part="pretrain",
        context=CONTEXT,
    )
    assert curve == [9, 2.25, 0.5625]  # the distance to 1 halves: 3, 1.5, 0.75
    assert weight.item() == 1.375


@pytest.mark.parametrize("steps", [7, 450])
def test_progress_hears_of_every_step(steps: int) -> None:
    heard = Recorded()
    run([1.5] * steps, Context(0, CPU, bf16=False, progress=heard))
    assert heard.tasks == [("1 pretrain", steps)]
    assert sum(heard.steps) == steps
    assert set(heard.notes) == {"loss 1.500"}
