"""`envkit save`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.services import save as saving
from envkit.services import sessions


@click.command(
    "save",
    epilog="""\b
Examples:
  envkit save sci -m "numpy and our solver"
  envkit save sci --plan
  envkit save sci --allow R103:/root/.bash_history --close
  envkit save sci --as sci-mine   when somebody else saved to sci meanwhile""",
)
@click.argument("name")
@click.option("-m", "--message", default="", metavar="TEXT", help="What changed.")
@click.option("--plan", is_flag=True, help="Show what would be stored and what left out; store nothing.")
@click.option("--allow", multiple=True, metavar="RULE:PATH", help="Keep what a rule would leave out; recorded.")
@click.option("--as", "under", metavar="NAME", help="Save as version 1 of a new environment instead.")
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
    saved = saving.save(app.context, name, message=message, allow=allow, under=under)
    if as_json:
        app.console.json(saving.saved_json(saved))
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
    if and_close:
        sessions.close(app.context, name, discard=False)
        app.console.say("closed the session")
