"""A comparison's records for other programs: CSV, and the clients of TensorBoard, MLflow and W&B."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from thalweg.lab.running.connecting import hidden
from thalweg.lowering import files

Document = Mapping[str, Any]
"""Results as `results.load` reads them."""

Place = Path | str
"""Where records were written to: a file, a folder, or the address of a server."""


def runs(document: Document) -> str:
    """One line for each run, as CSV: hyperparameters in columns of their own."""
    rows = [_run(record) for record in document["records"]]
    hyper = dict.fromkeys(key for record in document["records"] for key in record["settings"])
    first, last = ["id", "stage", "name", "optimizer", "seed"], ["validation", "validation_loss", "test"]
    return _csv([*first, *hyper, *last, "test_loss", "failure", "seconds", "step_ms", "state_bytes"], rows)


def curves(document: Document) -> str:
    """One line for each point of each learning curve, as CSV."""
    rows = [
        {"id": record["id"], "name": record["name"], "stage": record["stage"], **point}
        for record in document["records"]
        for point in _points(record)
    ]
    return _csv(["id", "name", "stage", "step", "seconds", "loss", "metric"], rows)


def to_csv(document: Document, folder: Path) -> list[Place]:
    """Writes ``runs.csv`` and ``curves.csv``."""
    files.prepare_folder(folder)
    made = {folder / "runs.csv": runs(document), folder / "curves.csv": curves(document)}
    for path, text in made.items():
        files.write_atomically(path, text.encode())
    return list(made)


def to_tensorboard(document: Document, folder: Path) -> list[Place]:
    """Writes a folder of events for each run: curves, settings and what it came to at its last step."""
    writers = _package("torch.utils.tensorboard", "tensorboard")
    metric = document["workload"]["metric"]
    for record in document["records"]:
        with writers.SummaryWriter(str(folder / _title(record))) as writer:
            last = 0
            for point in _points(record):
                last = point["step"]
                for name, value in (("loss", point["loss"]), (metric, point["metric"])):
                    if value is not None:
                        writer.add_scalar(name, value, last)
            for name, value in _results(record).items():
                writer.add_scalar(f"results/{name}", value, last)
            writer.add_text("settings", str(_config(record)))
            if record["failure"]:
                writer.add_text("failure", _failure(record))
    return [folder]


def to_mlflow(document: Document, _folder: Path) -> list[Place]:
    """Logs each run to the server that MLFLOW_TRACKING_URI names, or where MLflow logs without it."""
    mlflow = _package("mlflow", "mlflow")
    mlflow.set_experiment(f"thalweg {document['workload']['name']}")
    for record in document["records"]:
        with mlflow.start_run(run_name=_title(record)):
            mlflow.log_params(_config(record))
            mlflow.set_tags({"stage": record["stage"], "failure": _failure(record)})
            for point in _points(record):
                mlflow.log_metrics(_measured(point), step=point["step"])
            mlflow.log_metrics(_results(record))
            mlflow.end_run("FAILED" if record["failure"] else "FINISHED")
    return [hidden(mlflow.get_tracking_uri())]


def to_wandb(document: Document, folder: Path) -> list[Place]:
    """Logs each run to Weights & Biases, as its own settings say where (WANDB_MODE=offline for a folder)."""
    wandb = _package("wandb", "wandb")
    for record in document["records"]:
        run = wandb.init(
            project=f"thalweg-{document['workload']['name']}",
            name=_title(record),
            group=record["name"],
            job_type=record["stage"],
            config=_config(record),
            dir=str(folder),
            # Else it writes twenty lines on the terminal for each run.
            settings=wandb.Settings(quiet=True, console="off"),
        )
        for point in _points(record):
            run.log(_measured(point), step=point["step"])
        run.summary.update({**_results(record), "failure": _failure(record)})
        run.finish(exit_code=1 if record["failure"] else 0)
    return [folder / "wandb"]


TARGETS: Mapping[str, Callable[[Document, Path], list[Place]]] = {
    "csv": to_csv,
    "tensorboard": to_tensorboard,
    "mlflow": to_mlflow,
    "wandb": to_wandb,
}
"""Where records can go, by the name that the command takes; each returns where they are then."""


def _package(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ValueError(f"--to {package} needs the package {package}: pip install {package}") from None


def _run(record: Mapping[str, Any]) -> dict[str, Any]:
    timing = record["timing"] or {}
    return {
        **record["settings"],
        **{key: record[key] for key in ("id", "stage", "name", "optimizer", "seed", "state_bytes")},
        **_results(record),
        "failure": _failure(record),
        "seconds": timing.get("seconds"),
        "step_ms": timing.get("step_ms"),
    }


def _results(record: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for split in ("validation", "test"):
        if record[split] is not None:
            found |= {split: record[split]["metric"], f"{split}_loss": record[split]["loss"]}
    return found


def _config(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record["settings"], "optimizer": record["optimizer"], "seed": record["seed"]}


def _failure(record: Mapping[str, Any]) -> str:
    return record["failure"]["text"] if record["failure"] else ""


def _points(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    at = (record["timing"] or {}).get("at", [])
    for place, (step, loss, metric) in enumerate(record["curve"]):
        seconds = at[place] if place < len(at) else None
        yield {"step": step, "seconds": seconds, "loss": loss, "metric": metric}


def _measured(point: Mapping[str, Any]) -> dict[str, float]:
    return {key: point[key] for key in ("loss", "metric") if point[key] is not None}


def _title(record: Mapping[str, Any]) -> str:
    return f"{record['id']:04}-{record['name']}-{record['stage']}"


def _csv(columns: list[str], rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
