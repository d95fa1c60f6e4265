"""The attacks on packs, by who makes them."""
