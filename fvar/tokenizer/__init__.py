"""Tokenizers: images <-> pyramids of discrete codes."""
