"""What a question asks, item by item: the parts of a clinical key."""
