"""edgemed: take a large medical language model to a clinic laptop with no internet."""

__version__ = "0.1.0"
