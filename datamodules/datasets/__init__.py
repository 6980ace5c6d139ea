"""Data sets by name: folders of class folders, CSVs, torchvision, Hugging Face, and those whose files are known.

To add a known one, write a module of its name with a `SET`, and add the name to names.py.
"""
