"""The command `sote`: finds the area asked for, loads only that one, and says in one sentence what went wrong."""

import errno
import os
import sys
import warnings
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from sotediffusion import __version__
from sotediffusion.names import listing, nearest
from sotediffusion.types import UserError

# name: (module, the command in it, what --help says of it)
AREAS = {
    "generate": ("sotediffusion.cli.generate", "generate", "Draw pictures from prompts."),
    "info": ("sotediffusion.cli.info", "info", "Print the settings inside a picture."),
    "weights": ("sotediffusion.cli.weights", "group", "Inspect, convert, download and list models."),
    "miniature": ("sotediffusion.cli.miniature", "group", "Draw the small world that the embedded model was trained on."),
    "curate": ("sotediffusion.cli.curate", "group", "Turn a pile of pictures into a training catalogue."),
    "train": ("sotediffusion.cli.train", "group", "Train a cascade, or a part of it."),
    "serve": ("sotediffusion.cli.serve", "group", "Serve models: a queue, a page and the APIs of others."),
}

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)  # faults of a disk that are the user's to mend

# What an area needs beyond the core; the others need nothing.
EXTRAS = {"miniature": "train", "curate": "curate", "train": "train", "serve": "serve"}


class Areas(click.Group):
    """A group that imports a command's module when the command is asked for, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(AREAS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in AREAS:
            return None
        module, name, _ = AREAS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; a library of an extra that is not there is the user's to install, any other is a fault of ours."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            extra, missing = EXTRAS.get(ctx.invoked_subcommand or ""), (error.name or "").partition(".")[0]
            if extra is None or missing in ("", "sotediffusion"):
                raise
            told = f"{missing} is not installed; pip install 'sotediffusion[{extra}]', or -e '.[{extra}]' in a clone"
            raise UserError(str(ctx.invoked_subcommand), told) from None
        except ImportError as error:
            library, found, _ = str(error).partition(": cannot open shared object file")
            if not found:
                raise
            told = f"the system's {library} is not here; where it draws scenes: apt-get install libegl1 libgl1"
            raise UserError(str(ctx.invoked_subcommand), told) from None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in AREAS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0][:80]!r}; did you mean {listing(nearest(args[0], AREAS))}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in AREAS.items()])


@click.group(cls=Areas, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="sote")
def sote() -> None:
    """Anime pictures with Stable Cascade: draw them, look after the weights, train models."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit code: 0, 1 for a fault of ours, 2 for one the user can mend, 130 when stopped."""
    warnings.showwarning = _show_note
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show a letter of a file's name shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        code = sote.main(arguments, prog_name="sote", standalone_mode=False)
        if sys.stdout is not None:  # as where it was closed
            sys.stdout.flush()
    except (UserError, click.ClickException) as error:
        code = _complain(error)
    except (KeyboardInterrupt, click.Abort):
        print("stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader has seen enough, as with `| head`
        _close_output()
        code = 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        code = _complain(UserError("output", f"it cannot be written ({error.strerror}); free space, or write it elsewhere"))
        _close_output()
    sys.exit(code if isinstance(code, int) else 0)


def _close_output() -> None:
    """What is left to be printed goes nowhere, so that the interpreter's end does not stumble over it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: UserError | click.ClickException) -> int:
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    print(f"sote: {one_line(message)}", file=sys.stderr)
    return 2


def _show_note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
    """What a library wants said is a note for the user; what it wants developers to know is left out."""
    if category is UserWarning:
        print(f"note: {one_line(str(message))}", file=sys.stderr)


def one_line(text: str) -> str:
    """Text without control characters, which a file name or a picture's settings could bring along."""
    return "".join(c if c.isprintable() else " " for c in text)


if __name__ == "__main__":
    main()
