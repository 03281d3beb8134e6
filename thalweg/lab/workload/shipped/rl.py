"""Policy gradient on the cart with a pole (Barto, Sutton and Anderson 1983), as gymnasium has it.

Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783, section 4), synchronous: 16 carts are driven for
32 steps by the policy under training, and one step of the optimizer is taken on all of it. The loss is that
of the policy, half the squared error of the value, less 0.01 of the entropy; advantages are centred and
scaled over the batch. A reward is 1 - 0.99 for each step, discounted by 0.99, so that values lie from 0 to 1;
where an episode is cut off at 500 steps, or the 32 steps end, the value stands for what would follow.

The metric is the mean return of 32 whole episodes, of at most 500, with actions drawn from the policy: from
fixed seeds, others for validation than for test. All that is random comes from the run's seed, so runs repeat
bit for bit. Gradients are clipped to 0.5, as is usual with this method. A run is so short that returns stay
clear of 500.
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload.contract import Evaluation, Run, Split, Workload, device_of
from thalweg.lab.workload.data import MissingDataError
from thalweg.lab.workload.shipped import options
from thalweg.lab.workload.shipped.classification import parameters

ENVIRONMENT = "CartPole-v1"
MOST_STEPS = 500
HIDDEN = 64
DISCOUNT, VALUE_WEIGHT, ENTROPY_WEIGHT = 0.99, 0.5, 0.01
EPISODES = 32
SEEDS = {"train": 3, "validation": 1, "test": 2}
"""Of the episodes that each part consists of."""

OWN = ("carts",)


class Rollout(NamedTuple):
    """What was lived through, each of shape (steps, carts); of the state after the last step a value.

    Attributes:
        states: float32, with a last dimension of 4.
        actions: int64, 0 or 1.
        rewards: float32.
        terminated, truncated: whether the episode ended there, by itself or cut off.
        real: float32, 0 where the step did nothing but begin a new episode.
        last: the states after the last step, (carts, 4).
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    real: Tensor
    last: Tensor


class CartPole(Workload):
    """Actor-critic on the cart with a pole; see `thalweg.lab.workload.Workload`.

    Args:
        given: options: `carts`, that are driven at once, a divisor of `batch_size`; and those of
            `thalweg.lab.workload.shipped.options`. `batch_size` are steps of all carts together.

    Raises:
        MissingDataError: the package gymnasium is not installed.
        ValueError: an option has a value that is not allowed.
    """

    name = "rl"
    title = "policy gradient on the cart with a pole"
    metric = "mean return"
    higher_is_better = True
    batch_size = 512
    steps = 150
    evaluate_every = 15
    clip_norm = 0.5
    carts: int = 16

    def __init__(self, **given: Any) -> None:
        options.take(self, OWN, given)
        options.count("carts", self.carts)
        fits = isinstance(self.batch_size, int) and self.batch_size % self.carts == 0
        options.require(fits, "batch_size", f"a multiple of carts, {self.carts}", self.batch_size)
        if find_spec("gymnasium") is None:
            raise MissingDataError("workload 'rl' needs the package gymnasium: pip install 'thalweg[rl]'")

    def model(self, seed: int) -> nn.Module:
        """4,675 parameters: two linear layers of 64 tanh units, and three outputs: two logits and a value."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Linear(4, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 3)
            )

    def training_loop(self, run: Run) -> Iterator[float]:
        """Drives and learns, in turns."""
        carts, generator = Carts(self.carts, run.seed), np.random.default_rng(run.seed)
        while True:
            lived = carts.driven(run.model, self.batch_size // self.carts, generator)
            with run.autocast():
                loss = loss_of(run.model, lived)
            yield run.update(loss)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """The mean return of whole episodes; the loss is what it lacks of the largest there can be."""
        carts, generator = Carts(EPISODES, SEEDS[split]), np.random.default_rng(SEEDS[split])
        mean = carts.returns(model, generator).mean()
        return Evaluation(float(mean), float(MOST_STEPS - mean))

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        return {
            "Environment": f"{ENVIRONMENT} of gymnasium (MIT): a reward of 1 a step, at most {MOST_STEPS}",
            "Metric": f"mean return of {EPISODES} episodes from fixed seeds, actions drawn from the policy",
            "Model": f"tanh layers of {HIDDEN} and {HIDDEN}, two logits and a value: "
            f"{parameters(self.model(0)):,} parameters, float32",
            "Training": f"advantage actor-critic, {self.steps} steps on {self.batch_size} steps of "
            f"{self.carts} carts each, discount {DISCOUNT}, weights of value {VALUE_WEIGHT}, of entropy "
            f"{ENTROPY_WEIGHT}, gradients clipped to norm {self.clip_norm}",
            **options.facts(self, OWN),
        }


class Carts:
    """So many carts that are driven at once.

    Args:
        count: of carts.
        seed: from which all their beginnings come.
    """

    def __init__(self, count: int, seed: int) -> None:
        # Imported here: whoever asks what workloads there are needs no gymnasium.
        import gymnasium

        self._carts: Any = gymnasium.make_vec(
            ENVIRONMENT, num_envs=count, vectorization_mode="vector_entry_point"
        )
        self._states, _ = self._carts.reset(seed=seed)
        self._ended = np.zeros(count, bool)

    def driven(self, model: nn.Module, steps: int, generator: np.random.Generator) -> Rollout:
        """Goes on from where the carts are, with actions drawn from the policy."""
        lived: list[tuple[np.ndarray, ...]] = []
        for _ in range(steps):
            before, begins = self._states, self._ended
            actions, rewards, terminated, truncated = self._step(model, generator)
            lived.append((before, actions, rewards, terminated, truncated, (~begins).astype(np.float32)))
        parts = (np.stack(part) for part in zip(*lived, strict=True))
        device = device_of(model)
        tensors = [torch.from_numpy(part).to(device) for part in (*parts, self._states)]
        return Rollout(*tensors)

    def returns(self, model: nn.Module, generator: np.random.Generator) -> np.ndarray:
        """Of the first episode of each cart, without discount."""
        totals, running = np.zeros(len(self._ended)), ~self._ended
        while running.any():
            _, rewards, terminated, truncated = self._step(model, generator)
            totals += rewards * running
            running &= ~(terminated | truncated)
        return totals

    def _step(self, model: nn.Module, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            logits = model(torch.from_numpy(self._states).to(device_of(model)))[:, :2]
        right = (logits[:, 1] - logits[:, 0]).sigmoid().cpu().numpy()
        actions = (generator.random(len(right)) < right).astype(np.int64)
        self._states, rewards, terminated, truncated, _ = self._carts.step(actions)
        self._ended = terminated | truncated
        return actions, rewards, terminated, truncated


def loss_of(model: nn.Module, lived: Rollout) -> Tensor:
    """The loss of policy and value, a scalar, averaged over the steps that are real."""
    outputs = model(lived.states)
    values, chances = outputs[..., 2], functional.log_softmax(outputs[..., :2], dim=-1)
    with torch.no_grad():
        targets = discounted(lived, values, model(lived.last)[:, 2])
        advantages = targets - values
        mean = _mean(advantages, lived.real)
        deviation = _mean((advantages - mean).square(), lived.real).sqrt()
        advantages = (advantages - mean) / (deviation + 1e-8)
    taken = chances.gather(-1, lived.actions[..., None])[..., 0]
    entropy = -(chances.exp() * chances).sum(dim=-1)
    each = -advantages * taken + VALUE_WEIGHT * (values - targets).square() - ENTROPY_WEIGHT * entropy
    return _mean(each, lived.real)


def discounted(lived: Rollout, values: Tensor, last: Tensor) -> Tensor:
    """What follows each step, discounted and times 1 - `DISCOUNT`, (steps, carts).

    An episode that ended by itself is worth no more; one that was cut off, and the last step, are worth the
    value of the state after them.

    Args:
        lived: what was lived through.
        values: of each state, (steps, carts).
        last: values of the states after the last step, (carts,).
    """
    after = torch.cat([values[1:], last[None]])
    following, found = last, list[Tensor]()
    for step in reversed(range(len(values))):
        following = torch.where(lived.truncated[step], after[step], following)
        following = torch.where(lived.terminated[step], 0.0, following)
        following = (1 - DISCOUNT) * lived.rewards[step] + DISCOUNT * following
        found.append(following)
    return torch.stack(found[::-1])


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum()
