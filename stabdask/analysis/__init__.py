"""What is read off results: complete spectra, summaries, extremes."""
