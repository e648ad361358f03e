"""Architectures as torch modules, shared by export and training."""
