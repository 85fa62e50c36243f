"""scHopfield 1.0's Jacobians: the same functions, keys and files, computed by stabdask.

Change one import::

    from stabdask.compat import schopfield as sch

    sch.tl.compute_jacobians(adata)
    sch.pl.plot_jacobian_eigenvalue_spectrum(adata)

Two things differ. The Jacobian is that of the activation as fitted, whose two Hill components switch
(``activation="single"`` gives scHopfield's own, of the first component alone), and eigenvalues come in canonical order:
real part descending, then imaginary part descending, so that `eig1` is the leading one.
"""

from stabdask.compat.schopfield import pl, tl
from stabdask.compat.schopfield.jacobians import (
    compute_jacobian_elements,
    compute_jacobian_stats,
    compute_jacobians,
    compute_rotational_part,
)
from stabdask.compat.schopfield.models import load_model, save_model
from stabdask.compat.schopfield.pl import (
    plot_jacobian_eigenvalue_boxplots,
    plot_jacobian_eigenvalue_spectrum,
    plot_jacobian_element_grid,
    plot_jacobian_stats_boxplots,
)
from stabdask.compat.schopfield.storage import load_jacobians, save_jacobians

__all__ = [
    "compute_jacobian_elements",
    "compute_jacobian_stats",
    "compute_jacobians",
    "compute_rotational_part",
    "load_jacobians",
    "load_model",
    "pl",
    "plot_jacobian_eigenvalue_boxplots",
    "plot_jacobian_eigenvalue_spectrum",
    "plot_jacobian_element_grid",
    "plot_jacobian_stats_boxplots",
    "save_jacobians",
    "save_model",
    "tl",
]
