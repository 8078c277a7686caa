"""`python -m spiceclust`."""

from spiceclust.cli import main

if __name__ == "__main__":
    main()
