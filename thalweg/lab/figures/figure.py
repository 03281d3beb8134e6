"""A picture as the report holds it."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go


@dataclass(frozen=True)
class Figure:
    """A picture, the finding that is its title, and how to read it.

    Attributes:
        name: tells it from the others, for example ``curves``.
        title: what it shows, as a sentence.
        caption: how to read it.
        views: the plots by what the reader switches between, ``steps`` and ``seconds``; a single one has
            an empty name.
        wide: whether it needs the whole width of a page.
    """

    name: str
    title: str
    caption: str
    views: Mapping[str, go.Figure]
    wide: bool = False

    def plots(self) -> dict[str, go.Figure]:
        """The plots with the finding on top, to be shown alone; by name and view, as in ``curves_steps``."""
        return {
            f"{self.name}_{view}" if view else self.name: self._titled(plot)
            for view, plot in self.views.items()
        }

    def _titled(self, plot: go.Figure) -> go.Figure:
        lines = textwrap.wrap(escape(self.title, quote=False), 72)
        titled = go.Figure(plot)
        height = 40 + 20 * len(lines)
        legend = 26 if any(trace.showlegend is not False and trace.name for trace in plot.data) else 0
        return titled.update_layout(
            title={
                "text": "<br>".join(lines),
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "pad_l": 14,
                "font_size": 15,
            },
            height=plot.layout.height + height + legend,
            margin_t=height + legend,
            paper_bgcolor="#ffffff",
            plot_bgcolor="#ffffff",
        )
