"""Cases of `torch.distributed.checkpoint.state_dict`: its options, and saving while training goes on."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from cases_of_checkpoints import load, shared_folder, train_wide, wholes, wide
from pairs import assert_same
from processes import case
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import thalweg as tw

WAYS = ({}, {"state": "int8"}, {"amsgrad": True, "state": {"exp_avg": "int8"}})


def trained(options: dict[str, Any], steps: int = 3) -> tuple[Any, tw.Optimizer]:
    """Return a model and its optimizer with two groups, of rates of their own."""
    net = wide()
    params = list(net.parameters())
    groups = [{"params": params[:2], "lr": 0.02 + steps}, {"params": params[2:], "lr": 0.01 + steps}]
    optimizer = tw.AdamW(groups, **options)
    train_wide(net, optimizer, steps)
    return net, optimizer


def assert_state(optimizer: tw.Optimizer, expected: list[dict[str, Any]], like: tw.Optimizer) -> None:
    for own, known in zip(wholes(optimizer), expected, strict=True):
        assert own.keys() == known.keys()
        for name, value in known.items():
            assert_same(own[name], value, name)
    one, other = ([group["lr"] for group in each.param_groups] for each in (optimizer, like))
    assert one == other


@case(2)
def whole_state_comes_from_the_first_process():
    for options in WAYS:
        net, ours = trained(options)
        gathered = StateDictOptions(full_state_dict=True, cpu_offload=True)
        saved = get_optimizer_state_dict(net, ours, options=gathered)
        assert bool(saved) == (dist.get_rank() == 0)
        spread = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        for steps in (0, 2):
            other, theirs = trained(options, steps)
            set_optimizer_state_dict(other, theirs, copy.deepcopy(saved), options=spread)
            assert_state(theirs, wholes(ours), ours)
            train_wide(other, theirs, 1)


@case(2)
def flattened_state_is_saved_and_loaded():
    flat = StateDictOptions(flatten_optimizer_state_dict=True)
    folder = shared_folder()
    for number, options in enumerate(WAYS):
        net, ours = trained(options)
        saved = get_optimizer_state_dict(net, ours, options=flat)
        assert "state.0.weight.step" in saved
        dcp.save(saved, checkpoint_id=f"{folder}/{number}")
        other, theirs = trained(options, 0)
        into = get_optimizer_state_dict(other, theirs, options=flat)
        dcp.load(into, checkpoint_id=f"{folder}/{number}")
        set_optimizer_state_dict(other, theirs, into, options=flat)
        assert_state(theirs, wholes(ours), ours)
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder)


@case(2)
def state_is_saved_while_training_goes_on():
    folder = shared_folder()
    group = dist.new_group()  # or its collectives would come between those of the training
    for number, options in enumerate(WAYS[:2]):
        net, ours = trained(options)
        expected = wholes(ours)
        path = f"{folder}/{number}"
        saved = {"o": get_optimizer_state_dict(net, ours)}
        saving: Any = dcp.async_save(saved, checkpoint_id=path, process_group=group)
        train_wide(net, ours, 3, start=3)
        saving.result()
        other, theirs = trained(options, 0)
        load(other, theirs, path)
        assert_state(theirs, expected, ours)
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder)
