"""The `stabdask` command."""
