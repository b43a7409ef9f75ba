"""``python -m t2i_xattn``: the command line."""

from t2i_xattn.commands.app import main

if __name__ == "__main__":
    main()
