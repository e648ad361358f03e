"""Thousands of inferences in one process, whose memory must stay flat: `make soak COUNT=10000`."""
