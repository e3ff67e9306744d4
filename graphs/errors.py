"""What the package raises."""


class GraphError(ValueError):
    """The input cannot make a graph; the message says what was found, what was expected and what to do."""
