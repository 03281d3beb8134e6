"""What is trained: the contract, the workloads that ship, a user's own."""

from thalweg.lab.workload.contract import Evaluation, Split, Workload, device_of

__all__ = ["Evaluation", "Split", "Workload", "device_of"]
