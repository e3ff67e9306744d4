"""The graph of stars, exposures and links."""
