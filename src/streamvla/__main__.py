"""`python -m streamvla`."""

from streamvla.cli.main import main

main()
