"""What the numeric guard compares: the numbers a text states, their sources and the scope they stand in."""
