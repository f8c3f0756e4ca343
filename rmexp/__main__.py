"""``python -m rmexp`` is ``rmexp``."""

from rmexp.cli import main

if __name__ == "__main__":
    main()
