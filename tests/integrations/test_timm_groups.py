"""Parameter groups of timm's models beside timm's own: depths, and what does not decay."""

from __future__ import annotations

import pytest

import thalweg as tw

timm = pytest.importorskip("timm", exc_type=ImportError)
optim = pytest.importorskip("timm.optim", exc_type=ImportError)

LAST_NORM = {"norm.weight", "norm.bias"}
"""Of a ViT, which timm puts with the last block, and BEiT's authors with the head."""

MODELS = {
    "beit_base_patch16_224": {"embed_dim": 24, "depth": 3, "num_heads": 2},
    "convnext_atto": {"dims": (8, 8, 8, 8)},
    "resnet18": {},
    "vit_tiny_patch16_224": {"depth": 3},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24},
}


@pytest.mark.parametrize("name", MODELS)
def test_depths_are_timms(name):
    model = timm.create_model(name, num_classes=5, **MODELS[name])
    names = {id(param): name for name, param in model.named_parameters()}
    theirs = {
        names[id(param)]: group["lr_scale"]
        for group in optim.param_groups_layer_decay(model, layer_decay=0.5)
        for param in group["params"]
    }
    ours = {
        name: group["lr"]
        for group in tw.param_groups(model, lr=1.0, layer_decay=0.5)
        for name in group["param_names"]
    }
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if ours[name] != theirs[name]} <= LAST_NORM


@pytest.mark.parametrize("name", MODELS)
def test_what_timm_exempts_does_not_decay(name):
    model = timm.create_model(name, num_classes=5, **MODELS[name])
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    theirs = optim.param_groups_weight_decay(model, 0.1, no_weight_decay_list=exempt)
    exempt = {id(param) for group in theirs if group["weight_decay"] == 0 for param in group["params"]}
    ours = tw.param_groups(model, weight_decay=0.1)
    left = [
        (name, param)
        for group in ours
        if group["weight_decay"]
        for name, param in zip(group["param_names"], group["params"], strict=True)
    ]
    assert not any(id(param) in exempt for _, param in left)
    assert all(name.endswith("weight") for name, _ in left)
