"""Numbers with their units, as amounts at their places in a plain text."""
