"""Tests that run compiled BigQuery SQL on Google's own SQL engine, offline."""
