"""The Typer application that the commands are registered with, and how errors are shown.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import inspect
import select
from typing import Any

import typer
from typer.core import TyperGroup

from mdl_physpretrain.cli.label_options import with_label_options
from mdl_physpretrain.errors import PhysPretrainError, Terminated

__all__ = ["INTERNAL", "app"]

#: How the message of an error that nobody foresaw begins.
INTERNAL = "internal error"


class _Group(TyperGroup):
    """Turns errors into one message and an exit code: 2 (raised on purpose, or by the machine), 130 (Ctrl-C),
    143 (SIGTERM), 70 (nobody foresaw it).
    """  # noqa: D205

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PhysPretrainError as error:
            if ctx.params.get("debug"):
                raise
            _complain(f"error: {error}")
            raise typer.Exit(2) from None
        except (OSError, MemoryError) as error:
            if ctx.params.get("debug") or (isinstance(error, BrokenPipeError) and _nobody_reads()):
                raise  # Typer ends quietly where the reader of a pipe has gone, as in `physpretrain datasets | head -1`
            kind = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
            _complain(f"error: {kind}: {' '.join(str(error).split())}; finished work is kept")
            raise typer.Exit(2) from None
        except KeyboardInterrupt as signal:
            word, code = ("ended by SIGTERM", 143) if isinstance(signal, Terminated) else ("interrupted", 130)
            _complain(f"{word}; finished work is kept, the same command goes on from there")
            raise typer.Exit(code) from None
        except Exception as error:
            foreseen = isinstance(error, typer.Abort) or hasattr(error, "exit_code")  # Typer's own
            if foreseen or ctx.params.get("debug"):
                raise
            words = " ".join(str(error).split())[:300]
            _complain(
                f"{INTERNAL}: {type(error).__name__}: {words} (physpretrain --debug ... shows where; please report it)"
            )
            raise typer.Exit(70) from None


class _Application(typer.Typer):
    """Gives every command that reads structures the options that say how their labels are called."""

    def command(self, *args: Any, **options: Any) -> Any:
        register = super().command(*args, **options)

        def decorate(function: Any) -> Any:
            reads = not {"structures", "trajectories"}.isdisjoint(inspect.signature(function).parameters)
            register(with_label_options(function) if reads else function)
            return function

        return decorate


app = _Application(
    name="physpretrain",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Physics-informed pretraining of interatomic potentials, and MD that checks whether it worked.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the whole traceback of an error."),
    show_version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    import warnings

    warnings.formatwarning = _format_warning  # type: ignore[assignment]


@app.command()
def version() -> None:
    """Print the version."""
    from mdl_physpretrain import __version__

    typer.echo(f"mdl-physpretrain {__version__}")


def _nobody_reads() -> bool:
    """Whether it was the output of the command that broke, and no pipe between its processes."""
    poller = select.poll() if hasattr(select, "poll") else None  # Windows has none
    if poller is None:
        return False
    for descriptor in (1, 2):
        poller.register(descriptor, 0)
    return any(state & select.POLLERR for _, state in poller.poll(0))


def _complain(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text(text, style="bold red"))


def _format_warning(message: Warning | str, *rest: object, **options: object) -> str:
    return f"warning: {message}\n"
