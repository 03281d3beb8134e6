"""The page of the lesson: one HTML file, computed from the records."""

from thalweg.lab.lesson.page.page import render

__all__ = ["render"]
