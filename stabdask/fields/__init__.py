"""Fitted velocity fields: what the Jacobian of a cell is, as a core, a lift and closed forms."""
