"""What a receiver makes of a pack for others: receipts of verifications."""
