"""Contracts, registry, config, errors and hashing: everything meets here, and nothing heavy is imported."""
