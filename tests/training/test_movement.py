import numpy as np
import pytest
import torch

from spiceclust.training.movement import Movement

CPU = torch.device("cpu")


def run(changes: list[int], settle: int = 8, n: int = 1000, per_pass: int = 4, cut: int | None = None) -> int | None:
    """Notes predictions of which so many change in each pass; how many passes it took until they stopped moving."""

    def fresh() -> Movement:
        return Movement(n, n // per_pass, per_pass * len(changes), settle, CPU)

    movement = fresh()
    predictions = torch.zeros(n, dtype=torch.int64)
    for place, count in enumerate(changes):
        if place == cut:
            movement, before = fresh(), movement.state_dict()
            movement.load_state_dict({name: tensor.clone() for name, tensor in before.items()})
        predictions[:count] += 1
        for step, rows in enumerate(torch.arange(n).split(n // per_pass)):
            movement.note(place * per_pass + step, rows, predictions[rows])
            if movement.over(place * per_pass + step):
                assert step == per_pass - 1  # only whole passes are compared
                return place + 1
    return None


def test_as_many_changes_as_before_are_the_flicker_of_views() -> None:
    assert run([3] * 100) == 8
    assert run([0] * 100) == 8


def test_fewer_changes_than_before_are_progress() -> None:
    assert run(list(range(100, 0, -1))) is None


def test_it_is_looked_at_whenever_the_passes_have_doubled() -> None:
    # After 8 passes 60 and 30 are compared with 30 and 10, after 16 the tens with one another.
    assert run([60] * 5 + [30] * 2 + [10] * 93) == 16


def test_it_can_be_told_never_to_look() -> None:
    assert run([0] * 100, settle=0) is None


def test_what_is_taken_up_again_stops_where_it_would_have() -> None:
    falling = [60] * 5 + [30] * 2 + [10] * 93
    assert run(falling, cut=13) == run(falling) == 16


def test_a_slow_fall_is_not_mistaken_for_the_end() -> None:
    """Changes that halve every 200 passes towards a floor, drawn at random: what is left to learn where it ends."""
    rng, n, floor, excess = np.random.default_rng(0), 1797, 2.0, 20.0
    left = []
    for _ in range(20):
        passes = np.arange(3200)
        changes = rng.poisson(floor + excess * 0.5 ** (passes / 200)).clip(0, n).tolist()
        stopped = run(changes, settle=200, n=n - n % 4, per_pass=4)
        left.append(0.5 ** ((stopped or 3200) / 200))
    assert np.median(left) < 0.1


@pytest.mark.parametrize(("n", "batch", "per_pass"), [(895, 448, 2), (2, 448, 1), (1000, 96, 10)])
def test_a_pass_is_the_nearest_number_of_steps(n: int, batch: int, per_pass: int) -> None:
    assert Movement(n, batch, 100, 8, CPU).per_pass == per_pass
