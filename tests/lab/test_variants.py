"""Options of the shipped workloads, and what each of the synthetic ones is."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import Line, trained

from thalweg.lab import spaces
from thalweg.lab.comparing import beginning, choosing, spending
from thalweg.lab.study.record import from_json, to_json
from thalweg.lab.workload import Evaluation, tasks
from thalweg.lab.workload.shipped import classification, deep, digits, fashion_mnist, quad, stream, text, zipf

needs_fashion = pytest.mark.skipif(
    not fashion_mnist.DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)


pytestmark = pytest.mark.usefixtures("one_thread")


def names(space):
    return [spaces.find(name) for name in space.split(",")]


def of(workload):
    """What tells a comparison on a workload from others."""
    task = choosing.Task(workload, workload.name)
    return beginning.fingerprint(task, names("sgd,adamw"), spending.Options())


# Options in general


def test_a_workload_without_options_is_the_same_as_one_that_is_given_its_defaults():
    assert of(digits.Digits()) == of(digits.Digits(width=1, label_noise=0.0, steps=352))
    assert vars(digits.Digits()).keys() == {"_images", "_classes", "rows"}


@pytest.mark.parametrize("given", [{"width": 2}, {"batch_size": 8}, {"until_loss": 0.1}, {"outliers": 0.05}])
def test_another_option_is_another_study_and_a_fact(given):
    varied = digits.Digits(**given)
    assert of(varied) != of(digits.Digits())
    [(name, value)] = given.items()
    assert varied.facts()["Options"] == f"{name}={value!r}"
    assert "Options" not in digits.Digits().facts()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: digits.Digits(widht=2),
            TypeError,
            "Digits has no option 'widht'; there are: width, examples",
        ),
        (lambda: digits.Digits(width=0), ValueError, "width must be a whole number of at least 1, not 0"),
        (lambda: digits.Digits(width=1.5), ValueError, "width must be a whole number"),
        (
            lambda: digits.Digits(examples=0),
            ValueError,
            "examples must be a whole number of at least 1, not 0",
        ),
        (lambda: digits.Digits(label_noise=1.0), ValueError, "label_noise must be a number of at least 0"),
        (lambda: digits.Digits(outliers=-0.1), ValueError, "outliers must be a number of at least 0"),
        (
            lambda: deep.Deep(scales=()),
            ValueError,
            "scales must be a tuple of 1 to 8 numbers above 0, not ()",
        ),
        (lambda: deep.Deep(scales=(1, 0)), ValueError, "scales must be a tuple"),
        (lambda: quad.Quad(condition=0.5), ValueError, "condition must be a number of at least 1, not 0.5"),
        (lambda: quad.Quad(noise=-1.0), ValueError, "noise must be a number of at least 0"),
        (lambda: zipf.Zipf(exponent=-1.0), ValueError, "exponent must be a number of at least 0, not -1.0"),
        (lambda: zipf.Zipf(ids=9), ValueError, "ids must be a whole number of at least 10, not 9"),
        (lambda: zipf.Zipf(judged="some"), ValueError, "judged must be 'all' or 'rarest', not 'some'"),
        (lambda: zipf.Zipf(rank=3), TypeError, "Zipf has no option 'rank'"),
        (lambda: zipf.ZipfFactors(rank=0), ValueError, "rank must be a whole number of at least 1, not 0"),
        (lambda: stream.Stream(change="all"), ValueError, "change must be one of labels, rotation, none"),
        (lambda: stream.Stream(every=0), ValueError, "every must be a whole number of at least 1, not 0"),
        (lambda: quad.Quad(dimension=1), ValueError, "dimension must be a whole number of at least 2"),
    ],
)
def test_what_is_no_option_is_refused(make, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(").replace(")", r"\)")):
        make()


def test_every_workload_takes_what_the_contract_has():
    short = text.Text(steps=30, batch_size=4, clip_norm=None)
    assert [len(batch) for batch in short.batches(0)] == [4] * 30
    assert short.facts()["Options"] == "steps=30, batch_size=4, clip_norm=None"
    assert "no clipping" in short.facts()["Training"]


@pytest.mark.parametrize(("width", "count"), [(1, 6090), (2, 21386), (4, 79626)])
def test_width_multiplies_channels(width, count):
    workload = digits.Digits(width=width)
    assert classification.parameters(workload.model(0)) == count
    assert f"{count:,} parameters" in workload.facts()["Model"]
    assert tasks.check(workload) is workload
    tasks.smoke(workload)


def test_a_model_is_made_without_the_data_of_its_workload():
    for kind in (digits.Digits, deep.Deep, quad.Quad):
        assert classification.parameters(kind.__new__(kind).model(0)) > 100


def test_only_the_first_examples_train():
    workload = digits.Digits(examples=64)
    images = torch.cat([images for images, _ in workload.batches(0)][:2])
    known = workload.batch(workload.rows["train"][:64])[0]
    assert sorted(map(bytes, images.numpy())) == sorted(map(bytes, known.numpy()))
    assert len(workload.rows["test"]) == digits.TEST


def test_a_share_of_the_labels_is_wrong_and_always_the_same_ones():
    workload, clean = digits.Digits(label_noise=0.2), digits.Digits()
    rows = clean.rows["train"]
    wrong = workload.training_batch(rows)[1] != clean.batch(rows)[1]
    assert wrong.float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert torch.equal(workload.training_batch(rows[5:9])[1], workload.training_batch(rows)[1][5:9])
    # Another class, each as often as any other.
    off = (workload.training_batch(rows)[1] - clean.batch(rows)[1])[wrong] % 10
    assert set(off.tolist()) == set(range(1, 10))
    model = clean.model(0).eval()
    with torch.no_grad():
        for split in ("validation", "test"):
            assert workload.evaluate(model, split) == clean.evaluate(model, split)
        assert workload.evaluate(model, "train") != clean.evaluate(model, "train")
    batches = zip(workload.batches(1), clean.batches(1), strict=True)
    shares = [(noisy[1] != right[1]).float().mean().item() for noisy, right in batches]
    assert np.mean(shares) == pytest.approx(wrong.float().mean().item(), abs=0.01)


def test_a_share_of_the_batches_has_a_hundred_times_the_gradient():
    workload, clean = digits.Digits(outliers=0.05), digits.Digits()
    factors = [batch[2].item() for batch in workload.batches(0)]
    assert set(factors) == {1.0, 100.0}
    assert np.mean([factor == 100 for factor in factors]) == pytest.approx(0.05, abs=0.03)
    assert factors != [batch[2].item() for batch in workload.batches(1)]
    model = clean.model(0)
    place = factors.index(100.0)
    noisy = [batch for batch, _ in zip(workload.batches(0), range(place + 1), strict=False)][-1]
    assert workload.loss(model, noisy).item() == pytest.approx(100 * clean.loss(model, noisy[:2]).item())
    for ours, theirs in zip(workload.batches(0), clean.batches(0), strict=True):
        assert torch.equal(ours[0], theirs[0])


@needs_fashion
def test_batch_norm_takes_the_place_of_biases():
    workload = fashion_mnist.FashionMnist(norm=True, examples=2000, batch_size=2000, width=2)
    model = workload.model(0)
    kinds = [type(layer).__name__ for layer in model]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 2 + ["Flatten", "Linear", "ReLU", "Linear"]
    assert model[0].bias is None
    images, classes = next(iter(workload.batches(0)))
    assert images.shape == (2000, 1, 28, 28)
    assert workload.facts()["Options"] == "width=2, norm=True, examples=2000, batch_size=2000"
    assert workload.loss(model, (images[:50], classes[:50])).item() == pytest.approx(math.log(10), rel=0.2)


# A run that ends at a training loss


def test_a_run_ends_where_it_has_met_the_training_loss():
    workload = digits.Digits(until_loss=0.3, evaluate_every=5, schedule="constant")
    record = trained(workload, lr=3e-3)
    assert record.met == record.curve[-1].step < workload.steps
    assert record.met % 5 == 0
    assert record.test.metric > 80
    # The same training goes on without: it was above the loss at the evaluation before, and below it here.
    losses = []

    class Watched(digits.Digits):
        def evaluate(self, model, split):
            if split == "validation":
                losses.append(super().evaluate(model, "train").loss)
            return super().evaluate(model, split)

    on = trained(Watched(evaluate_every=5, schedule="constant"), lr=3e-3)
    place = record.met // 5
    assert losses[place] <= 0.3 < min(losses[:place])
    assert on.curve[: place + 1] == record.curve
    assert on.met is None
    assert on.curve[-1].step == workload.steps


def test_a_loss_that_is_not_met_leaves_the_run_whole():
    record = trained(digits.Digits(until_loss=1e-9, steps=20, evaluate_every=10), lr=1e-4)
    assert record.met is None
    assert record.curve[-1].step == 20
    assert record.test is not None


def test_where_it_was_met_is_kept():
    record = trained(digits.Digits(until_loss=1.0, evaluate_every=5), lr=3e-3)
    assert from_json(to_json(record)) == record
    assert to_json(record)["met"] == record.met
    assert "met" not in to_json(replace(record, met=None))


def test_a_task_that_cannot_evaluate_training_is_told_so_before():
    class Held(Line):
        until_loss = 0.1

        def evaluate(self, model, split):
            assert split != "train", "no such part"
            return super().evaluate(model, split)

    with pytest.raises(AssertionError, match="no such part"):
        tasks.smoke(Held())
    Held.until_loss = 0
    with pytest.raises(tasks.TaskError, match="until_loss must be None or a number above 0, not 0"):
        tasks.check(Held())


def test_curves_of_different_lengths_are_drawn_together(tmp_path):
    from thalweg.lab import compare

    class Short(Line):
        until_loss = 0.05
        evaluate_every = 4

    result = compare(Short(), names("sgd,adamw"), trials=2, seeds=3, workers=1)
    finals = [record for record in result.study.records if record.trial.stage == "final"]
    assert len({len(record.curve) for record in finals}) > 1
    result.save(tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 10_000


class Told(Line):
    value: object = 2.5

    def further(self, model, split):
        return {"largest": model.weight.abs().max(), f"of {split}": self.value}


def test_further_figures_are_kept_with_the_run():
    record = trained(Told(), lr=0.1)
    assert record.further.keys() == {"validation", "test"}
    assert record.further["test"] == {"largest": pytest.approx(1, abs=0.2), "of test": 2.5}
    assert from_json(json.loads(json.dumps(to_json(record)))) == record
    assert trained(Told(), stage="tune", lr=0.1).further.keys() == {"validation"}
    assert trained(Line(), lr=0.1).further == {}
    assert "further" not in to_json(trained(Line(), lr=0.1))


def test_further_figures_are_tried_before():
    tasks.smoke(tasks.check(Told()))
    broken = Told()
    broken.value = "much"
    with pytest.raises(
        tasks.TaskError, match=r"in further on validation: .* not a dictionary of numbers by name"
    ):
        tasks.smoke(broken)


# Deep


def test_scales_follow_each_other_around_one():
    assert deep.layer_scales((1.0,)) == [1.0] * 8
    scales = deep.layer_scales((1, 10, 100))
    assert math.prod(scales) == pytest.approx(1)
    assert [scale / scales[0] for scale in scales] == pytest.approx([1, 10, 100, 1, 10, 100, 1, 10])


@pytest.mark.parametrize("norm", [False, True])
def test_scales_change_gradients_and_no_function(norm):
    plain, scaled = deep.Deep(norm=norm), deep.Deep(scales=(1, 10, 100), norm=norm)
    ours, theirs = scaled.model(3), plain.model(3)
    batch = next(iter(plain.batches(0)))
    torch.testing.assert_close(ours(batch[0]), theirs(batch[0]), rtol=1e-4, atol=1e-4)
    for workload, model in ((scaled, ours), (plain, theirs)):
        workload.loss(model, batch).backward()
    layers = [[layer for layer in model if isinstance(layer, deep.Scaled)] for model in (ours, theirs)]
    for scale, mine, other in zip(deep.layer_scales((1, 10, 100)), *layers, strict=True):
        torch.testing.assert_close(mine.weight * scale, other.weight)
        torch.testing.assert_close(mine.weight.grad / scale, other.weight.grad, rtol=1e-3, atol=1e-5)


def test_deep_has_eight_layers_and_the_digits_split():
    workload = deep.Deep()
    assert sum(isinstance(layer, torch.nn.Linear) for layer in workload.model(0)) == 8
    assert all(np.array_equal(workload.rows[part], rows) for part, rows in digits.Digits().rows.items())
    with_norm = [type(layer).__name__ for layer in deep.Deep(norm=True).model(0)]
    assert with_norm == ["Scaled", "BatchNorm1d", "Tanh"] * 7 + ["Scaled"]


# Quad


@pytest.mark.parametrize("rotated", [False, True])
def test_the_spectrum_and_the_noise_are_those_stated(rotated):
    workload = quad.Quad(dimension=6, condition=100.0, noise=2.0, batch_size=4, steps=20_000, rotated=rotated)
    problem = quad.problem(6, 100.0, rotated)
    hessian = problem.hessian if rotated else torch.diag(problem.hessian)
    expected = np.logspace(-2, 0, 6)
    assert np.linalg.eigvalsh(hessian.double().numpy()) == pytest.approx(expected, rel=1e-4)
    assert bool((hessian - torch.diag(hessian.diagonal())).abs().max() > 0.1) is rotated
    drawn = torch.stack(list(workload.batches(0)))
    torch.testing.assert_close(torch.cov(drawn.T), hessian * 2**2 / 4, rtol=0.1, atol=0.02)
    model = workload.model(0)
    workload.loss(model, drawn[0]).backward()
    off = model.values.detach() - problem.optimum
    torch.testing.assert_close(model.values.grad, hessian @ off + drawn[0])
    with torch.no_grad():
        assert workload.evaluate(model, "test").metric == pytest.approx(
            (off @ hessian @ off / 2).item(), rel=1e-5
        )
        model.values.copy_(problem.optimum)
    assert workload.evaluate(model, "validation") == Evaluation(0.0, 0.0)


def test_gradient_descent_does_not_see_the_rotation():
    straight, turned = (quad.Quad(dimension=16, steps=200, rotated=rotated) for rotated in (False, True))
    settings = {"optimizer": "thalweg.SGD", "lr": 0.3, "momentum": 0.5}
    ours, theirs = trained(straight, **settings), trained(turned, **settings)
    for one, other in zip(ours.curve, theirs.curve, strict=True):
        assert one.metric == pytest.approx(other.metric, rel=1e-3)


# Zipf


def test_ids_are_drawn_as_often_as_stated():
    expected = zipf.frequencies(50, 1.0)
    assert expected == pytest.approx(1 / np.arange(1, 51) / sum(1 / k for k in range(1, 51)))
    found = np.bincount(zipf.drawn(np.random.default_rng(0), 50, 1.0, 200_000), minlength=50) / 200_000
    assert found == pytest.approx(expected, abs=0.003)
    assert zipf.frequencies(50, 0.0) == pytest.approx(1 / 50)


@pytest.mark.parametrize("kind", [zipf.Zipf, zipf.ZipfFactors])
def test_what_is_evaluated_is_the_mean_over_all_that_may_be_drawn(kind):
    workload = kind(ids=30, batch_size=2000, steps=150, noise=0.3)
    model = workload.model(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
        total, rare = 0.0, []
        for batch in workload.batches(0):
            total += workload.loss(model, batch).item() / 150
            chosen = batch[-2] >= 27
            rare += [
                (workload.loss(model, [part[batch[-2] == k] for part in batch]).item(), k)
                for k in (27, 28, 29)
            ]
            assert chosen.sum() > 20
        found = workload.further(model, "test")
        assert found["all"] == pytest.approx(total, rel=0.01)
        assert found["rarest"] == pytest.approx(np.mean([loss for loss, _ in rare]), rel=0.03)
        assert workload.evaluate(model, "test") == Evaluation(found["all"], found["all"])
        judged = kind(ids=30, noise=0.3, judged="rarest")
        assert judged.evaluate(model, "test") == Evaluation(found["rarest"], found["all"])


def test_who_knows_the_truth_has_the_least_loss():
    workload, factors = zipf.Zipf(), zipf.ZipfFactors(ids=20)
    right = 1 - 0.9 * 0.1
    truth = torch.nn.functional.one_hot(torch.from_numpy(zipf.class_of_each(1000, 10)), 10)
    model = workload.model(0)
    with torch.no_grad():
        model.logits.weight.copy_(truth * math.log(right / 0.01))
        assert workload.evaluate(model, "test").loss == pytest.approx(workload.least(), abs=1e-6)
        assert workload.least() == pytest.approx(-right * math.log(right) - 9 * 0.01 * math.log(0.01))
        left, values, right = np.linalg.svd(zipf.ratings_of_all(20, 4))
        model = factors.model(0)
        model.users.weight.copy_(torch.from_numpy(left[:, :4] * values[:4]))
        model.items.weight.copy_(torch.from_numpy(right[:4].T.copy()))
        assert factors.evaluate(model, "test").loss == pytest.approx(factors.least(), abs=1e-6)
        assert values[4] < 1e-9


def test_as_many_labels_are_wrong_as_stated():
    workload = zipf.Zipf(ids=100, noise=0.5, steps=20, batch_size=1000)
    wrong = [
        (zipf.class_of_each(100, 10)[ids] != classes.numpy()).mean() for ids, classes in workload.batches(0)
    ]
    assert np.mean(wrong) == pytest.approx(0.45, abs=0.02)


@pytest.mark.parametrize("kind", [zipf.Zipf, zipf.ZipfFactors])
def test_sparse_gradients_train_the_same(kind):
    dense, sparse = (kind(sparse=wanted, steps=60, evaluate_every=20) for wanted in (False, True))
    model = sparse.model(0)
    sparse.loss(model, next(iter(sparse.batches(0)))).backward()
    assert all(p.grad.is_sparse for name, p in model.named_parameters() if name != "bias")
    ours, theirs = (trained(workload, "thalweg.SGD", lr=0.5) for workload in (dense, sparse))
    for one, other in zip(ours.curve, theirs.curve, strict=True):
        assert one.metric == pytest.approx(other.metric, rel=1e-5)


# Stream


@pytest.mark.parametrize("change", stream.CHANGES)
def test_a_stream_changes_when_and_as_stated(change):
    workload = stream.Stream(change=change, every=3, steps=30, batch_size=200)
    plain = stream.Stream(change="none", steps=30, batch_size=200)
    states = []
    for (images, classes), (before, right) in zip(workload.batches(5), plain.batches(5), strict=True):
        turns = next(k for k in range(4) if torch.equal(torch.rot90(before, k, (2, 3)), images))
        labels = [classes[right == digit].unique().tolist() for digit in range(10)]
        assert all(len(label) == 1 for label in labels)
        states.append((turns, tuple(label for [label] in labels)))
    stretches = [states[at : at + 3] for at in range(0, 30, 3)]
    assert all(len(set(stretch)) == 1 for stretch in stretches)
    followed = [before != after for (before, *_), (after, *_) in itertools.pairwise(stretches)]
    assert all(followed) if change != "none" else not any(followed)
    assert states[0] == (0, tuple(range(10)))
    assert {turns for turns, _ in states} == ({0, 1, 2, 3} if change == "rotation" else {0})


def test_each_batch_is_predicted_before_it_is_learned():
    workload = stream.Stream(steps=40, every=10, evaluate_every=40)
    record = trained(workload, "torch.optim.SGD", lr=0.2)
    model, right, nats = workload.model(3), 0, 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for images, classes in workload.batches(3):
        logits = model.layers(images)
        loss = torch.nn.functional.cross_entropy(logits, classes)
        right, nats = right + int((logits.argmax(dim=1) == classes).sum()), nats + loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert record.test.metric == pytest.approx(100 * right / (40 * 16))
    assert record.test.loss == pytest.approx(nats / 40, rel=1e-5)
    assert record.curve[0].metric == 10.0


def test_a_stream_that_changes_is_harder():
    changing, still = (stream.Stream(change=change, steps=600) for change in ("labels", "none"))
    metrics = [trained(workload, lr=1e-2).test.metric for workload in (changing, still)]
    assert metrics[0] < metrics[1] - 5


# All


@pytest.mark.parametrize(
    ("make", "settings", "reached"),
    [
        # Guessing gives 10 %.
        (deep.Deep, {"lr": 1e-3}, 90.0),
        (lambda: deep.Deep(scales=(1, 10, 100), norm=True, batch_size=512, steps=200), {"lr": 3e-3}, 80.0),
        # A hundredth of what it begins with.
        (quad.Quad, {"lr": 3e-2}, 0.1),
        (lambda: quad.Quad(rotated=True), {"lr": 3e-2}, 0.1),
        # The frequencies of classes alone give 2.1, who knows the truth 0.500.
        (zipf.Zipf, {"lr": 3e-2}, 0.7),
        (lambda: zipf.Zipf(judged="rarest"), {"lr": 3e-2}, 1.5),
        # It begins with the variance of ratings, 0.51, and the noise has 0.01.
        (zipf.ZipfFactors, {"lr": 1e-2}, 0.1),
        # Guessing gives 10 %.
        (stream.Stream, {"lr": 1e-2}, 60.0),
    ],
    ids=[
        "deep",
        "deep with all options",
        "quad",
        "quad rotated",
        "zipf",
        "zipf rarest",
        "zipf-factors",
        "stream",
    ],
)
def test_it_learns(make, settings, reached):
    workload = make()
    record = trained(workload, **settings)
    better = (
        (lambda one, other: one > other) if workload.higher_is_better else (lambda one, other: one < other)
    )
    assert better(record.test.metric, reached)
    assert not better(record.curve[0].metric, reached)
