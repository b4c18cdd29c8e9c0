"""Who is told how far a preparation is."""


class Report:
    """Watches a preparation; this one looks away."""

    def start(self, what: str, total: int) -> None:
        """Begin a step: what is done, in the imperative, and how many times."""

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more of the step."""
