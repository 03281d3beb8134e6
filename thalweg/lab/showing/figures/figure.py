"""A picture as the report holds it."""

import math
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
        entries = sum(trace.showlegend is not False and bool(trace.name) for trace in plot.data)
        top, bottom = 28 + 20 * len(lines), 22 * math.ceil(entries / 3)
        return go.Figure(plot).update_layout(
            title={
                "text": "<br>".join(lines),
                "font_size": 15,
                "x": 0,
                "xref": "container",
                "pad_l": 14,
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad_t": 14,
            },
            # Below the plot, where the title does not need the place.
            legend={"y": 0, "yref": "container", "yanchor": "bottom"},
            margin={"t": top, "b": 50 + bottom},
            height=plot.layout.height + top + bottom,
            paper_bgcolor="#ffffff",
            plot_bgcolor="#ffffff",
        )
