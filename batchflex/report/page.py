"""Renders a digest as one self-contained HTML page: template, style, scripts and charts in one text."""

from __future__ import annotations

import base64
import datetime
import hashlib
import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from ..core import STATUSES, __version__, duration, figure, format, money, percent, printable
from . import canvas, headline
from .digest import Digest
from .sample_rows import KINDS, Row, shortened, shown
from .sections import Table, chapters, without_empty
from .vega import libraries

_FILES = Path(__file__).parent / "assets"
_ROWS_BYTES = 2_000_000
_CELLS = (2_000, 600, 160)  # characters, tried one after the other until the rows fit
_JOB_CHARS = 30_000


def render(digest: Digest, now: datetime.datetime) -> str:
    """The page. ``now`` is when it is made, with its time zone."""
    shown_sections = chapters(digest)
    data = {
        "config": canvas.config(),
        "palette": canvas.PALETTE,
        "alone": {"font": [canvas.FONT, canvas.PLAIN_FONT], "width": canvas.ALONE_WIDTH},
        "name": digest.name,
        "charts": {f.id: f.spec for s in shown_sections for f in s.figures},
        "rows": _rows(digest),
    }
    scripts = [_embedded(libraries()), _embedded((_FILES / "page.js").read_text(encoding="utf-8"))]
    said, more = headline.headline(digest)
    whole = digest.whole
    planned = digest.state.get("planned") or whole.rows
    parts = [(s, whole.status[s]) for s in STATUSES] + [("open", max(0, planned - whole.rows))]
    jinja = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(_FILES),
        trim_blocks=True,
        finalize=_visible,
    )
    return jinja.get_template("page.html").render(
        name=digest.name,
        said=said,
        more=more,
        made=f"report of {now:%-d %B %Y, %H:%M %Z}",
        ending=headline.ending(digest),
        notes=digest.notes,
        shares=[
            {"status": s, "name": "not answered yet" if s == "open" else s, "rows": n, "said": f"{n:,}"}
            for s, n in parts
            if n
        ],
        statuses=headline.statuses(digest),
        tiles=_tiles(digest),
        sections=shown_sections,
        has_rows=bool(digest.rows),
        rows_lead=_rows_lead(digest),
        level=None if digest.scores is None else format.level(digest.scores.level),
        runs=_runs(digest),
        job_toml=shown(digest.job_toml, _JOB_CHARS),
        out=os.path.normpath(digest.out),
        version=__version__,
        made_of=digest.made_of or "",
        style=Markup((_FILES / "page.css").read_text(encoding="utf-8")),
        scripts=scripts,
        data=Markup(json_for_script(data)),
        policy=_policy(scripts),
    )


def _visible(value: Any) -> Any:
    """Makes invisible characters visible in all text that the template inserts, except markup of our own."""
    return printable(value) if type(value) is str else value


def _embedded(script: str) -> Markup:
    """A script, escaped so that no text in it ends its ``script`` element."""
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy: nothing is loaded, and no script runs but these, so none from an answer."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    own = f"script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"


def json_for_script(data: Any) -> str:
    """JSON that is safe inside a ``script`` element, whatever text it contains."""
    text = printable(msgspec.json.encode(data, enc_hook=str).decode())
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --------------------------------------------------------------------------------------------------------- the head


def _tiles(digest: Digest) -> list[tuple[str, str, str]]:
    """The figures below the headline: of each its name, its value, and a remark."""
    whole, seconds = digest.whole, headline.took(digest)
    if not whole.rows:
        return []
    planned = digest.state.get("planned")
    several = [f"{whole.items:,} items"] if whole.items != whole.rows else []
    several += [f"{len(digest.points):,} sweep points"] if len(digest.points) > 1 else []
    of = f" of {planned:,}" if planned and planned != whole.rows else ""
    tiles = [("Rows", f"{whole.rows:,}{of}", ", ".join(several) or headline.statuses(digest))]
    if whole.tokens is not None:
        cached = whole.cached_share
        remark = f"{format.fixed(whole.tokens / whole.rows, 1)} a row"
        remark = remark if cached is None else f"{percent(cached)} of the prompts from cache"
        tiles.append(("Tokens", f"{whole.tokens:,}", remark))
    if whole.cost is not None:
        tiles.append(("Cost", money(whole.cost), f"{money(1000 * whole.cost / whole.rows)} for 1,000 rows"))
    if digest.latency:
        p50, p95 = format.latency(digest.latency.p50), format.latency(digest.latency.p95)
        tiles.append(("Latency, median", p50, f"95 % within {p95}"))
    if seconds:
        runs = f" in {len(digest.runs)} runs" if len(digest.runs) > 1 else ""
        tiles.append(("Time", duration(seconds), f"{format.fixed(whole.rows / seconds, 1)} rows a second{runs}"))
    model = shown(digest.models[0], 60) if digest.models else "–"
    more = f" and {len(digest.models) - 1} more" if len(digest.models) > 1 else ""
    tiles.append(("Model", f"{model}{more}", f"at {shown(digest.endpoint, 60)}"))
    return tiles


# --------------------------------------------------------------------------------------------------------- the rows


def _rows_lead(digest: Digest) -> str:
    shown_of = "All rows" if len(digest.rows) == digest.whole.rows else (
        f"{len(digest.rows):,} of {digest.whole.rows:,}: a random sample, the same each time, and some of what went wrong"
    )  # fmt: skip
    return f"{shown_of}. Open a row to see all of it. Search and filters are kept in the address of the page."


def _rows(digest: Digest) -> dict[str, Any]:
    """The rows in the form that the page's script reads: cells shortened to fit the page, equal messages once."""
    spec = headline.primary(digest)
    names = {s.name: s.column for s in digest.specs}
    about: dict[str, Any] = {
        "variables": [[name, values] for name, values in digest.variables.items()],
        "short": headline.short_values(digest),
        "kinds": [
            [kind, words, n, digest.totals[kind]]
            for kind, words in KINDS.items()
            if (n := sum(kind in row.kinds for row in digest.rows)) and kind in digest.totals
        ],
        "scores": list(names),
        "shares": [s.name for s in digest.specs if s.is_share],
        "expected": spec.expected if spec else None,
    }
    rows = digest.rows
    while True:
        for most in _CELLS:
            found = {**about, **_packed(rows, list(digest.variables), names, most)}
            if len(msgspec.json.encode(found, enc_hook=str)) <= _ROWS_BYTES or len(rows) <= 1:
                return found
        rows = rows[::2]


def _packed(rows: Sequence[Row], variables: Sequence[str], names: dict[str, str], most: int) -> dict[str, Any]:
    texts: dict[str, int] = {}
    prefixes = {
        point: _common([row.prompt for row in rows if row.point == point and row.prompt])
        for point in {row.point for row in rows}
    }
    packed = []
    for row in rows:
        prompt = None
        if row.prompt is not None:
            prompt = [[m.role, texts.setdefault(shortened(m.text, most), len(texts))] for m in row.prompt]
        packed.append({
            "k": row.kinds,
            "p": row.point,
            "v": {name: shortened(v, most) if isinstance(v, str) else v for name, v in row.values.items()},
            "c": {name: None if v is None else shortened(v, most) for name, v in row.carried.items()},
            "s": {name: row.scores[column] for name, column in names.items() if column in row.scores},
            "m": prompt,
            "h": prefixes[row.point],
            "t": {name: figure(row.scores.get(column)) for name, column in names.items()},
            "f": _facts(row, variables, names),
        })  # fmt: skip
    return {"rows": packed, "texts": list(texts)}


def _facts(row: Row, variables: Sequence[str], names: dict[str, str]) -> list[tuple[str, str]]:
    """What is shown of a row besides its texts, name and value, as text: the page's script formats no number itself."""
    values = row.values

    def tokens(name: str) -> str | None:
        return None if values.get(name) is None else f"{values[name]:,} tokens"

    def seconds(name: str) -> str | None:
        return None if values.get(name) is None else format.latency(values[name])

    cost, attempts = values.get("cost"), values.get("attempts") or 0
    facts: list[tuple[str, Any]] = [
        ("row", values["row"]), ("sample", values.get("sample") or None), *zip(variables, row.point, strict=True),
        ("status", values["status"]), ("finish", values.get("finish_reason")), ("model", values.get("model")),
        ("endpoint", values.get("endpoint")), ("prompt", tokens("prompt_tokens")),
        ("from cache", tokens("cache_read_input_tokens")), ("answer", tokens("completion_tokens")),
        ("cost", None if cost is None else money(cost)), ("latency", seconds("latency_s")),
        ("first token", seconds("ttft_s")), ("attempts", attempts if attempts > 1 else None),
        *((name, None if row.scores.get(column) is None else figure(row.scores[column])) for name, column in names.items()),
    ]  # fmt: skip
    return [
        (name, f"{value:,}" if isinstance(value, int) else value) for name, value in facts if value not in (None, "")
    ]


def _common(prompts: Sequence[Sequence[Any]]) -> int:
    """The number of messages that all prompts have in common at their beginning, not counting the last message of any."""
    if len(prompts) < 2:
        return 0
    first, most = prompts[0], min(map(len, prompts)) - 1
    return next((at for at in range(most) if any(p[at] != first[at] for p in prompts)), max(0, most))


# --------------------------------------------------------------------------------------------------------- the foot


def _runs(digest: Digest) -> Table | None:
    if not digest.runs:
        return None
    rows = [
        [f"{run.started_at:%Y-%m-%d %H:%M:%S}", run.status + (f" ({run.stopped_by})" if run.stopped_by else ""),
         f"{run.requests_sent:,}", f"{run.retries:,}", f"{run.rate_limited:,}", f"{run.prompt_tokens + run.completion_tokens:,}",
         money(run.cost)]
        for run in digest.runs
    ]  # fmt: skip
    head = ["began (UTC)", "ended", "requests", "retries", "rate-limited", "tokens", "cost"]
    title = f"The last {len(rows)} runs" if len(rows) > 1 else "The run"
    return without_empty(Table(title, head, rows, (2, 3, 4, 5, 6)))
