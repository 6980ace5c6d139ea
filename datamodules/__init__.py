"""Image stores, safe decoding, augmentation and the Lightning data modules."""
