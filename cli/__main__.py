"""``python -m embedstore.cli``."""

from embedstore.cli.main import main

main(prog_name="embedstore")
