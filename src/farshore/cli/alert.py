"""``farshore alert``: open alerts, and the channels that they are sent on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from farshore.api_types.alerts import Acknowledgement, Channel, ChannelKind, ChannelRequest, ChannelTest, NewChannel
from farshore.api_types.events import Alert, Severity
from farshore.api_types.users import Role
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, Yes, management
from farshore.cli.grammar import parse_duration, short
from farshore.cli.output import ago, moment, out, plain, print_done, print_json, print_table
from farshore.cli.secret_files import read_secret
from farshore.cli.site import parse_settings
from farshore.client.transport import segment
from farshore.model.errors import Malformed

app = typer.Typer(no_args_is_help=True, help="Alerts, and the channels that they are sent on.")

ChannelArgument = Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel's name.", show_default=False)]


@app.command("list")
def list_alerts(
    all_alerts: Annotated[bool, typer.Option("--all", help="Include alerts that are over.")] = False,
    as_json: AsJson = False,
) -> None:
    """List open alerts, each with its remedy."""
    found = management().transport.get_list("/v1/alerts", Alert, all=all_alerts)
    if as_json:
        print_json(found)
        return
    rows = [[str(one.id), one.severity.value, ago(one.raised), _state(one), one.message, one.remedy] for one in found]
    print_table(("Alert", "Severity", "Raised", "State", "What", "Remedy"), rows, "All is well.")


@app.command()
def acknowledge(
    alerts: Annotated[
        list[int] | None, typer.Argument(metavar="ALERT", help="Alert numbers from `farshore alert list`.")
    ] = None,
    all_alerts: Annotated[bool, typer.Option("--all", help="Acknowledge all open alerts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Acknowledge alerts: they are not sent again. A message is still sent when they are over."""
    api = management().transport
    if bool(alerts) == all_alerts:
        raise Malformed("No alert was named.", remedy="Give alert numbers (farshore alert list), or --all.")
    chosen = alerts or [one.id for one in api.get_list("/v1/alerts", Alert) if not one.acknowledged]
    if chosen:
        body = Acknowledgement(alerts=chosen).model_dump_json().encode()
        api.request("POST", "/v1/alerts/acknowledgements", [body], content_type="application/json")
    print_done(f"{len(chosen)} alerts acknowledged.", as_json, acknowledged=chosen)


@app.command()
def add(
    channel: ChannelArgument,
    kind: Annotated[ChannelKind, typer.Option(help="Kind of channel.", show_default=False)],
    setting: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE. Repeatable. An unknown name lists the valid ones.")
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the secret; - for standard input. mail: the password. webhook: the URL and, on a "
            "second line, a signing key (generated if missing). apprise: one URL a line. heartbeat: the "
            "URL.",
            show_default=False,
        ),
    ] = None,
    severity: Annotated[Severity, typer.Option(help="Send alerts of this severity or higher.")] = Severity.WARNING,
    repeat_every: Annotated[
        str, typer.Option(help="Repeat an unacknowledged alert after this time, such as 4h. 0 turns repeats off.")
    ] = "4h",
    as_json: AsJson = False,
) -> None:
    """Add a channel that alerts are sent on.

    Example: `farshore alert add ops --kind mail --setting host=mail.example.com --setting from=dr@example.com
    --setting to=ops@example.com --setting user=dr --secret-file password`
    """
    request = ChannelRequest(
        name=channel,
        kind=kind,
        settings=parse_settings(setting or []),
        secret=SecretStr(read_secret(secret_file).strip() if secret_file is not None else ""),
        severity=severity,
        repeat_every=parse_duration(repeat_every, "--repeat-every", 0, 30 * 86400),
    )
    made = management().transport.post("/v1/alert-channels", request, NewChannel)
    told = f"Channel {made.name} was added. Test it: farshore alert test {made.name}"
    if made.signing_key:
        told += f"\nIts signing key, shown only once: {made.signing_key}"
    key = {"signing_key": made.signing_key} if made.signing_key else {}
    print_done(told, as_json, added=made.name, **key)


@app.command()
def channels(as_json: AsJson = False) -> None:
    """List alert channels and whether they work."""
    found = management().transport.get_list("/v1/alert-channels", Channel)
    if as_json:
        print_json(found)
        return
    rows = [
        [
            one.name,
            one.kind.value,
            one.severity.value,
            short(one.repeat_every) if one.repeat_every else "never",
            moment(one.delivered) if one.delivered else "never",
            one.trouble or ("works" if one.delivered else "not used yet"),
        ]
        for one in found
    ]
    print_table(
        ("Channel", "Kind", "From", "Repeated after", "Last delivery", "State"), rows, "There are no alert channels."
    )


@app.command("test")
def try_out(channel: ChannelArgument, as_json: AsJson = False) -> None:
    """Send a test message on a channel, and report whether it was accepted."""
    done = management().transport.post(f"/v1/alert-channels/{segment(channel)}/test", None, ChannelTest)
    print_done(f"{channel} accepted the message.", as_json, tested=channel, warning=done.warning)
    if done.warning and not as_json:
        out.print(plain(done.warning))


@app.command()
def remove(channel: ChannelArgument, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a channel. Alerts are no longer sent on it."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Remove the alert channel {channel}?", yes=yes)
    api.transport.delete(f"/v1/alert-channels/{segment(channel)}")
    print_done(f"Channel {channel} was removed.", as_json, removed=channel)


def _state(alert: Alert) -> str:
    if alert.cleared:
        return "over"
    return f"acknowledged by {alert.acknowledged_by}" if alert.acknowledged else "open"
