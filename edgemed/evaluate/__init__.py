"""What a model answers and how far another one's answers are from it: scorers, divergence, doses, choices."""
