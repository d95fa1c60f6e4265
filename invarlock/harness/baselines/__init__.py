"""What workers make once and share: baseline reports, null runs and the presets derived from them.

What an earlier session left is compared with the plan here, and kept where it fits.
"""
