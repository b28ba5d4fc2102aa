"""Runs through a real LiteLLM proxy, which stands before the counting endpoint: ``make test-gateway``."""
