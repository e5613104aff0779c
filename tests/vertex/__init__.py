"""Vertex AI on this machine: custom jobs, tuning jobs and the model registry, held against Google's own document."""
