"""JSON Schemas and tier policies, installed as ``invarlock.contracts``."""
