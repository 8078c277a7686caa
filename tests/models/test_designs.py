import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from spiceclust.errors import ConfigError
from spiceclust.models.designs import build, n_features_of, timm_model, timm_weights
from spiceclust.models.encoders import Design, build_encoder


def images(count: int, size: int, channels: int = 3) -> Tensor:
    return torch.rand((count, channels, size, size), generator=torch.Generator().manual_seed(0))


def test_one_of_ours_is_built_again_from_its_design() -> None:
    first = build_encoder("resnet_small", 1, 16, [0.3], [0.2], seed=3).eval()
    assert first.design == Design("moco", "resnet_small", 1, 16, 128)
    again = build(first.design)
    again.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(images(2, 16, 1)), first(images(2, 16, 1)))


def test_a_resnet_normalises_as_imagenet_s_do() -> None:
    encoder = build(Design("resnet", "resnet18", 3, 64, 512)).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        maps = encoder.backbone((images(2, 64) - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        torch.testing.assert_close(encoder(images(2, 64)), maps.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


def test_embeddings_pass_as_they_are() -> None:
    encoder = build(Design("embeddings", "e.npy", 3, 8, 5))
    rows = torch.rand(4, 5)
    assert torch.equal(encoder(rows), rows)
    assert encoder.n_features == 5
    assert not encoder.state_dict()


class Own(nn.Module):
    """Asks for memory that lies as an array does, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3 * 8 * 8, 7)

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.last(batch.view(len(batch), -1))
        return out


def test_one_s_own_module_is_copied_and_sees_the_pixels_as_they_are() -> None:
    own = Own()
    encoder = build(Design("module", "Own", 3, 8, 7), own)
    channels_last = images(2, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(encoder(channels_last), own(images(2, 8)))
    with torch.no_grad():
        own.last.weight.zero_()
    assert not torch.equal(encoder(channels_last), own(images(2, 8)))


def test_what_cannot_be_built_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"the module a\.B of your own, which is in no file: give it in Python"):
        build(Design("module", "a.B", 3, 8, 7))
    with pytest.raises(ConfigError, match="unknown kind of encoder 'clip': choose one of moco, resnet, timm, embeddi"):
        build(Design("clip", "x", 3, 8, 7))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (lambda batch: (batch, batch), "it returns a tuple"),
        (lambda batch: batch.flatten(2), r"float32 of shape \(1, 3, 64\)"),
        (lambda batch: batch.flatten(1).long(), r"int64 of shape \(1, 192\)"),
        (lambda batch: batch.flatten(), r"float32 of shape \(192,\)"),
    ],
)
def test_a_module_that_returns_no_features_is_refused(out: object, message: str) -> None:
    class Wrong(nn.Module):
        def forward(self, batch: Tensor) -> object:
            return out(batch)  # type: ignore[operator]

    with pytest.raises(ValueError, match=message):
        n_features_of(Wrong(), 3, 8)


def test_features_are_counted_by_sending_an_image_through() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), Own()).train()
    assert n_features_of(module, 3, 8) == 7
    assert torch.equal(module[0].running_mean, torch.zeros(3))  # it went through in evaluation mode
    assert n_features_of(nn.Conv2d(3, 4, 3), 3, 8) == 4  # maps, which are averaged


# timm


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
@pytest.mark.parametrize("size", [None, 64])
def test_timm_s_models_come_without_classifier_and_with_their_preparation(
    name: str, size: int | None, timm: ModuleType
) -> None:
    model, about = timm_model(name, size)
    side = size or about["input_size"][1]
    width = n_features_of(model, 3, side)
    encoder = build(Design("timm", name, 3, side, width)).eval()
    mean, std = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert tuple(about["mean"]) == tuple(timm.get_pretrained_cfg(name).mean)
    with torch.no_grad():
        features = encoder(images(2, side))
        expected = encoder.backbone((images(2, side) - mean) / std)
    assert features.shape == (2, width)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert not any("fc" in key and "1000" in str(tuple(value.shape)) for key, value in encoder.state_dict().items())


def test_building_leaves_the_global_generator_alone(timm: ModuleType) -> None:
    before = torch.get_rng_state()
    timm_model("test_resnet", 32)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("classes", [1000, 10, 0])
def test_timm_s_own_weights_load_with_or_without_their_classifier(name: str, classes: int, timm: ModuleType) -> None:
    theirs = timm.create_model(name, num_classes=classes).eval()
    design = Design("timm", name, 3, 160, n_features_of(timm_model(name, None)[0], 3, 160))
    encoder = build(design).eval()
    encoder.load_state_dict(timm_weights(design, theirs.state_dict(), "file"))
    theirs.reset_classifier(0)
    with torch.no_grad():
        normalised = (images(2, 160) - 0.5) / 0.5
        torch.testing.assert_close(encoder(images(2, 160)), theirs(normalised), rtol=1e-4, atol=1e-5)


def test_positions_of_a_transformer_are_resized_with_the_images(timm: ModuleType) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0)
    design = Design("timm", "vit_tiny_patch16_224", 3, 32, 192)
    with pytest.raises(ConfigError, match="do not fit timm:vit_tiny_patch16_224"):
        timm_weights(design, theirs.state_dict(), "file")  # eleven blocks are not in it
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    assert timm_weights(design, whole.state_dict(), "file")["backbone.pos_embed"].shape == (1, 5, 192)


def test_weights_that_leave_something_as_it_was_drawn_are_refused(
    timm: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    state = timm.create_model("test_resnet").state_dict()
    design = Design("timm", "test_resnet", 3, 32, 96)
    first = next(iter(state))
    some = {name: value for name, value in state.items() if name != first}
    with pytest.raises(ConfigError, match=rf"weights w\.pth do not fit timm:test_resnet \(1 missing, first {first}"):
        timm_weights(design, some, "w.pth")
    with pytest.raises(
        ConfigError, match=r"75 missing, first conv1\.0\.weight; .* unexpected, first x\.conv1"
    ) as caught:
        timm_weights(design, {f"x.{name}": value for name, value in state.items()}, "w.pth")
    assert "\n" not in str(caught.value)
    assert not caplog.records  # timm's own warning lists every key


def test_an_unknown_model_gets_a_hint(timm: ModuleType) -> None:
    with pytest.raises(ConfigError, match=r"timm [\d.]+ has no model 'resnet10': did you mean .*resnet10t"):
        timm_model("resnet10", None)
    with pytest.raises(ConfigError, match=r"has no model '\.\./../etc': timm\.list_models\(\) lists"):
        timm_model("../../etc", None)


def test_weights_that_cannot_be_fetched_are_one_line(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **named: object) -> None:
        raise OSError("no connection\nto the hub")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(ConfigError) as caught:
        timm_model("test_resnet", 32, pretrained=True)
    assert str(caught.value) == (
        "the weights of timm:test_resnet cannot be loaded (no connection to the hub): go online once, or give a file "
        "that you have: timm:test_resnet@FILE"
    )


def test_without_timm_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"need the package timm: pip install 'spiceclust\[timm\]'"):
        timm_model("test_resnet", 32)
