"""What is trained: the contract, the workloads that ship, a user's own."""

from thalweg.lab.workload.contract import Evaluation, Run, Split, Workload, device_of

__all__ = ["Evaluation", "Run", "Split", "Workload", "device_of"]
