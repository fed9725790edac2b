"""What is known about medical questions without any model: pure text in, records out."""
