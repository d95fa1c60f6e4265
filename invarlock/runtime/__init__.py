"""Where a run happens: environment and source provenance."""
