"""The catalog of a validation as typed values: models, scenarios, edit specs, tuned parameters."""
