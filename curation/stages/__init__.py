"""The stages of the curation, one file each: settings, what they read, and how they write their columns."""
