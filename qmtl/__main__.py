"""Run the command line: ``python -m qmtl`` is ``qmtl``."""

from qmtl.cli import main

if __name__ == "__main__":
    main()
