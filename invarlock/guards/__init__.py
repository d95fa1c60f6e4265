"""Guards' measurements: facts about a checkpoint that the reports judge."""
