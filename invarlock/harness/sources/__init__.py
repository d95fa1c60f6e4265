"""Where models and text come from: a folder, the cache of the hub's client, or the hub; each pinned."""
