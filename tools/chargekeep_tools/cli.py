"""The `chargekeep` command. A part's module is loaded only when the part is used."""

import importlib
import json
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from chargekeep_tools import __version__
from chargekeep_tools.codes import MEANING, Exit, ToolError

# Name, module of its Typer app, command of that app if it is only one, help.
PARTS = {
    "keys": ("keys", None, "Create and list the operator's keys."),
    "trust": ("trust", None, "Decide which keys the stations of a site believe."),
    "issue": ("issue", "issue", "Print a signed permission to charge."),
    "entitlements": ("issue", "list", "List the entitlements issued for a site."),
    "revoke": ("issue", "revoke", "Revoke entitlements or IdTokens."),
    "allowlist": ("allowlist", None, "Make and look into a site's allowlist."),
    "tariff": ("policy", "tariff", "Set the prices of a site."),
    "config": ("policy", "config", "Set how stations behave."),
    "command": ("policy", "command", "Tell a station to do something now."),
    "time": ("policy", "time", "Tell stations the time, signed."),
    "publish": ("publish", "publish", "Send a site's signed objects to the MQTT broker."),
    "boards": ("boards", "boards", "List connected boards."),
    "flash": ("flash", "flash", "Write MicroPython onto a board."),
    "provision": ("stations", "provision", "Make a board a station, over USB."),
    "provision-many": ("stations", "provision-many", "Make many boards stations at once."),
    "bundle": ("bundle", None, "Build and look into firmware bundles."),
    "update": ("update", "update", "Update a station's firmware, over USB."),
    "stations": ("stations", "stations", "List the stations of this home, or revoke one."),
    "broker": ("broker", None, "Set up the MQTT broker of the stations."),
    "status": ("live", "status", "Show the state of a running charger, over USB."),
    "meter": ("meter", None, "Show what a running charger's meter says; find meters on a bus."),
    "evidence": ("evidence", None, "Verify what a station signed about a transaction."),
    "logs": ("live", "logs", "Print records of a running charger's log."),
    "diagnose": ("live", "diagnose", "Show errors, counters and memory of a running charger."),
    "reconcile": ("reconcile.cli", None, "Take in what stations send; bill it."),
    "rabbitmq": ("rabbitmq", "rabbitmq", "Write the accounts of a RabbitMQ cluster."),
    "exceptions": ("reconcile.exceptions", None, "Work off what could not be reconciled."),
    "log": ("log.cli", None, "Verify and export a station's log."),
    "sim": ("sim.cli", None, "Run a simulated charger and meter."),
}


class Part(TyperCommand):
    """A command whose module is not loaded yet; `make_context` loads it."""

    def real(self) -> Any:
        module, command, _ = PARTS[str(self.name)]
        app = importlib.import_module(f"chargekeep_tools.{module}").app
        loaded: Any = typer.main.get_command(app)
        if command is None or not isinstance(loaded, TyperGroup):  # an app of one command is it
            return loaded
        return loaded.commands[command]

    def make_context(self, info_name, args, parent=None, **extra):
        return self.real().make_context(info_name, args, parent=parent, **extra)


class Parts(TyperGroup):
    def list_commands(self, ctx):
        return [*PARTS, *super().list_commands(ctx)]

    def get_command(self, ctx, cmd_name):
        if cmd_name in PARTS:
            return Part(cmd_name, callback=None, help=PARTS[cmd_name][2])
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=Parts,
    help="Keys, permissions, stations and bills of chargekeep: EV charging that works offline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command("exit-codes", help="List the exit codes.")
def exit_codes() -> None:
    for code, meaning in MEANING.items():
        print(f"{code:3}  {code.name.lower():13} {meaning}")


def fail(message: str, exit_code: int, hint: str = "") -> int:
    """Say what went wrong on standard error (with --json also on standard output)."""
    if "--json" in sys.argv:
        json.dump({"error": message, "exit_code": int(exit_code), "hint": hint}, sys.stdout)
        sys.stdout.write("\n")
    typer.secho(f"chargekeep: {message}", fg="red", err=True)
    if hint:
        typer.echo(f"  {hint}", err=True)
    return int(exit_code)


def main() -> None:
    """Run the command; a failure that can be named leaves with its own exit code."""
    from chargekeep_tools.wire import WireError

    try:
        app()
    except ToolError as error:
        sys.exit(fail(str(error), error.exit_code, error.hint))
    except WireError as error:
        sys.exit(fail(str(error), Exit.REFUSED))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
