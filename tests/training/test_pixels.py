import threading

import pytest
import torch

from spiceclust.training.context import Context, open_context
from spiceclust.training.loop import Order
from spiceclust.training.pixels import SHARE, HostPixels, place

CPU = torch.device("cpu")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, (20, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def context() -> Context:
    return open_context(0, "cpu", None)


def test_images_of_the_cpu_stay_where_they_are(images: torch.Tensor) -> None:
    assert place(images, CPU) is images


def test_images_that_would_fill_the_device_stay_in_host_memory(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = int(images.nbytes / SHARE)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free - 1, 2 * free))
    stayed = place(images, torch.device("cuda"))
    assert isinstance(stayed, HostPixels)
    assert stayed.parts == (images,)
    moved: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moved.append(device) or tensor)
    assert place(images, torch.device("cuda")) is images
    assert moved == [torch.device("cuda")]


def test_any_index_gives_what_the_tensor_gives(images: torch.Tensor) -> None:
    pixels = HostPixels(images, CPU)
    rows = torch.tensor([3, 3, 19, 0])
    assert (len(pixels), pixels.shape) == (20, images.shape)
    for index in (rows, slice(2, 7), slice(None, None, 3)):
        assert torch.equal(pixels[index], images[index])


def test_images_that_follow_others_are_indexed_as_one_tensor_and_never_copied(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.cat([images, images[:7] ^ 255, images[:1]])
    more = whole[20:27], whole[27:]
    pixels = place(images, CPU, *more)
    assert isinstance(pixels, HostPixels)
    assert [part.data_ptr() for part in pixels.parts] == [part.data_ptr() for part in (images, *more)]
    assert (len(pixels), pixels.shape) == (28, whole.shape)
    for index in (torch.tensor([27, 3, 20, 19, 26, 3]), slice(15, 28), slice(None, None, 3), slice(0, 0)):
        assert torch.equal(pixels[index], whole[index])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(whole.nbytes / SHARE) - 1, 0))
    assert isinstance(place(images, torch.device("cuda"), *more), HostPixels)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(whole.nbytes / SHARE), 0))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor)
    assert torch.equal(place(images, torch.device("cuda"), *more), whole)  # type: ignore[arg-type]


def test_an_expected_batch_is_gathered_once_by_another_thread(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    gather = HostPixels._gather

    def watched(pixels: HostPixels, rows: torch.Tensor) -> torch.Tensor:
        threads.append(threading.current_thread())
        return gather(pixels, rows)

    monkeypatch.setattr(HostPixels, "_gather", watched)
    pixels = HostPixels(images, CPU)
    first, second, unexpected = torch.tensor([1, 2]), torch.tensor([5, 4]), torch.tensor([1, 2])
    pixels.expect(first)
    pixels.expect(second)
    assert torch.equal(pixels[unexpected], images[unexpected])
    assert torch.equal(pixels[second], images[second])
    assert len(threads) == 3
    assert [thread is threading.main_thread() for thread in threads].count(True) == 1
    assert torch.equal(pixels[first], images[first])  # it was passed over, and is gathered again


def test_an_order_tells_of_each_batch_one_step_ahead(images: torch.Tensor, context: Context) -> None:
    told: list[torch.Tensor] = []
    pixels = HostPixels(images, CPU)
    pixels.expect = told.append  # type: ignore[method-assign]
    order, plain = Order(20, 8, "x", context, pixels), Order(20, 8, "x", context)
    for number in range(7):
        rows = order.batch(number).rows
        assert torch.equal(rows, plain.batch(number).rows)
        assert number == 0 or rows is told[number - 1]
    assert len(told) == 7
    assert torch.equal(order.batch(2).rows, plain.batch(2).rows)  # taken up elsewhere
