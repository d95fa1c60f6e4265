"""The types of the documents that InvarLock writes and reads; at run time each is a plain dictionary.

One module describes the documents of one subject. ``contracts/`` has the schemas that documents are checked against;
a test compares the types with them. An arbitrary JSON object, whose keys depend on edits, guards or other programs,
is a ``JsonObject``.
"""

from invarlock.documents.json_object import JsonObject

__all__ = ["JsonObject"]
