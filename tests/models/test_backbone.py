from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.close import assert_near
from torch import Tensor, nn

from hyperfocal.models import Backbone
from hyperfocal.models.folding import FoldingConv2d, fold_norms
from hyperfocal.types import ConfigError

NAMES = [
    "resnet18",
    "mobilenetv2_100",
    "regnety_002",
    "convnext_atto",
    "dla34",
    "vgg11_bn",
]


def backbone(name: str = "resnet18", **settings: object) -> Backbone:
    torch.manual_seed(0)
    return Backbone.Config(name, **({"pretrained": False} | settings)).build()


def shake_norms(module: nn.Module) -> None:
    """Give batch norms random statistics and scales, as if trained."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low, high in (
                (norm.weight, 0.5, 1.5),
                (norm.bias, -0.3, 0.3),
                (norm.running_mean, -0.3, 0.3),
                (norm.running_var, 0.5, 2.0),
            ):
                tensor.data.uniform_(low, high, generator=generator)


def image(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size + 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_any_timm_model_with_strides_8_16_32(name: str) -> None:
    model = backbone(name)
    maps = model.eval()(image())
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(model.channels, (8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "regnety_002", "dla34"])
def test_folded_norms_change_no_feature_and_no_gradient(name: str) -> None:
    plain = timm.create_model(name, features_only=True).eval()
    shake_norms(plain)
    folded = copy.deepcopy(plain)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert fold_norms(folded, lambda: folded(image())) == norms > 0
    gradients = []
    for model in (plain, folded):
        loss = sum(
            (m * torch.linspace(0, 1, m.numel()).view(m.shape)).mean() for m in model(image())
        )
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for a, b in zip(plain(image()), folded(image()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * a.abs().max().item())
    for key, grad in gradients[0].items():
        scale = max(float(grad.abs().max()), 1e-6)
        torch.testing.assert_close(gradients[1][key], grad, rtol=1e-3, atol=2e-3 * scale, msg=key)
    assert plain.state_dict().keys() == folded.state_dict().keys()


def test_norms_in_training_mode_are_untouched() -> None:
    plain = timm.create_model("resnet18", features_only=True)
    model = Backbone(copy.deepcopy(plain))
    plain.train(), model.train()
    for a, b in zip(plain(image())[-3:], model(image()), strict=True):
        torch.testing.assert_close(a, b)
    for (name, a), b in zip(plain.named_buffers(), model.net.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


class TwoReaders(nn.Module):
    """The norm isn't the only reader of its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Reused(TwoReaders):
    """The convolution runs twice, once without the norm."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.conv(2 * x)


@pytest.mark.parametrize("make", [TwoReaders, Reused])
def test_a_convolution_that_others_read_is_left_alone(make: type[nn.Module]) -> None:
    model = make().eval()
    shake_norms(model)
    expected = model(image())
    assert fold_norms(model, lambda: model(image())) == 0
    assert torch.equal(model(image()), expected)


def test_folding_follows_copies_loads_and_changes() -> None:
    """Nothing is remembered from an earlier forward pass."""
    model, plain = backbone().eval(), timm.create_model("resnet18", features_only=True).eval()
    with torch.no_grad():
        before = model(image())
        twin = copy.deepcopy(model)
        shake_norms(twin)
        model.load_state_dict(twin.state_dict())
        plain.load_state_dict(twin.net.state_dict())
        wanted = plain(image())[-3:]
        for old, a, b, want in zip(before, model(image()), twin(image()), wanted, strict=True):
            assert torch.equal(a, b)
            assert not torch.allclose(a, old, rtol=0.1)
            assert_near(a, want, of_largest=1e-3)
    own = {id(m) for m in twin.modules()}
    folded = [m for m in twin.modules() if isinstance(m, FoldingConv2d)]
    assert folded
    assert all(id(m.norm) in own for m in folded)


def test_frozen_norms_keep_statistics_and_scales() -> None:
    model = backbone(norm="frozen").train()
    shake_norms(model)  # a scale of 0, where residual branches start, would hide gradients
    before = copy.deepcopy(model.state_dict())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())
    sum(m.sum() for m in model(image())).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}


def test_frozen_norms_stay_in_the_dtype_of_autocast() -> None:
    model = backbone("mobilenetv2_100", norm="frozen").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {m.dtype for m in model(image())} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "stages", "frozen", "free"),
    [
        ("resnet18", 1, ["conv1", "bn1"], ["layer1", "layer4"]),
        ("resnet18", 2, ["conv1", "bn1", "layer1"], ["layer2", "layer4"]),
        ("mobilenetv2_100", 2, ["conv_stem", "blocks.0", "blocks.1"], ["blocks.2", "blocks.6"]),
        ("convnext_atto", 2, ["stem_0", "stages_0"], ["stages_1"]),
        ("resnet18", 0, [], ["conv1", "layer1"]),
    ],
)
def test_frozen_stages(name: str, stages: int, frozen: list[str], free: list[str]) -> None:
    model = backbone(name, frozen_stages=stages, norm="train")
    seen = set()
    for key, parameter in model.net.named_parameters():
        for prefix in [p for p in frozen + free if key.startswith(p)]:
            assert parameter.requires_grad == (prefix in free), key
            seen.add(prefix)
    assert seen == set(frozen + free)


def test_frozen_stages_keep_their_statistics() -> None:
    model = backbone(frozen_stages=2, norm="train").train()
    before = copy.deepcopy(model.state_dict())
    model(image())
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(k.startswith(("net.layer2", "net.layer3", "net.layer4")) for k in changed)


def test_auto_freezes_norms_of_loaded_weights_only() -> None:
    assert Backbone.Config("resnet18").freezes_norms
    assert not Backbone.Config("resnet18", pretrained=False).freezes_norms
    offline = Backbone.Config("resnet18", weights=Path("w.pth")).offline()
    assert (offline.pretrained, offline.weights, offline.freezes_norms) == (False, None, True)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "convnext_atto"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_weights(tmp_path: Path, name: str, suffix: str) -> None:
    """A classifier's file, here with norms folded away as in exported models."""
    torch.manual_seed(1)
    source = timm.create_model(name).eval()
    for norm in source.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.bias)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        save_file(source.state_dict(), path)
    model = backbone(name, weights=path).eval()
    reference = timm.create_model(name, features_only=True)
    full = {k.replace(".", "_"): v for k, v in source.state_dict().items()}
    reference.load_state_dict({k: full[k.replace(".", "_")] for k in reference.state_dict()})
    for a, b in zip(model(image()), reference.eval()(image())[-3:], strict=True):
        assert_near(a, b, of_largest=1e-5)


def test_weights_that_dont_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(ConfigError, match="no such weights file"):
        backbone(weights=path)
    torch.save(timm.create_model("resnet34").state_dict(), path)
    with pytest.raises(ConfigError, match=r"weights\.pth: not weights of this backbone.*lacks"):
        backbone("mobilenetv2_100", weights=path)
    state = timm.create_model("resnet18").state_dict()
    torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
    with pytest.raises(ConfigError, match="the wrong shape in 1, such as conv1"):
        backbone(weights=path)
    torch.save([1, 2], path)
    with pytest.raises(ConfigError, match="contains no state dict"):
        backbone(weights=path)
    (tmp_path / "weights.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ConfigError, match="not a readable weights file"):
        backbone(weights=tmp_path / "weights.safetensors")


def test_weights_files_execute_nothing(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"conv1.weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ConfigError, match="not a readable weights file"):
        backbone(weights=tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_224", "features at strides 16, but a detector needs 8, 16, 32"),
        ("swin_tiny_patch4_window7_224", "doesn't accept images of any size"),
        ("resnet5000", "a model of timm"),
    ],
)
def test_unsuitable_models_are_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        backbone(name)
