"""Looking at training files."""
