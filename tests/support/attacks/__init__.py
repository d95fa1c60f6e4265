"""The attacks on packs, grouped by what the attacker has and changes."""
