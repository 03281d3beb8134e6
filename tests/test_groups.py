"""Parameter groups from a model: rules, decay, depth, and that torch and ours take them."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import NAMES
from torch import nn
from torch.nn.utils import parametrizations

import thalweg as tw
from thalweg.optimizer.depths import layer_depths
from thalweg.optimizer.groups import ParamGroups

DOCS = Path(__file__).parent.parent / "docs"


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList([Head(width) for _ in range(2)])
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        x = self.norm(x)
        return x + sum(head(x) for head in self.heads) + self.mlp(x)


class Head(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.project = nn.Linear(width, width)

    def forward(self, x):
        return self.project(x)


class Transformer(nn.Module):
    def __init__(self, layers=3, tied=True, width=8):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, width))
        self.wte = nn.Embedding(16, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 16, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, ids):
        x = self.wte(ids) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))


class Bottleneck(nn.Module):
    def __init__(self, downsample=False):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) if downsample else None


class ResNet(nn.Module):
    def __init__(self, stages=(1, 2, 3)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        for i, count in enumerate(stages):
            blocks = [Bottleneck(downsample=j == 0) for j in range(count)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(4, 10)


class GRN(nn.Module):
    """A norm on images, whose gain has as many dimensions as they."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, 4, 1, 1))


class NormalizedLinear(nn.Linear):
    pass


class LowRank(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.left = nn.Parameter(torch.zeros(width, 2))
        self.gain = nn.Parameter(torch.zeros(width, 1, 1))
        self.query = nn.Parameter(torch.zeros(1, 1, width))


def named(groups):
    return [set(group["param_names"]) for group in groups]


def options_of(groups, name):
    (group,) = [group for group in groups if name in group["param_names"]]
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def train(model, optimizer, steps=3, scheduler=None):
    ids = torch.arange(8).reshape(2, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        model(ids).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return [param.detach().clone() for param in model.parameters()]


def test_without_rules_biases_norms_and_embeddings_do_not_decay():
    groups = tw.param_groups(Transformer(tied=False), lr=0.1, weight_decay=0.5)
    assert isinstance(groups, list)
    assert len(groups) == 2
    decayed = options_of(groups, "lm_head.weight")
    assert decayed == {"lr": 0.1, "weight_decay": 0.5}
    (names,) = [
        set(group["param_names"]) for group in groups if group["weight_decay"] == decayed["weight_decay"]
    ]
    assert names == {
        "lm_head.weight",
        *(f"blocks.{i}.mlp.{j}.weight" for i in range(3) for j in (0, 2)),
        *(f"blocks.{i}.heads.{j}.project.weight" for i in range(3) for j in range(2)),
    }
    exempt = options_of(groups, "pos_embed")
    assert exempt == {"lr": 0.1, "weight_decay": 0.0}


def test_without_a_decay_of_its_own_the_optimizers_holds():
    optimizer = tw.AdamW(tw.param_groups(Transformer(tied=False)), weight_decay=0.25, lr=0.5)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.25}
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


@pytest.mark.parametrize(
    ("module", "decays"),
    [
        (nn.Linear(4, 4), {"weight": True, "bias": False}),
        (nn.Linear(4, 1), {"weight": True, "bias": False}),
        (nn.Conv2d(4, 4, 3), {"weight": True, "bias": False}),
        (nn.LayerNorm((4, 4)), {"weight": False, "bias": False}),
        (nn.RMSNorm((4, 4)), {"weight": False}),
        (nn.BatchNorm3d(4), {"weight": False, "bias": False}),
        (nn.SyncBatchNorm(4), {"weight": False, "bias": False}),
        (nn.InstanceNorm1d(4, affine=True), {"weight": False, "bias": False}),
        (nn.GroupNorm(2, 4), {"weight": False, "bias": False}),
        (nn.Embedding(4, 4), {"weight": False}),
        (nn.EmbeddingBag(4, 4), {"weight": False}),
        (nn.PReLU(), {"weight": False}),
        (nn.LSTM(4, 4), {"weight_ih_l0": True, "bias_ih_l0": False}),
        (nn.MultiheadAttention(4, 2), {"in_proj_weight": True, "in_proj_bias": False}),
        (LowRank(4), {"left": True, "gain": False, "query": False}),
        (GRN(), {"gamma": False}),
        (NormalizedLinear(4, 1), {"weight": True}),
        (parametrizations.spectral_norm(nn.Linear(4, 4)), {"parametrizations.weight.original": True}),
        (parametrizations.orthogonal(nn.Embedding(4, 4)), {"parametrizations.weight.original": False}),
        (Transformer().blocks[0], {"norm.weight": False, "mlp.0.weight": True}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_decays(module, decays):
    groups = tw.param_groups(module, weight_decay=0.1)
    assert {name: options_of(groups, name)["weight_decay"] == 0.1 for name in decays} == decays


@pytest.mark.parametrize(
    ("name", "decays"),
    [
        ("pos_embed", False),
        ("position_embeddings", False),
        ("pos_emb", False),
        ("cls_token", False),
        ("register_tokens", False),
        ("relative_position_bias_table", False),
        ("member", True),
        ("token_mixer", True),
        ("embedded", True),
        ("weight", True),
    ],
)
def test_bare_parameters_are_known_by_name(name, decays):
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(torch.zeros(2, 3)))
    (group,) = tw.param_groups(module, weight_decay=0.1)
    assert (group["weight_decay"] == 0.1) == decays


@pytest.mark.parametrize(
    ("no_decay", "exempt"),
    [
        (False, set()),
        (lambda name, module, p: p.ndim <= 1, {"wte.weight": False, "norm.weight": True}),
        (nn.LayerNorm, {"wte.weight": False, "norm.weight": True, "lm_head.bias": False}),
        (["*.bias", nn.Embedding], {"wte.weight": True, "norm.weight": False, "norm.bias": True}),
        (re.compile(r"bias$"), {"wte.weight": False, "norm.bias": True}),
    ],
)
def test_what_does_not_decay_can_be_said(no_decay, exempt):
    model = Transformer(tied=False)
    model.lm_head.bias = nn.Parameter(torch.zeros(16))
    groups = tw.param_groups(model, weight_decay=0.1, no_decay=no_decay)
    for name in exempt:
        assert (options_of(groups, name)["weight_decay"] == 0.0) == exempt[name], name
    if not exempt:
        assert len(groups) == 1


def test_the_first_match_wins():
    groups = tw.param_groups(
        Transformer(),
        [
            ("blocks.0.mlp.*", {"lr": 1.0}),
            ((re.compile(r"^blocks\.1\."), "blocks.0.*"), {"lr": 2.0, "betas": (0.5, 0.6)}),
            (nn.Embedding, {"lr": 3.0, "state": "int8"}),
            (lambda name, module, p: isinstance(module, nn.LayerNorm) and p.ndim == 1, {"lr": 4.0}),
            ("*", {}),
        ],
        lr=5.0,
    )
    rates = {
        "blocks.0.mlp.0.weight": 1.0,
        "blocks.0.norm.weight": 2.0,
        "blocks.1.mlp.0.weight": 2.0,
        "wte.weight": 3.0,
        "blocks.2.norm.weight": 4.0,
        "norm.bias": 4.0,
        "blocks.2.mlp.0.weight": 5.0,
        "pos_embed": 5.0,
    }
    assert {name: options_of(groups, name)["lr"] for name in rates} == rates
    assert options_of(groups, "wte.weight") == {"lr": 3.0, "state": "int8", "weight_decay": 0.0}
    assert options_of(groups, "blocks.1.mlp.0.weight")["betas"] == (0.5, 0.6)


def test_a_class_selects_what_its_instances_contain():
    groups = tw.param_groups(Transformer(), [(Head, {"lr": 1.0}), ("*", {"lr": 2.0})], no_decay=False)
    for name, _ in Transformer().named_parameters():
        assert options_of(groups, name)["lr"] == (1.0 if "heads" in name else 2.0)


def test_globs_know_case_and_match_dots():
    model = nn.ModuleDict({"A": nn.Linear(1, 1), "a": nn.Linear(1, 1)})
    groups = tw.param_groups(model, [("A.*", {"lr": 1.0}), ("*t", {"lr": 2.0}), ("a.bias", {"lr": 3.0})])
    assert [options_of(groups, n)["lr"] for n in ("A.weight", "A.bias", "a.weight", "a.bias")] == [1, 1, 2, 3]


SELECTORS = [
    "*",
    "blocks.*",
    "*.weight",
    "*.bias",
    "wte.*",
    re.compile("norm"),
    re.compile(r"\.[02]\."),
    nn.Linear,
    (nn.LayerNorm, "pos*"),
    Block,
    lambda name, module, p: p.numel() > 64,
]


@given(
    st.lists(st.tuples(st.sampled_from(SELECTORS), st.sampled_from([0.1, 0.2, 0.3])), max_size=5),
    st.booleans(),
    st.sampled_from([None, 0.5, 1.0]),
    st.sets(st.integers(0, 30), max_size=6),
)
def test_groups_are_a_partition_by_the_first_rule(rules, no_decay, layer_decay, cold):
    model = Transformer()
    params = dict(model.named_parameters())
    for i, param in enumerate(params.values()):
        param.requires_grad_(i not in cold)
    rules = [*((selector, {"lr": lr}) for selector, lr in rules), ("*", {"lr": 9.0})]
    try:
        groups = tw.param_groups(model, rules, no_decay=no_decay, layer_decay=layer_decay)
    except ValueError as error:
        assert "selects only parameters that earlier rules" in str(error)  # noqa: PT017
        return
    trained = {name: param for name, param in params.items() if param.requires_grad}
    pairs = [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]
    assert len(pairs) == len(trained)
    assert all(trained[name] is param for name, param in pairs)
    for group in groups:  # in the model's order
        assert group["param_names"] == [name for name in params if name in set(group["param_names"])]
    every = [{k: v for k, v in group.items() if k[:5] != "param"} for group in groups]
    assert all(a != b for i, a in enumerate(every) for b in every[:i])
    depths = layer_depths(model)
    for name in trained:
        lr = next(options["lr"] for selector, options in rules if selects(model, selector, name))
        scale = 1.0 if layer_decay is None else layer_decay ** (max(depths.values()) - depths[name])
        assert options_of(groups, name)["lr"] == lr * scale


def selects(model, selector, name):
    """Say so in another way than what is tested."""
    if isinstance(selector, tuple):
        return any(selects(model, one, name) for one in selector)
    if isinstance(selector, str):
        return re.fullmatch(selector.replace(".", r"\.").replace("*", ".*"), name) is not None
    if isinstance(selector, re.Pattern):
        return bool(selector.findall(name))
    if isinstance(selector, type):
        within = [prefix for prefix, module in model.named_modules() if isinstance(module, selector)]
        return any(name.startswith(f"{prefix}.") for prefix in within)
    return selector(name, None, model.get_parameter(name))


def test_tied_weights_appear_once_under_their_first_name():
    model = Transformer(tied=True)
    groups = tw.param_groups(model, [(nn.Embedding, {"lr": 1.0}), ("*", {})])
    names = [name for group in groups for name in group["param_names"]]
    assert "wte.weight" in names
    assert "lm_head.weight" not in names
    assert len(names) == len(list(model.parameters()))
    with pytest.raises(
        ValueError, match=r"'lm_head.weight' is the same tensor as 'wte.weight', and goes by that name"
    ):
        tw.param_groups(model, [("lm_head.*", {"lr": 1.0}), ("*", {})])


def test_a_shared_module_appears_once():
    shared = nn.Linear(2, 2)
    groups = tw.param_groups(nn.Sequential(shared, nn.ReLU(), shared))
    assert sorted(name for group in groups for name in group["param_names"]) == ["0.bias", "0.weight"]


def test_frozen_parameters_are_left_out_and_their_rules_are_no_typos():
    model = Transformer()
    model.blocks[0].requires_grad_(False)
    rules = [("blocks.0.*", {"lr": 1.0}), ("*", {})]
    names = {name for group in tw.param_groups(model, rules) for name in group["param_names"]}
    assert not any(name.startswith("blocks.0.") for name in names)
    groups = tw.param_groups(model, rules, frozen=True)
    assert options_of(groups, "blocks.0.mlp.0.weight")["lr"] == 1.0
    assert "left out" not in str(groups)
    count = len(list(model.blocks[0].parameters()))
    assert str(tw.param_groups(model, rules)).endswith(f"; {count} frozen tensors left out")
    with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
        tw.param_groups(model.requires_grad_(False))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("blocks.*", {})], r"no rule selects parameter 'pos_embed' and 3 more; a last rule \('\*', \{\}\)"),
        ([(("wte*", "blocks*", "norm*"), {})], r"no rule selects parameter 'pos_embed'; a last"),
        ([], "no rule selects parameter 'pos_embed'"),
        ([("block.*", {}), ("*", {})], r"rule 'block.\*' \(rules\[0\]\) selects no parameter$"),
        ([("*", {}), ("wte.*", {})], r"rule 'wte.\*' \(rules\[1\]\) selects only parameters that earlier"),
        ([("norm", {}), ("*", {})], r"rule 'norm' .* it is a module, whose parameters are 'norm.\*'"),
        ([(nn.Conv2d, {}), ("*", {})], r"rule 'Conv2d' \(rules\[0\]\) selects no parameter$"),
        ([(re.compile("x$"), {}), ("*", {})], r"rule '/x\$/' \(rules\[0\]\) selects no"),
        ([("*", {"lr": -1.0})], r"rule '\*': lr must be a number at least 0, not -1.0"),
        ([("*", {"weight_decay": -1.0})], r"rule '\*': weight_decay must be"),
        ([("*", {"params": []})], r"rule '\*': options must be group keys other than .* not 'params'"),
        ([("*.bias", {"weight_decay": 0.1}), ("*", {})], r"rule '\*.bias' .* has weight_decay=0.1, but no_d"),
    ],
)
def test_rules_that_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        tw.param_groups(Transformer(), rules)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"*": {}}, "rules must be a sequence of pairs"),
        ("*", "rules must be a sequence of pairs"),
        (3, "rules must be a sequence of pairs"),
        (["*"], r"rules\[0\] is '\*'"),
        ([("*", {}), ("*", 0.1)], r"rules\[1\] is \('\*', 0.1\)"),
        ([(int, {})], r"selector of rules\[0\] must be a glob, .* not <class 'int'>"),
        ([((3, "*"), {})], r"selector of rules\[0\] must be a glob, .* not 3"),
        ([("*", {"lr": "fast"})], r"rule '\*': lr must be"),
    ],
)
def test_rules_of_another_kind_are_refused(rules, message):
    with pytest.raises(TypeError, match=message):
        tw.param_groups(Transformer(), rules)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"lr": -1}, ValueError, "lr must be a number at least 0, not -1"),
        ({"weight_decay": "x"}, TypeError, "weight_decay must be a number at least 0, not 'x'"),
        ({"layer_decay": 0.0, "lr": 1}, ValueError, r"layer_decay must be a number in \(0, 1\], not 0.0"),
        ({"layer_decay": 1.5, "lr": 1}, ValueError, r"layer_decay must be a number in \(0, 1\], not 1.5"),
        ({"layer_decay": True, "lr": 1}, TypeError, "layer_decay must be"),
        ({"layer_decay": float("nan"), "lr": 1}, ValueError, "layer_decay must be"),
        ({"layer_decay": 0.5}, ValueError, "layer_decay needs an lr to multiply.* 'pos_embed'"),
        ({"depth": len}, ValueError, "depth has no effect without layer_decay"),
        ({"depth": lambda n: -1, "layer_decay": 0.5, "lr": 1}, ValueError, r"depth\('pos_embed'\) must be"),
        ({"depth": lambda n: None, "layer_decay": 0.5, "lr": 1}, ValueError, r"at least 0, not None"),
        ({"no_decay": ["*.bais"]}, ValueError, r"no_decay: '\*.bais' selects no parameter"),
        ({"no_decay": 3}, TypeError, "no_decay, if not True or False, must be a glob"),
    ],
)
def test_arguments_that_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        tw.param_groups(Transformer(), **kwargs)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, not generator"):
        tw.param_groups(Transformer().parameters())
    with pytest.raises(ValueError, match=r"parameter '1\.weight' is not initialized: run a batch"):
        tw.param_groups(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)))
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2))
    model(torch.zeros(1, 2))
    assert len(tw.param_groups(model)) == 2
    with pytest.raises(ValueError, match="layer_decay finds no layers"):
        tw.param_groups(nn.Linear(2, 2), lr=1, layer_decay=0.5)


def test_alike_groups_are_one_and_tensors_are_alike_only_as_themselves():
    lr = torch.tensor(0.1)
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    rules = [
        ("0.*", {"lr": lr, "betas": (0.9, 0.99)}),
        ("1.*", {"betas": (0.9, 0.99), "lr": lr}),
        ("2.*", {"lr": torch.tensor(0.1), "betas": (0.9, 0.99)}),
        ("3.*", {"lr": 0.1, "betas": (0.9, 0.99)}),
    ]
    groups = tw.param_groups(model, rules, no_decay=False)
    assert named(groups) == [
        {"0.weight", "0.bias", "1.weight", "1.bias"},
        {"2.weight", "2.bias"},
        {"3.weight", "3.bias"},
    ]
    assert groups[0]["lr"] is lr


def test_depths_of_a_transformer_are_those_of_beit():
    depths = layer_depths(Transformer(tied=False))
    for name, depth in depths.items():
        parts = name.split(".")
        head = parts[0] in ("norm", "lm_head")
        assert depth == (1 + int(parts[1]) if parts[0] == "blocks" else 4 if head else 0), name


def test_depths_of_stages_go_on_counting():
    depths = layer_depths(ResNet())
    assert depths["conv1.weight"] == depths["bn1.bias"] == 0
    blocks = ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer3.2"]
    assert [depths[f"{block}.conv.weight"] for block in blocks] == [1, 2, 3, 4, 5, 6]
    assert depths["layer3.0.downsample.1.bias"] == depths["layer3.0.bn.weight"] == 4
    assert depths["fc.bias"] == 7


class Stage(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.downsample = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 2))
        self.blocks = nn.Sequential(*(Bottleneck() for _ in range(blocks)))


def test_blocks_in_order_within_stages_are_the_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ModuleDict({"stages": nn.Sequential(Stage(2), Stage(2))}))
    depths = layer_depths(model)
    path = "1.stages.{}.blocks.{}.conv.weight"
    assert [depths[path.format(i, j)] for i in range(2) for j in range(2)] == [1, 2, 3, 4]
    assert depths["0.weight"] == 0
    assert depths["1.stages.0.downsample.1.weight"] == 0  # before all blocks
    assert depths["1.stages.1.downsample.1.weight"] == 3  # with the block that follows


class ConvNorm(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


class InvertedResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(ConvNorm(), ConvNorm(), nn.Conv2d(4, 4, 1))


def test_parts_of_blocks_are_no_blocks():
    blocks = [InvertedResidual() for _ in range(3)]
    model = nn.Sequential(nn.Sequential(ConvNorm(), *blocks, ConvNorm()), nn.Linear(4, 2))
    depths = layer_depths(model)
    assert depths["0.0.0.weight"] == 0
    assert [depths[f"0.{i}.conv.{j}.0.weight"] for i in (1, 2, 3) for j in (0, 1)] == [1, 1, 2, 2, 3, 3]
    assert depths["0.4.1.bias"] == depths["1.weight"] == 4


def test_a_backbone_in_a_sequential_is_looked_into():
    depths = layer_depths(nn.Sequential(Transformer(tied=False), nn.Linear(16, 2)))
    assert depths["0.wte.weight"] == 0
    assert [depths[f"0.blocks.{i}.norm.weight"] for i in range(3)] == [1, 2, 3]
    assert depths["1.weight"] == 4


def test_without_blocks_children_are_layers_and_norms_belong_to_the_one_before():
    layers = [nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 4)]
    assert layer_depths(nn.Sequential(*layers)) == {
        "0.weight": 0,
        "0.bias": 0,
        "1.weight": 0,
        "1.bias": 0,
        "3.weight": 1,
        "3.bias": 1,
        "4.weight": 1,
        "5.weight": 2,
        "5.bias": 2,
    }
    assert layer_depths(nn.Linear(2, 2)) == {}
    assert layer_depths(nn.Sequential(nn.ReLU())) == {}


@given(st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_depths_have_no_gaps_and_rise_in_order(layers, frozen, tied):
    model = Transformer(layers, tied)
    before = layer_depths(model)
    for param in list(model.parameters())[:frozen]:
        param.requires_grad_(False)
    assert layer_depths(model) == before
    assert list(before) == [name for name, _ in model.named_parameters()]
    values = list(before.values())
    assert sorted(set(values)) == list(range(max(values) + 1))
    assert values == sorted(values)


def test_layer_decay_multiplies_the_rates_of_rules_too():
    model = Transformer(tied=False)
    model.wte.requires_grad_(False)
    model.pos_embed.requires_grad_(False)
    groups = tw.param_groups(model, [("lm_head.*", {"lr": 8.0}), ("*", {})], lr=4.0, layer_decay=0.5)
    rates = {name: options_of(groups, name)["lr"] for group in groups for name in group["param_names"]}
    assert rates["lm_head.weight"] == 8.0
    assert rates["norm.weight"] == 4.0
    assert [rates[f"blocks.{i}.norm.bias"] for i in range(3)] == [0.5, 1.0, 2.0]


def test_depth_can_be_said():
    model = nn.ModuleDict({"left": nn.Linear(2, 2), "right": nn.Linear(2, 2), "top": nn.Linear(2, 2)})
    groups = tw.param_groups(
        model, lr=1.0, layer_decay=0.5, no_decay=False, depth=lambda name: 2 * name.startswith("top")
    )
    assert {frozenset(group["param_names"]): group["lr"] for group in groups} == {
        frozenset({"left.weight", "left.bias", "right.weight", "right.bias"}): 0.25,
        frozenset({"top.weight", "top.bias"}): 1.0,
    }


def test_layer_decay_of_a_tensor():
    lr = torch.tensor(1.0)
    groups = tw.param_groups(Transformer(), lr=lr, layer_decay=0.5, no_decay=False)
    assert [group["lr"].item() for group in groups] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0]
    assert groups[-1]["lr"] is lr
    assert len({id(group["lr"]) for group in groups}) == len(groups)


SCHEDULERS = {
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "ExponentialLR": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    "LinearLR": lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 4),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, max_lr=[group["lr"] for group in o.param_groups], total_steps=10, cycle_momentum=False
    ),
    "ours": lambda o: tw.schedules.cosine(o, 10, 3),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("cls", [torch.optim.AdamW, tw.AdamW, tw.SGD])
def test_schedulers_keep_the_ratios_of_layers(cls, kind):
    model = Transformer()
    optimizer = cls(tw.param_groups(model, lr=1e-3, layer_decay=0.5))
    scheduler = SCHEDULERS[kind](optimizer)
    scales = [group["lr"] / optimizer.param_groups[-1]["lr"] for group in optimizer.param_groups]
    seen = set()
    for _ in range(8):
        train(model, optimizer, 1, scheduler)
        top = optimizer.param_groups[-1]["lr"]
        seen.add(top)
        assert [g["lr"] / top for g in optimizer.param_groups] == pytest.approx(scales, rel=1e-12)
    assert len(seen) > 3
    assert scales[0] == pytest.approx(1 / 16)


@pytest.mark.parametrize("name", NAMES)
def test_torchs_optimizers_step_the_same_with_them(name):
    rules = [("blocks.1.*", {"lr": 1e-3}), ("*", {})]
    results = []
    for module in (torch.optim, tw):
        torch.manual_seed(0)
        model = Transformer().double()
        optimizer = getattr(module, name)(tw.param_groups(model, rules, weight_decay=0.1), lr=1e-2)
        results.append(train(model, optimizer))
        names = [name for group in optimizer.param_groups for name in group["param_names"]]
        assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)  # torch counts in float32


@pytest.mark.parametrize("name", ["Rprop", "ASGD", "Adafactor"])
def test_other_optimizers_of_torch_take_them(name):
    model = Transformer()
    before = [param.detach().clone() for param in model.parameters()]
    after = train(model, getattr(torch.optim, name)(tw.param_groups(model, lr=1e-2)))
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_checkpoints_match_by_name_in_other_groups():
    model = Transformer()
    optimizer = tw.AdamW(tw.param_groups(model, weight_decay=0.1), lr=1e-2)
    train(model, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    # The first to be exempt changes the order of groups and parameters.
    other = tw.AdamW(tw.param_groups(model, weight_decay=0.1)[::-1], lr=1e-2)
    other.load_state_dict(saved)
    for param in model.parameters():
        assert torch.equal(other.state[param]["exp_avg"], optimizer.state[param]["exp_avg"])


def test_options_of_ours_reach_the_steps():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    optimizer = tw.AdamW(tw.param_groups(model, [("0.weight", {"state": "int8"}), ("*", {})]))
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    assert "exp_avg_ratios" in optimizer.state[model[0].weight]
    assert "exp_avg" in optimizer.state[model[1].weight]


def test_the_table_shows_what_was_assigned():
    model = Transformer()
    groups = tw.param_groups(
        model, [(nn.Embedding, {"lr": 2e-3}), ("*", {"betas": (0.9, 0.95)})], lr=torch.tensor(1e-3)
    )
    table = str(groups)
    lines = table.splitlines()
    assert lines[0].split() == ["group", "rule", "options", "tensors", "parameters", "first", "names"]
    assert len(lines) == len(groups) + 2
    assert re.search(
        r"^\d +Embedding, no decay +lr=0.002, weight_decay=0 +1 +128  wte.weight$", table, re.MULTILINE
    )
    assert re.search(r"^\d +\*  +lr=tensor\(0.001\), betas=\(0.9, 0.95\)  ", table, re.MULTILINE)
    total = sum(param.numel() for param in model.parameters())
    assert lines[-1] == f"3 groups, {len(list(model.parameters()))} tensors, {total:,} parameters"
    tw.SGD(groups)  # writes its defaults into the groups
    assert repr(groups) == f"{groups}" == table


def test_the_table_counts_everything_once():
    groups = tw.param_groups(Transformer(), [(("wte*", "norm*"), {}), (Block, {}), ("*", {})], lr=1.0)
    rows = [re.split(r"  +", line) for line in str(groups).splitlines()[1:-1]]
    assert sum(int(row[3]) for row in rows) == sum(len(group["params"]) for group in groups)
    assert {row[1] for row in rows} == {"*, no decay", "Block", "Block, no decay", "wte* or norm*, no decay"}
    assert {row[0] for row in rows} == {"0", "1"}


def test_groups_can_be_copied_and_pickled():
    groups = tw.param_groups(Transformer())
    for other in (copy.copy(groups), copy.deepcopy(groups), pickle.loads(pickle.dumps(groups))):
        assert type(other) is ParamGroups
        assert str(other) == str(groups)
        assert named(other) == named(groups)


def test_a_model_on_the_meta_device_will_do():
    with torch.device("meta"):
        model = Transformer()
    assert str(tw.param_groups(model, lr=1.0, layer_decay=0.5)) == str(
        tw.param_groups(Transformer(), lr=1.0, layer_decay=0.5)
    )


@pytest.mark.parametrize(
    "code", re.findall(r"```python\n(.*?)```", (DOCS / "groups.md").read_text(), re.DOTALL)
)
def test_examples_of_the_docs_run(code):
    names = {}
    exec(compile(code, "docs/groups.md", "exec"), names)
    if "groups" in names:
        assert f"```\n{names['groups']}\n```" in (DOCS / "groups.md").read_text()
