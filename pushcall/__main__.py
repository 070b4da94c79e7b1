"""`python -m pushcall`, and the console script."""

from pushcall.cli.main import main

if __name__ == "__main__":
    main()
