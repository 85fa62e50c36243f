"""Networks of genes from the co-moments of cells: covariance, precision, partial correlation."""
