"""`envkit save`."""

import shlex

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.errors import InvalidInput
from envkit.services import save as saving
from envkit.services import sessions
from envkit.services.tracing import make_start_pack


@click.command(
    "save",
    epilog="""\b
Examples:
  envkit save sci -m "numpy and our solver"
  envkit save sci --plan
  envkit save sci --allow R103:/root/.bash_history --close
  envkit save sci --trace 'python3 -c "import numpy"'
  envkit save sci --as sci-mine   when somebody else saved to sci meanwhile""",
)
@click.argument("name")
@click.option("-m", "--message", default="", metavar="TEXT", help="What changed.")
@click.option("--plan", is_flag=True, help="Show what would be stored and what left out; store nothing.")
@click.option("--allow", multiple=True, metavar="RULE:PATH", help="Keep what a rule would leave out; recorded.")
@click.option("--as", "under", metavar="NAME", help="Save as version 1 of a new environment instead.")
@click.option("--trace", metavar="COMMAND", help="Run this afterwards, and make a start pack of what it touches first.")
@click.option("--close", "and_close", is_flag=True, help="End the session afterwards.")
@json_option
@pass_app
def command(
    app: App,
    /,
    *,
    name: str,
    message: str,
    plan: bool,
    allow: tuple[str, ...],
    under: str | None,
    trace: str | None,
    and_close: bool,
    as_json: bool,
) -> None:
    """Store a session's changes as a new version.

    Only the difference to the session's start is stored, without secrets, identity, caches and logs; the session
    itself is not changed. The version can be run on any machine that reads the store.
    """
    if plan:
        draft = saving.plan(app.context, name, allow=allow)
        if as_json:
            app.console.json(saving.plan_json(draft))
            return
        rows = [(finding.rule, finding.action, finding.path) for finding in draft.findings]
        app.console.table(("RULE", "ACTION", "PATH"), rows)
        app.console.say(f"would store {draft.entries} entries, {human_bytes(draft.bytes)} of files")
        return
    traced = _words(trace)
    saved = saving.save(app.context, name, message=message, allow=allow, under=under)
    if as_json:
        pack = {"start_pack": make_start_pack(app.context, str(saved.version), traced)} if traced else {}
        app.console.json(saving.saved_json(saved) | pack)
    elif saved.unchanged:
        app.console.say(f"nothing changed since {saved.version}")
    else:
        app.console.say(
            f"saved {saved.version}: {saved.entries} entries, {human_bytes(saved.size)} of files,"
            f" {human_bytes(saved.stored)} new in the store"
        )
        for note in saved.notes:
            app.console.say(note)
        app.console.data(str(saved.version))
    if traced and not as_json:
        size = make_start_pack(app.context, str(saved.version), traced)
        app.console.say(f"made a start pack of {human_bytes(size)} for it")
    if and_close:
        sessions.close(app.context, name, discard=False)
        app.console.say("closed the session")


def _words(command: str | None) -> list[str]:
    """Return the words of the command of --trace, none if it is not given."""
    if command is None:
        return []
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidInput(f"--trace: cannot read {command!r}: {str(error).lower()}") from None
    if not words:
        raise InvalidInput(
            "--trace needs a command", resolution="give one, as in --trace 'python3 -c \"import numpy\"'"
        )
    return words
