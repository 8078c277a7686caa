import torch

from spiceclust.training.movement import WINDOW, Movement

CPU = torch.device("cpu")


def run(changes: list[int], n: int = 100, per_pass: int = 4, cut: int | None = None) -> int | None:
    """Notes predictions of which so many change in each pass; the pass after which they have stopped moving."""
    movement = Movement(n, per_pass, CPU)
    predictions = torch.zeros(n, dtype=torch.int64)
    for place, count in enumerate(changes):
        if place == cut:
            movement, before = Movement(n, per_pass, CPU), movement.state_dict()
            movement.load_state_dict({name: tensor.clone() for name, tensor in before.items()})
        predictions[:count] += 1
        for step, rows in enumerate(torch.arange(n).split(n // per_pass)):
            movement.note(rows, predictions[rows])
            if movement.over(place * per_pass + step):
                assert step == per_pass - 1  # only whole passes are compared
                return place
    return None


def test_as_many_changes_as_before_are_the_flicker_of_views() -> None:
    assert run([3] * 100) == 2 * WINDOW  # the first pass, in which all is new, does not count


def test_fewer_changes_than_before_are_progress() -> None:
    assert run(list(range(100, 0, -1))) is None


def test_nothing_that_changes_is_still() -> None:
    assert run([0] * 100) == 2 * WINDOW


def test_predictions_stop_moving_when_the_last_passes_change_as_many_as_those_before() -> None:
    falling = [60] * 20 + [30] * 20 + [10] * 100
    # The window that ends with pass k holds k - 39 of the tens when the one before holds none.
    assert run(falling) == 20 + 20 + 2 * WINDOW - 1


def test_what_is_taken_up_again_stops_where_it_would_have() -> None:
    falling = [60] * 20 + [30] * 20 + [10] * 100
    assert run(falling, cut=33) == run(falling)


def test_a_batch_of_more_than_all_images_is_a_pass() -> None:
    movement = Movement(2, 0, CPU)
    for number in range(3 * WINDOW):
        movement.note(torch.tensor([0, 1]), torch.tensor([5, 5]))
        if movement.over(number):
            break
    assert number == 2 * WINDOW
