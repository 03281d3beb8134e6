"""The lab: measures which optimizer a model wants, and how to set it.

Read the modules in this order:

- `workload`: what is trained, as a contract; `workloads`: those that ship with the package.
- `spaces`: each optimizer with its fixed settings and its range of learning rates.
- `search`: the quasi-random learning rates.
- `trial`: one training run and its record.
- `pool`: the processes that run trials.
- `study`: the protocol: equal tuning budgets, selection on validation, paired fresh seeds on test.
- `statistics`: intervals, ranking and differences.
- `verdict`, `wording`: what the numbers allow one to say, and how it is said.
- `results`, `findings`, `figures`, `report`, `console`: what is written and shown.
- `command`: `thalweg compare` behind its options.

Nothing here is imported by `import thalweg`.
"""
