"""What a large teacher knows, taught to a small student: losses, alignment of tokenizers, adapters, schedule."""
