"""LLaVA on each family of decoders."""
