"""`python -m corollary`: the command."""

from corollary.cli import main

if __name__ == "__main__":
    main()
