"""The REST API, version 1: one file per subject; bodies are farshore.api_types."""
