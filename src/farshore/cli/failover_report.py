"""Renders a failover's report as one HTML file without scripts or external resources. Pure.

Any text in it may come from a guest or from a name that a user chose, so everything is escaped.
"""

from __future__ import annotations

import base64
import binascii
from html import escape

from farshore.api_types.checks import Verdict
from farshore.api_types.failovers import Failover, FailoverReport
from farshore.cli.check_grammar import shown_check
from farshore.cli.output import duration, moment, plain

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}table{border-collapse:collapse;"
    "width:100%}td,th{border-bottom:1px solid #ccc;padding:.3em .6em;text-align:left;vertical-align:top}"
    "pre{background:#f4f4f4;padding:1em;overflow:auto;max-height:40em}.passed{color:#17642b}.failed{color:#a11}"
    "img{max-width:100%;border:1px solid #ccc}"
)
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_PNG = b"\x89PNG\r\n\x1a\n"


def html_of(report: FailoverReport) -> str:
    """Return the HTML document."""
    failover = report.failover
    title = f"{failover.kind.value.capitalize()} of {report.machine}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f'<meta http-equiv=Content-Security-Policy content="{_POLICY}">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style>",
        f"<h1>{_text(title)}</h1>",
        _table([], _facts(report)),
        "<h2>Checks</h2>",
        _checks(failover),
        "<h2>Screen</h2>",
        _screen(report.screenshot),
        "<h2>Events</h2>",
        _table(["Time", "Severity", "Event"], [[moment(one.time), one.severity, one.message] for one in report.events]),
        "<h2>Console</h2>",
        f"<pre>{_text(report.console.replace(chr(13), '')) or 'The console is empty.'}</pre></html>",
    ]
    return "\n".join(parts)


def measured(failover: Failover) -> list[tuple[str, str]]:
    """Return RPO, RTO and downtime, as far as they were measured."""
    found = failover.evidence
    rpo = "" if found.rpo_seconds is None else f"{duration(found.rpo_seconds)} ({found.rpo_basis})"
    rto = "" if found.rto_seconds is None else duration(found.rto_seconds)
    gone = "" if failover.downtime_seconds is None else duration(failover.downtime_seconds)
    return [("RPO", rpo), ("RTO", rto), ("Downtime", gone)]


def _facts(report: FailoverReport) -> list[list[str]]:
    failover = report.failover
    rows = [
        ("Failover", failover.id),
        ("State", failover.state),
        ("Result of the checks", failover.verdict.value),
        ("Source", failover.evidence.shutdown),
        *measured(failover),
        ("Point", f"{moment(failover.point_time)} ({failover.point_epoch}:{failover.point_sequence})"),
        ("Proof", failover.proof),
        ("Site", failover.site),
        ("Requested", moment(failover.requested)),
        ("Running", moment(failover.running)),
        ("Last check", failover.checked),
        ("Diagnosis", failover.evidence.diagnosis),
        ("Message", failover.message),
        ("Report made", moment(report.written)),
    ]
    return [[name, value] for name, value in rows if value]


def _checks(failover: Failover) -> str:
    rows = failover.evidence.checks
    if failover.verdict is Verdict.NONE:
        return "<p>No check was made.</p>"
    cells = "".join(
        f"<tr><td>{_text(shown_check(one.check))}<td class={'passed' if one.passed else 'failed'}>"
        f"{'passed' if one.passed else 'failed'}<td>{_text(duration(one.seconds))}<td>{one.tries}"
        f"<td>{_text(one.detail)}</tr>"
        for one in rows
    )
    return f"<table><tr><th>Check<th>Result<th>After<th>Tries<th>Seen</tr>{cells}</table>"


def _screen(screenshot: str) -> str:
    try:
        picture = base64.b64decode(screenshot, validate=True)
    except (binascii.Error, ValueError):
        picture = b""
    if not picture.startswith(_PNG):
        return "<p>No picture was taken.</p>"
    data = base64.b64encode(picture).decode("ascii")
    return f'<p><img alt="The screen of the machine" src="data:image/png;base64,{data}"></p>'


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = f"<tr>{''.join(f'<th>{_text(one)}' for one in heads)}</tr>" if heads else ""
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}' for cell in row)}</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def _text(text: str) -> str:
    return escape(plain(text))
