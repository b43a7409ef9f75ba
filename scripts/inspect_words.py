"""Paint a prompt and show where each word acted: the command ``t2i-xattn inspect``."""

import typer

from t2i_xattn.commands.inspect import inspect_command

if __name__ == "__main__":
    typer.run(inspect_command)
