"""Drop-in replacements for the stability parts of other packages: the same names, keys and files, on stabdask."""
