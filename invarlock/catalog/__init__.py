"""What is validated, as typed values: models, scenarios, edit specs, tuned parameters. Data in, dataclasses out."""
