"""`python -m seats_cli` is the same as `seats`."""

from seats_cli.cli.main import main

if __name__ == "__main__":
    main()
