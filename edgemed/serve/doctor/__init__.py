"""`edgemed doctor`: everything about a machine that a technician can mend, in seconds and without the network."""
