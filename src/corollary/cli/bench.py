"""`corollary bench`: run a theme's benchmark."""


def run() -> None:
    """Run a benchmark."""
