"""The concepts of a domain: found, named, checked, captioned, and compared with the labels of data sets."""
