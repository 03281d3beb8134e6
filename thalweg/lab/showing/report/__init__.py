"""One HTML file that needs no network: verdict, ranking, pictures, trials and method."""

from thalweg.lab.showing.report.page import render, summary

__all__ = ["render", "summary"]
