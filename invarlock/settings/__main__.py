"""``python -m invarlock.settings`` prints the page of settings."""

from invarlock.settings.page import settings_page

print(settings_page(), end="")
