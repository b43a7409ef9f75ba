"""Paint a prompt: the command ``t2i-xattn generate``."""

import typer

from t2i_xattn.commands.generate import generate_command

if __name__ == "__main__":
    typer.run(generate_command)
