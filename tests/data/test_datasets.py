import numpy as np
from sklearn.datasets import load_digits

from spiceclust.data.datasets import digits
from spiceclust.outputs.evaluate import digits_labels


def test_digits_are_the_images_of_scikit_learn_over_the_whole_range() -> None:
    images = digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    levels = load_digits().images
    # 16 levels lie 15.9 apart: rounding may not move one by more than half a step of 8 bits
    assert np.abs(images - levels * 255 / 16).max() <= 0.5


def test_labels_are_apart_and_in_the_same_order() -> None:
    labels = digits_labels()
    assert labels.shape == (1797,)
    assert labels.dtype == np.int64
    assert np.array_equal(labels, load_digits().target)
    assert np.bincount(labels).min() > 150
