"""Phrases, cues and rules of the language files, found in one pass over the words."""
