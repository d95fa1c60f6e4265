"""Documents that a receiver makes from a pack for others: receipts of verifications, BOMs and model cards."""
