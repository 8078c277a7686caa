from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spiceclust.config import TeacherConfig
from spiceclust.functional.fixmatch import fixmatch_schedule
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.lanes import Lane
from spiceclust.training.movement import Movement
from spiceclust.training.teacher import train_with_teacher

CONTEXT = Context(0, torch.device("cpu"), bf16=False)
START, SLOPE = 2.0, 0.5
SETTINGS = TeacherConfig(steps=5, learning_rate=0.1, weight_decay=0.3, ema=0.75)


def model() -> Any:
    """One weight and one bias, both of START."""
    linear = nn.Linear(1, 1)
    with torch.no_grad():
        linear.weight.fill_(START)
        linear.bias.fill_(START)
    return linear


def trained(settings: TeacherConfig, numbers: list[int] | None = None) -> Artefact:
    def step(student: nn.Module, teacher: nn.Module, number: int) -> tuple[Tensor, Tensor]:
        if numbers is not None:
            numbers.append(number)
        return SLOPE * sum(p.sum() for p in student.parameters()), torch.tensor(float(number))  # type: ignore[return-value]

    return train_with_teacher(
        model(), step, settings, Movement(1, 1, 1000, 40, CONTEXT.device), Lane(1), "test", "semi", CONTEXT
    )


def averaged(decay: float) -> float:
    """The moving average of one number with a constant gradient, under Nesterov's SGD, by hand."""
    value, velocity, average = START, 0.0, START
    for number in range(SETTINGS.steps):
        if number:
            average = SETTINGS.ema * average + (1 - SETTINGS.ema) * value
        slope = SLOPE + decay * value
        velocity = 0.9 * velocity + slope
        value -= SETTINGS.learning_rate * fixmatch_schedule(number, SETTINGS.steps) * (slope + 0.9 * velocity)
    return average


def test_the_result_is_the_average_and_weights_decay_but_biases_do_not() -> None:
    found = trained(SETTINGS).tensors
    assert found["weight"].item() == pytest.approx(averaged(SETTINGS.weight_decay), rel=1e-5)
    assert found["bias"].item() == pytest.approx(averaged(0), rel=1e-5)


@pytest.mark.parametrize(("steps", "used"), [(5, 4), (30, (27 + 28 + 29) / 3)])
def test_the_share_used_is_that_of_the_last_tenth(steps: int, used: float) -> None:
    numbers: list[int] = []
    artefact = trained(SETTINGS.model_copy(update={"steps": steps}), numbers)
    assert numbers == list(range(steps))
    assert artefact.facts["used"] == pytest.approx(used)
    assert artefact.facts["loss"][0] == pytest.approx(2 * SLOPE * START)


def test_the_student_trains_and_the_teacher_lags_without_a_gradient() -> None:
    seen: list[tuple[float, float]] = []

    def step(student: Any, teacher: Any, number: int) -> tuple[Tensor, Tensor]:
        assert student.training
        assert not teacher.average.training
        assert not teacher(torch.ones(1, 1)).requires_grad
        seen.append((student.weight.item(), teacher.average.weight.item()))
        return student(torch.ones(1, 1)).sum(), torch.tensor(1.0)

    train_with_teacher(
        model(), step, SETTINGS, Movement(1, 1, 1000, 40, CONTEXT.device), Lane(1), "test", "semi", CONTEXT
    )
    assert seen[0] == (START, START)
    assert all(own < average for own, average in seen[1:])


def test_training_ends_when_what_was_noted_stopped_moving() -> None:
    movement = Movement(1, 1, 1000, 40, CONTEXT.device)

    def step(student: Any, teacher: Any, number: int) -> tuple[Tensor, Tensor]:
        movement.note(number, torch.tensor([0]), torch.tensor([0]))
        return student(torch.ones(1, 1)).sum() * 0, torch.tensor(float(number))

    settings = SETTINGS.model_copy(update={"steps": 1000})
    facts = train_with_teacher(model(), step, settings, movement, Lane(1), "test", "semi", CONTEXT).facts
    assert facts["steps"] == 40
    assert facts["used"] == pytest.approx((36 + 37 + 38 + 39) / 4)  # the last tenth of those taken
    assert len(facts["loss"]) == -(-facts["steps"] // 5)
