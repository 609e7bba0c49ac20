"""`python -m jaxame`."""

from jaxame.cli import main

if __name__ == "__main__":
    main()
