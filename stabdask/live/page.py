"""The live page as a Bokeh document: figures and words of one `LiveStatus`, brought up to date every second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from stabdask.clusters.dashboard import PAGE
from stabdask.live.model import DECADES, ClusterRow
from stabdask.live.status import LiveStatus
from stabdask.live.text import (
    DONE,
    FAILED,
    RUNNING,
    STYLE,
    WAITING,
    empty_html,
    head_html,
    plain_label,
    status_html,
)
from stabdask.live.watch import Live

__all__ = ["live_document"]

_EVERY_MS = 1000
_MOST_CLUSTERS = 100
_MAP_RATIO = 2.2
"""Columns of the map for each row."""
_LEAST_COLUMNS, _LEAST_ROWS = 16, 6
_MAP_WIDTH, _RESIDUAL_HEIGHT = 560, 230
_LIGHT, _GROUND = "#9CC8E3", "#FAFAFA"
_FONT = "13px"


def live_document(live: Live, pages: Sequence[str], doc: Any) -> None:
    """Fill a Bokeh document with the page; ``?run=TOKEN`` chooses a run that is not the newest.

    Parameters
    ----------
    live
        The runs.
    pages
        Last parts of the addresses of the dashboard's other pages.
    doc
        The document.
    """
    from jinja2 import Template

    arguments = doc.session_context.request.arguments
    token = arguments["run"][0].decode(errors="replace") if arguments.get("run") else None
    page = _Page(live, token)
    page.update()
    for root in page.roots():
        doc.add_root(root)
    doc.title = "stabdask: live"
    doc.template = Template(files("stabdask.live").joinpath("page.html").read_text(encoding="utf-8"))
    doc.template_variables.update(pages=list(pages), here=PAGE)
    doc.add_periodic_callback(page.update, _EVERY_MS)


class _Page:
    """The models of one document, and what brings them up to date."""

    def __init__(self, live: Live, token: str | None) -> None:
        from bokeh.models import Div

        def words(name: str, text: str = "") -> Any:
            # Names of clusters and stores are not TeX.
            return Div(
                name=name, text=text, disable_math=True, sizing_mode="stretch_width", stylesheets=[STYLE]
            )

        self._live, self._token = live, token
        self._head, self._status = words("head"), words("status")
        self._legend, self._quantiles = words("legend"), words("quantiles")
        self._map, self._residual, self._abscissa = _Map(), _Residuals(), _Abscissae()

    def roots(self) -> list[Any]:
        """Return what stands in the template, by name."""
        return [
            self._head,
            self._map.figure,
            self._legend,
            self._residual.figure,
            self._status,
            self._quantiles,
            self._abscissa.root,
        ]

    def update(self) -> None:
        """Show the numbers of now; what has not changed is not sent."""
        status = self._live.status(self._token)
        figures: Sequence[Any] = (
            self._map.figure,
            self._legend,
            self._residual.figure,
            self._quantiles,
            self._abscissa.root,
        )
        if status is None:
            _set(self._head, text=empty_html(self._live.n_workers) if self._token is None else _NO_SUCH_RUN)
            _set(self._status, text="")
            for shown in figures:
                _set(shown, visible=False)
            return
        seen = status.progressed.visible is not False
        _set(self._head, text=head_html(status, self._live.runs(), PAGE))
        _set(self._status, text=status_html(status), visible=seen)
        for shown in figures[:2]:
            _set(shown, visible=True)
        _set(self._residual.figure, visible=seen and status.progressed.with_residual)
        for shown in (self._quantiles, self._abscissa.root):
            _set(shown, visible=seen and bool(status.progressed.clusters))
        title = self._map.update(status)
        in_part = _IN_PART if status.squares.per_square > 1 else ""
        _set(self._legend, text=_LEGEND.replace("{title}", title).replace("{in_part}", in_part))
        self._residual.update(status)
        title = self._abscissa.update(status.progressed.clusters)
        _set(self._quantiles, text=_QUANTILES.replace("{title}", title))


_NO_SUCH_RUN = (
    f"<h1>stabdask</h1><p>There is no run of that name here, or it is too old to be kept. "
    f"<a href='{PAGE}'>The newest</a></p>"
)
_LEGEND = (
    "<h2>{title}</h2><div class='legend'>"
    f"<span><i style='background:{DONE}'></i>done</span>"
    "{in_part}"
    f"<span><i style='background:{WAITING}'></i>waiting</span>"
    "<span><i class='dot'></i>running</span>"
    "<span><i class='cross'>✕</i> failed for good</span></div>"
)
_IN_PART = f"<span><i style='background:linear-gradient(90deg,{WAITING},{DONE})'></i>in part</span>"
_QUANTILES = (
    "<h2>Spectral abscissa {title}, by cluster</h2><div class='legend'>"
    f"<span><i class='line' style='background:{_LIGHT}'></i>5 to 95 % of cells</span>"
    f"<span><i style='background:{DONE}'></i>25 to 75 %</span>"
    "<span><i class='tick'></i>median</span>"
    "<span><i class='zero'></i>0: cells to the right of it are locally unstable</span></div>"
)


def _set(model: Any, **values: Any) -> None:
    for name, value in values.items():
        if getattr(model, name) != value:
            setattr(model, name, value)


def _fill(source: Any, data: dict[str, list[Any]]) -> None:
    if {name: list(values) for name, values in source.data.items()} != data:
        source.data = data


def _figure(**options: Any) -> Any:
    from bokeh.plotting import figure

    made = figure(
        toolbar_location=None,
        tools="",
        sizing_mode="stretch_width",
        background_fill_color="#FFFFFF",
        border_fill_color=_GROUND,
        outline_line_color="#DDDDDD",
        # A figure that was hidden at first leaves a little of its first, narrow drawing at the left edge.
        styles={"clip-path": "inset(0 0 0 3px)"},
        **options,
    )
    made.title.text_font_size = "14px"
    made.title.text_color = "#222222"
    made.title.text_font = "system-ui, Helvetica, Arial, sans-serif"
    for axis in made.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = _FONT
        axis.major_label_text_font_size = _FONT
        axis.axis_label_text_color = axis.major_label_text_color = "#333333"
    made.grid.grid_line_color = "#EEEEEE"
    return made


class _Map:
    """Partitions as squares, in the order of cells, row by row."""

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource, HoverTool, LinearColorMapper

        # Without title and borders the figure has the shape of the map, so that squares are square.
        self.figure = _figure(
            name="map", min_border=0, x_range=(-0.5, 0.5), y_range=(-0.5, 0.5), aspect_ratio=1
        )
        self.figure.sizing_mode = "scale_width"
        self.figure.styles = {}
        self.figure.axis.visible = False
        self.figure.grid.visible = False
        self.figure.outline_line_color = None
        self.figure.background_fill_color = None
        empty: dict[str, list[Any]] = {name: [] for name in ("x", "y", "share", "first", "what")}
        self._squares = ColumnDataSource(data=empty)
        self._running, self._failed = (ColumnDataSource(data={"x": [], "y": []}) for _ in range(2))
        shades = LinearColorMapper(palette=_shades(WAITING, DONE, 21), low=0, high=1)
        squares = self.figure.rect(
            "x", "y", 0.88, 0.88, source=self._squares, line_color=None,
            fill_color={"field": "share", "transform": shades},
        )  # fmt: skip
        self._dots = self.figure.scatter(
            "x", "y", source=self._running, marker="circle", fill_color=RUNNING, line_color="white"
        )
        self._crosses = self.figure.scatter(
            "x", "y", source=self._failed, marker="x", line_color=FAILED, line_width=2.5
        )
        self.figure.add_tools(
            HoverTool(renderers=[squares], tooltips=[("partitions", "@first"), ("", "@what")])
        )

    def update(self, status: LiveStatus) -> str:
        """Show the map of a run, and return its title."""
        found = status.squares
        n = len(found.n)
        columns = max(_LEAST_COLUMNS, math.ceil(math.sqrt(n * _MAP_RATIO)))
        rows = max(_LEAST_ROWS, -(-n // columns))
        x = [float(i % columns) for i in range(n)]
        y = [-float(i // columns) for i in range(n)]
        first, what = [], []
        for i in range(n):
            begin = i * found.per_square
            end = begin + found.n[i] - 1
            first.append(f"{begin:,}" if begin == end else f"{begin:,} to {end:,}")
            what.append(_square_text(found.n[i], found.done[i], found.running[i], found.failed[i]))
        share = [done / whole for done, whole in zip(found.done, found.n, strict=True)]
        _fill(self._squares, {"x": x, "y": y, "share": share, "first": first, "what": what})
        for source, counts in ((self._running, found.running), (self._failed, found.failed)):
            places = [i for i in range(n) if counts[i]]
            _fill(source, {"x": [x[i] for i in places], "y": [y[i] for i in places]})
        # Of few partitions the squares are not to fill the whole figure.
        _set(self.figure.x_range, start=-0.5, end=columns - 0.5)
        _set(self.figure.y_range, start=0.5 - rows, end=0.5)
        _set(self.figure, aspect_ratio=columns / rows)
        # About as wide as the page lets the map be; marks are to be seen on small squares too.
        size = max(7.0, min(14.0, 0.5 * _MAP_WIDTH / columns))
        _set(self._dots.glyph, size=size)
        _set(self._crosses.glyph, size=size)
        each = (
            "a square each, in the order of cells"
            if found.per_square == 1
            else f"{found.per_square:,} a square, in the order of cells"
        )
        return f"{status.told.n_partitions:,} partitions, {each}"


def _square_text(n: int, done: int, running: int, failed: int) -> str:
    if n == 1:
        return "done" if done else "running" if running else "failed for good" if failed else "waiting"
    said = [f"{done:,} of {n:,} done"]
    said += [f"{running:,} running"] if running else []
    said += [f"{failed:,} failed for good"] if failed else []
    return ", ".join(said)


def _shades(low: str, high: str, n: int) -> list[str]:
    """Return colors from one to another."""
    ends = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (low, high)]
    return [
        "#" + "".join(f"{round(a + (b - a) * step / (n - 1)):02X}" for a, b in zip(*ends, strict=True))
        for step in range(n)
    ]


class _Residuals:
    """Cells by decade of their residual, on a logarithmic axis, where one cell of a million is seen."""

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource, FixedTicker, HoverTool

        self._source = ColumnDataSource(data={"x": [], "top": [], "n": [], "what": []})
        self.figure = _figure(
            name="residual",
            title="Residuals of eigenpairs",
            height=_RESIDUAL_HEIGHT,
            y_axis_type="log",
            x_range=(DECADES[0] - 1.2, DECADES[-1] + 1.2),
            y_range=(0.5, 10),
        )
        bars = self.figure.vbar(
            "x", top="top", bottom=0.5, width=0.86, source=self._source, fill_color=DONE, line_color=None
        )
        ticks = list(range(DECADES[0] + 1, DECADES[-1] + 1, 4))
        self.figure.xaxis.ticker = FixedTicker(ticks=ticks)
        self.figure.xaxis.major_label_overrides = {tick: f"1e{tick}" if tick else "1" for tick in ticks}
        self.figure.xaxis.axis_label = "largest residual of the cell, relative to the norm of its core"
        self.figure.yaxis.axis_label = "cells (log scale)"
        self.figure.ygrid.minor_grid_line_color = None
        self.figure.xgrid.visible = False
        self.figure.add_tools(
            HoverTool(renderers=[bars], tooltips=[("residual", "@what"), ("cells", "@n{0,0}")])
        )

    def update(self, status: LiveStatus) -> None:
        """Show the residuals of a run."""
        counts = status.progressed.residuals
        limits = [f"below 1e{DECADES[0]}"]
        limits += [f"1e{low} to 1e{low + 1}" for low in DECADES[:-1]] + ["1 and more"]
        shown = [i for i, n in enumerate(counts) if n]
        _fill(
            self._source,
            {
                # Bars stand between the powers of ten that they lie between.
                "x": [DECADES[0] - 0.5 + i for i in shown],
                "top": [counts[i] for i in shown],
                "n": [counts[i] for i in shown],
                "what": [limits[i] for i in shown],
            },
        )
        _set(self.figure.y_range, end=10.0 ** math.ceil(math.log10(2 * max(1, *counts))))
        _set(self.figure.title, text=f"Residuals of eigenpairs in {status.progressed.n_residuals:,} cells")


class _Abscissae:
    """Quantiles of the spectral abscissa in every cluster, the share of cells above 0, and the share of cells done."""

    def __init__(self) -> None:
        from bokeh.layouts import row
        from bokeh.models import BoxAnnotation, ColumnDataSource, HoverTool, Range1d, Span

        names = ("y", "name", "q05", "q25", "q50", "q75", "q95", "positive", "done", "what", "low", "high")
        self._source = ColumnDataSource(data={name: [] for name in names})
        self._names: list[str] = []
        y_range = Range1d(0, 1)
        self._main = _figure(title="max Re λ of cells", y_range=y_range, x_range=(-1, 1), height=200)
        zero = {"location": 0, "dimension": "height", "line_color": "#444444", "line_width": 1.2}
        self._main.add_layout(BoxAnnotation(left=0, fill_color=FAILED, fill_alpha=0.06, level="image"))
        self._main.add_layout(Span(line_dash="dashed", **zero))
        common = {"source": self._source, "line_color": None}
        self._main.hbar("y", left="q05", right="q95", height=0.3, fill_color=_LIGHT, **common)
        self._main.hbar("y", left="q25", right="q75", height=0.62, fill_color=DONE, **common)
        self._main.segment(
            "q50", "low", "q50", "high", source=self._source, line_color="#111111", line_width=3
        )
        self._main.xaxis.axis_label = "spectral abscissa (1/time)"
        self._above = self._share("positive", "Above 0 (% of cells)", FAILED, y_range)
        self._ready = self._share("done", "Done (% of cells)", "#666666", y_range)
        tips = [
            ("cluster", "@name"),
            ("cells", "@what"),
            ("median", "@q50{0.000}"),
            ("25 to 75 %", "@q25{0.000} to @q75{0.000}"),
            ("5 to 95 %", "@q05{0.000} to @q95{0.000}"),
            ("above 0", "@positive{0.0} %"),
        ]
        # One target a row: of bars over one another each would have its own box.
        target = self._main.hbar("y", left="q05", right="q95", height=0.9, fill_alpha=0, **common)
        self._main.add_tools(HoverTool(renderers=[target], tooltips=tips, point_policy="follow_mouse"))
        for one in (self._above, self._ready):
            one.add_tools(HoverTool(tooltips=tips))
        self._figures = (self._main, self._above, self._ready)
        self.root = row(*self._figures, name="abscissa", sizing_mode="stretch_width", spacing=6)

    def _share(self, name: str, title: str, color: str, y_range: Any) -> Any:
        made = _figure(
            title=title,
            y_range=y_range,
            x_range=(0, 100),
            height=200,
            width=150,
            min_border_left=10,
            min_border_right=16,
        )
        made.sizing_mode = "fixed"
        made.hbar(
            "y", left=0, right=name, height=0.62, source=self._source, fill_color=color, line_color=None
        )
        made.title.text_font_size = "12.5px"
        made.yaxis.visible = False
        made.ygrid.visible = False
        made.xaxis.ticker = [0, 50, 100]
        made.xaxis.axis_label = "%"
        return made

    def update(self, rows: Sequence[ClusterRow]) -> str:
        """Show the clusters of a run, in their order, the first above, and return the title."""
        n_all = len(rows)
        if n_all > _MOST_CLUSTERS:
            largest = set(sorted(range(n_all), key=lambda i: -rows[i].n_cells)[:_MOST_CLUSTERS])
            rows = [one for i, one in enumerate(rows) if i in largest]
        n = len(rows)
        y = [float(n - 1 - i) for i in range(n)]
        nan = float("nan")
        quantiles = [one.quantiles or (nan,) * 5 for one in rows]
        data: dict[str, list[Any]] = {
            "y": y,
            "name": [one.name for one in rows],
            "positive": [100 * one.n_positive / one.n_values if one.n_values else nan for one in rows],
            "done": [100 * one.n_done / one.n_cells if one.n_cells else 100.0 for one in rows],
            "what": [f"{one.n_done:,} of {one.n_cells:,} done" for one in rows],
            "low": [place - 0.31 for place in y],
            "high": [place + 0.31 for place in y],
        }
        for column, name in enumerate(("q05", "q25", "q50", "q75", "q95")):
            data[name] = [found[column] for found in quantiles]
        self._label([one.name for one in rows])
        self._source.data = data  # NaN differs from itself, so that there is nothing to compare
        self._stretch([value for found in quantiles for value in found if math.isfinite(value)])
        n_values = sum(one.n_values for one in rows)
        part = f" (here the largest {n} of {n_all:,} clusters)" if n < n_all else ""
        return f"of {n_values:,} cells{part}"

    def _label(self, names: list[str]) -> None:
        if names == self._names:
            return
        self._names = names
        n = len(names)
        each = 26 if n <= 12 else 20 if n <= 40 else 16
        for one in self._figures:
            _set(one, height=max(170, each * n + 90))
        axis = self._main.yaxis[0]
        axis.ticker = list(range(n))
        axis.major_label_overrides = {n - 1 - i: plain_label(name) for i, name in enumerate(names)}
        axis.major_label_text_font_size = _FONT if n <= 40 else "12px"
        self._main.y_range.update(start=-0.7, end=n - 0.3)

    def _stretch(self, values: list[float]) -> None:
        """Let the axis hold all values and 0."""
        low, high = min([*values, 0.0]), max([*values, 0.0])
        margin = 0.04 * (high - low) or 1.0
        _set(self._main.x_range, start=low - margin, end=high + margin)
