"""The pinned sources of models and text: a folder, the cache of the hub's client, or the hub."""
