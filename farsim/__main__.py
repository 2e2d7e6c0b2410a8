"""``python -m farsim`` is ``farsim``."""

from farsim.cli import main

if __name__ == "__main__":
    main()
