"""Classifiers: weights, losses, decoding, and what they refuse."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from cvlib.models import Classifier, create_model, list_models
from cvlib.models.classifier import list_architectures

SIZE = (64, 64)


def new(architecture="resnet18", classes=("ant", "bee"), **options):
    return Classifier(classes, SIZE, architecture=architecture, **options)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None, num_classes=1000)


def random_images(count=2, size=SIZE):
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8)


def save(tmp_path, state, name="weights.pth"):
    torch.save(state, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1"],
)
def test_every_family_gives_logits_of_the_classes(name):
    model = create_model(name, ("a", "b", "c"), image_size=(64, 96)).eval()
    assert model.name == name and model.task == "classification"
    assert model(random_images(2, (64, 96))).shape == (2, 3)
    head = dict(model.named_modules())[model.head[0]]
    assert head.weight.shape[0] == 3
    assert sum(model.is_head(n) for n, _ in model.named_parameters()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", list_architectures())
def test_every_architecture_of_torchvision_builds_with_its_head(name):
    if name.startswith("regnet"):  # their widths are computed from tensors, which have no values
        pytest.skip("not on the meta device")
    with torch.device("meta"):
        model = create_model(name, ("a", "b", "c"))
    assert dict(model.named_modules())[model.head[0]].weight.shape[0] == 3


def test_options_rebuild_the_model():
    model = new("resnet50", stride_in_1x1=True, label_smoothing=0.1)
    again = create_model(model.name, model.classes, **model.options)
    assert again.options == model.options
    again.load_state_dict(model.state_dict())
    images = random_images()
    assert torch.equal(model.eval()(images), again.eval()(images))


def test_names_are_listed_by_task():
    assert "tiny_ssd" in list_models("detection")
    assert "resnet18" in list_models("classification")
    assert list_models("segmentation") == []
    assert set(list_models()) == {*list_models("detection"), *list_models("classification")}
    with pytest.raises(ValueError, match=r"expected `task` to be one of detection.*got 'pose'"):
        list_models("pose")


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ValueError, match=r"got 'resnet_18'; did you mean 'resnet18'\?"):
        create_model("resnet_18", ("a",))
    with pytest.raises(TypeError, match="expected an option of resnet18, got 'size'"):
        create_model("resnet18", ("a",), size=3)
    with pytest.raises(ValueError, match=r"expected `architecture` to be a name .*got 'alexnot'"):
        new("alexnot")
    with pytest.raises(ValueError, match=r"expected `label_smoothing` to be in \[0, 1\), got 1"):
        new(label_smoothing=1)
    with pytest.raises(ValueError, match="expected `image_size` to be square for vit_b_16"):
        Classifier(("a",), (64, 32), architecture="vit_b_16")


@pytest.mark.parametrize(
    "classes, size, message",
    [
        ((), SIZE, "expected `classes` to be a list of names"),
        ("ant", SIZE, "expected `classes` to be a list of names"),
        (("ant", "ant"), SIZE, r"`classes` to be all different, got \['ant'\] twice"),
        (("ant",), (0, 64), "expected `image_size`"),
        (("ant",), (64,), "expected `image_size`"),
    ],
)
def test_impossible_classes_and_sizes_are_refused(classes, size, message):
    with pytest.raises(ValueError, match=f"Classifier: .*{message}"):
        Classifier(classes, size)


@pytest.mark.parametrize("kind", ["pth", "wrapped", "float16", "safetensors", "no head"])
def test_weights_of_another_head_are_taken_over(tmp_path, resnet, kind):
    state = resnet.state_dict()
    if kind == "no head":
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    if kind == "float16":
        state = {n: v.half() if v.is_floating_point() else v for n, v in state.items()}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind == "wrapped" else state, path)
    model = new(weights=path)
    for name, value in model.network.state_dict().items():
        assert value.dtype == resnet.state_dict()[name].dtype
        if not name.startswith("fc."):
            assert torch.equal(value, state[name].to(value.dtype)), name
    assert "weights" not in model.options, "a trained model needs no file"


def test_a_head_of_the_right_size_is_taken_too(tmp_path, resnet):
    path = save(tmp_path, resnet.state_dict())
    model = new(classes=[f"class {i}" for i in range(1000)], weights=path)
    assert torch.equal(model.network.fc.weight, resnet.fc.weight)


def test_images_are_normalised_inside(tmp_path, resnet):
    path = save(tmp_path, resnet.state_dict())
    model = new(classes=[f"class {i}" for i in range(1000)], weights=path).eval()
    images = random_images()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_hand = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(model(images), resnet.eval()(by_hand))
    torch.testing.assert_close(model(images / 255), model(images))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("conv1.weight"), "1 do not fit: missing conv1.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 do not fit: unexpected extra"),
        (
            lambda s: s.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}),
            r"conv1.weight of shape \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)",
        ),
        (lambda s: [s.pop(n) for n in list(s) if "layer1" in n], "20 do not fit: .*, and 12 more"),
    ],
)
def test_everything_but_the_head_must_fit(tmp_path, resnet, change, message):
    state = dict(resnet.state_dict())
    change(state)
    with pytest.raises(ValueError, match=f"adopt_weights: .*{message}"):
        new(weights=save(tmp_path, state))


def test_weights_without_counters_are_complete(tmp_path, resnet):
    state = {n: v for n, v in resnet.state_dict().items() if "num_batches" not in n}
    new(weights=save(tmp_path, state))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"read_weights: .*w\.pth, which is damaged"):
        new(weights=tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.safetensors, which is damaged"):
        new(weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3)])
def test_files_with_other_values_are_named(tmp_path, content):
    with pytest.raises(ValueError, match="expected tensors by name, got other values in"):
        new(weights=save(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"an existing weight file, got .*none\.pth"):
        new(weights=tmp_path / "none.pth")


def test_real_weights_load(test_data):
    folder = test_data / "weights"
    mobilenet = create_model("mobilenet_v2", ("a",), weights=folder / "mobilenet_v2_features.pth")
    assert mobilenet.network.features[0][0].weight.abs().max() > 0.5
    path = folder / "resnet50_keras_v1_mixed16.pth"
    model = create_model("resnet50", ("a",), weights=path, stride_in_1x1=True)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert model.network.layer2[0].conv1.stride == (2, 2)
    assert model.network.layer2[0].conv2.stride == (1, 1)


def test_strides_move_without_changing_shapes():
    plain, moved = new("resnet50"), new("resnet50", stride_in_1x1=True)
    moved.load_state_dict(plain.state_dict())
    images = random_images()
    expected, logits = plain.eval()(images), moved.eval()(images)
    assert logits.shape == expected.shape
    assert not torch.equal(logits, expected)
    assert [m.stride for m in moved.modules() if isinstance(m, nn.Conv2d)].count((2, 2)) == 7


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_strides_need_bottlenecks(name):
    with pytest.raises(ValueError, match=r"a ResNet with bottlenecks .* for stride_in_1x1"):
        new(name, stride_in_1x1=True)


def test_the_loss_is_the_mean_over_the_images_that_count():
    model = new(label_smoothing=0.1)
    raw = torch.randn(4, 2, requires_grad=True)
    label = torch.tensor([0, 1, -1, 1])
    loss = model.loss(raw, {"label": label})["class"]
    kept = label >= 0
    expected = nn.functional.cross_entropy(raw[kept], label[kept], label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
    nothing = model.loss(raw, {"label": torch.full((4,), -1)})["class"]
    assert nothing == 0
    nothing.backward()
    assert raw.grad.abs().sum() == 0


@pytest.mark.parametrize("label", [2, -2])
def test_labels_without_a_class_are_refused(label):
    with pytest.raises(ValueError, match=rf"expected `label` in 0\.\.1 .*got \[0, {label}\]"):
        new().loss(torch.zeros(2, 2), {"label": torch.tensor([0, label])})


def test_decoding_gives_probabilities():
    results = new().decode(torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
    probabilities = torch.stack([result.probabilities for result in results])
    torch.testing.assert_close(probabilities, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))


@pytest.mark.parametrize("size", [(80, 120), (120, 80), (30, 20), (64, 64), (1, 5)])
def test_the_middle_is_cut_out(size):
    image = new().framing.apply(random_images(1, size)[0])
    assert image.shape == (3, *SIZE) and image.dtype == torch.uint8


def test_seven_eighths_of_the_short_side_are_cropped():
    image = torch.zeros(3, 64, 128, dtype=torch.uint8)
    image[:, 4:60, 36:92] = 255  # seven eighths of 64 around the centre
    assert new().framing.apply(image)[:, 1:-1, 1:-1].min() > 250
    image[:, 4:60, 36:92], image[:, :4] = 0, 255
    assert new().framing.apply(image)[:, 1:].max() < 10
