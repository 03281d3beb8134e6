"""The bytes that training takes, by optimizer and storage."""

from thalweg.lab.memory.api import Memory, memory

__all__ = ["Memory", "memory"]
