"""`python -m t2i_xattn`, and `accelerate launch -m t2i_xattn`: the command line."""

from __future__ import annotations

from t2i_xattn.commands.app import main

if __name__ == "__main__":
    main()
