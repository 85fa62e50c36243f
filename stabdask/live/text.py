"""What the live page says in words, as HTML; everything that comes from data or from users is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stabdask.live.status import LiveStatus
from stabdask.live.told import Told
from stabdask.runs.plan import format_seconds
from stabdask.schema import Status
from stabdask.sizes import format_bytes

__all__ = [
    "DONE",
    "FAILED",
    "RUNNING",
    "STYLE",
    "WAITING",
    "empty_html",
    "head_html",
    "plain_label",
    "status_html",
]

WAITING, DONE, RUNNING, FAILED = "#DDDDDD", "#0072B2", "#E69F00", "#D55E00"
"""Of the palette of Okabe and Ito, which color-blind readers tell apart; running and failed differ in shape too."""

_STATES = {
    "running": "running",
    "finished": "finished",
    "failed": "ended; some partitions failed",
    "stopped": "stopped before its end",
    "lost": "its client has gone without a word",
}
_WORDS = {
    Status.OK: "ok",
    Status.NOT_CONVERGED: "not converged",
    Status.INACCURATE: "inaccurate",
    Status.NON_FINITE_INPUT: "input not finite, or no label",
    Status.DEFECTIVE: "defective",
    Status.NO_MODEL: "no model for the cluster",
    Status.SINGULAR: "singular",
    Status.NOT_COMPUTED: "not computed",
}
_MOST_NAMED = 12

STYLE = f"""
:host {{ font: 14px/1.45 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #222; }}
.bk-clearfix {{ display: block; width: 100%; }}
h1 {{ font-size: 20px; margin: 0 0 2px; font-weight: 600; }}
h2 {{ font-size: 14px; margin: 0 0 6px; font-weight: 600; }}
p {{ margin: 2px 0; }}
code {{ font: 13px ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }}
.state {{ display: inline-block; padding: 1px 10px; border-radius: 10px; border: 1px solid #888; font-size: 13px;
  font-weight: 400; vertical-align: 2px; margin-left: 8px; }}
.bar {{ height: 14px; background: {WAITING}; border-radius: 3px; overflow: hidden; margin: 10px 0; }}
.bar div {{ height: 100%; background: {DONE}; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 8px; }}
.tile {{ background: #fff; border: 1px solid #ddd; border-radius: 4px; padding: 6px 10px; }}
.tile b {{ display: block; font-size: 18px; font-weight: 600; }}
.tile span {{ color: #555; font-size: 12.5px; display: block; }}
.problem {{ background: #FFF4E0; border-left: 4px solid {RUNNING}; padding: 6px 10px; margin: 8px 0; }}
.failure {{ background: #FDEBE2; border-left: 4px solid {FAILED}; padding: 6px 10px; margin: 8px 0; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: #444; }}
.legend i {{ display: inline-block; width: 13px; height: 13px; margin-right: 5px; vertical-align: -2px; }}
.legend .dot {{ border-radius: 50%; background: {RUNNING}; border: 1px solid #fff; }}
.legend .cross {{ color: {FAILED}; font-weight: 700; font-style: normal; width: auto; height: auto;
  vertical-align: 0; }}
.legend .line {{ height: 6px; vertical-align: 2px; }}
.legend .tick {{ width: 3px; background: #111; }}
.legend .zero {{ width: 0; border-left: 2px dashed #444; }}
table {{ border-collapse: collapse; width: 100%; max-width: 400px; font-size: 13.5px; }}
th {{ text-align: left; font-weight: 400; }}
th, td {{ padding: 2px 8px 2px 0; border-bottom: 1px solid #e4e4e4; }}
td {{ text-align: right; font-variant-numeric: tabular-nums; }}
.bad {{ color: #A33F00; font-weight: 600; }}
.runs {{ color: #555; font-size: 13px; }}
"""


def plain_label(name: str, most: int = 24) -> str:
    """Return a name as a label of an axis, where Bokeh would typeset what stands between signs of TeX.

    Examples
    --------
    >>> plain_label("a very long name of a cluster", 12)
    'a very long…'
    """
    short = name if len(name) <= most else name[: most - 1].rstrip() + "…"
    return "".join(f"{sign}\u200b" if sign in "$\\" else sign for sign in short)


def empty_html(n_workers: int) -> str:
    """Return what is said before the first run."""
    return (
        "<h1>stabdask</h1><p>No run has been announced to this scheduler yet. One appears here when "
        "<code>stabdask run</code> or <code>sd.run(..., client=...)</code> begins to compute.</p>"
        f"<p>{n_workers:,} worker{'s' * (n_workers != 1)} connected.</p>"
    )


def head_html(status: LiveStatus, runs: Sequence[Told], page: str) -> str:
    """Return title, bar, numbers, what is wrong, and links to other runs at the address `page`."""
    told, progressed = status.told, status.progressed
    known = progressed.visible is not False
    share = progressed.n_cells_done / told.n_cells if told.n_cells else 1.0
    parts = [
        f"<h1>Stability of {told.n_cells:,} cells<span class='state'>{escape(_STATES[told.state])}</span></h1>",
        f"<p>store <code>{escape(told.store)}</code></p>",
    ]
    if known:
        parts.append(f"<div class='bar'><div style='width:{100 * share:.2f}%'></div></div>")
    parts.append(f"<div class='tiles'>{''.join(_tiles(status, known, share))}</div>")
    parts += [f"<p class='problem'>{escape(text)}</p>" for text in progressed.problems]
    if status.failed:
        parts.append(f"<p class='failure'>{_failures(status)}</p>")
    parts.append(_others(told, runs, page))
    return "".join(parts)


def _tiles(status: LiveStatus, known: bool, share: float) -> list[str]:
    told, progressed, workers = status.told, status.progressed, status.workers
    tiles = []
    if known:
        before = f", {told.n_cells_before:,} of them before this run" if told.n_cells_before else ""
        tiles += [
            _tile(f"{share:.1%}", f"{progressed.n_cells_done:,} of {told.n_cells:,} cells done{before}"),
            _tile(
                _rate(status.cells_per_s),
                f"cells per second; {_rate(status.recent_cells_per_s)} in the last minute",
            ),
        ]
    if told.running:
        left = "–" if status.seconds_left is None else format_seconds(status.seconds_left)
        tiles.append(_tile(left, f"left, after {format_seconds(status.seconds)}"))
    else:
        tiles.append(_tile(format_seconds(status.seconds), "taken in all"))
    done = f"{status.n_partitions_done:,}" if known else "–"
    counts = f"{len(status.running):,} running, {len(status.failed):,} failed"
    tiles.append(_tile(f"{done} of {told.n_partitions:,}", f"partitions done; {counts}"))
    threads = "" if workers.n_threads == workers.n else f", {workers.n_threads:,} threads"
    peak = ""
    if progressed.peak_worker_bytes:
        peak = f"; at most {format_bytes(progressed.peak_worker_bytes)} in one so far"
    limit = f" of {format_bytes(workers.memory_limit_bytes)}" if workers.memory_limit_bytes else ""
    full = "" if workers.fullest is None else f"; fullest worker {workers.fullest:.0%}"
    tiles += [
        _tile(f"{workers.n:,}", f"worker{'s' * (workers.n != 1)}{threads}{peak}"),
        _tile(format_bytes(workers.memory_bytes), f"memory of workers{limit}{full}"),
    ]
    if workers.gpu_total_bytes:
        tiles.append(
            _tile(format_bytes(workers.gpu_bytes), f"GPU memory of {format_bytes(workers.gpu_total_bytes)}")
        )
    return tiles


def _tile(value: str, what: str) -> str:
    return f"<div class='tile'><b>{escape(value)}</b><span>{escape(what)}</span></div>"


def _rate(rate: float | None) -> str:
    if rate is None:
        return "–"
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _failures(status: LiveStatus) -> str:
    kinds: dict[str, list[int]] = {}
    for number in status.failed:
        kinds.setdefault(status.told.failures[number], []).append(number)
    said = []
    for kind, numbers in kinds.items():
        named = ", ".join(str(number) for number in numbers[:_MOST_NAMED])
        more = f" and {len(numbers) - _MOST_NAMED:,} more" if len(numbers) > _MOST_NAMED else ""
        said.append(f"{escape(kind)}: number {named}{more}")
    count = "1 partition" if len(status.failed) == 1 else f"{len(status.failed):,} partitions"
    return (
        f"{count} failed for good ({'; '.join(said)}). What is finished is kept; the message "
        "of the run says more, and the same command tries the rest again."
    )


def _others(told: Told, runs: Sequence[Told], page: str) -> str:
    if len(runs) < 2:
        return ""
    links = []
    for other in runs:
        text = f"<code>{escape(other.store)}</code> ({escape(_STATES[other.state])})"
        if other.token == told.token:
            links.append(f"<b>{text}</b>")
        else:
            links.append(f"<a href='{escape(page)}?run={escape(other.token)}'>{text}</a>")
    return f"<p class='runs'>Runs on this cluster, newest first: {' · '.join(links)}</p>"


def status_html(status: LiveStatus) -> str:
    """Return the table of cells by status."""
    counts = status.progressed.status_counts
    total = sum(counts.values())
    if not total:
        return "<h2>Cells by status</h2><p>none yet</p>"
    rows = []
    for code, n in counts.items():
        kind = Status(code)
        bad = " class='bad'" if kind.failed else ""
        sign = "✗ " if kind.failed else ""
        rows.append(
            f"<tr><th{bad}>{sign}{escape(_WORDS[kind])}</th><td>{n:,}</td><td>{n / total:.2%}</td></tr>"
        )
    note = (
        ""
        if status.progressed.with_residual
        else "<p class='runs'>Residuals are shown of runs that compute eigenvectors.</p>"
    )
    return (
        "<h2>Cells by status</h2><table><tr><th>status</th><td>cells</td><td>share</td></tr>"
        f"{''.join(rows)}</table>{note}"
    )
