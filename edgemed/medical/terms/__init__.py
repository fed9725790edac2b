"""Names of the lists and by their form, and what a text denies, remembers or doubts."""
