"""`python -m llreg`."""

from llreg.cli import main

if __name__ == "__main__":
    main()
