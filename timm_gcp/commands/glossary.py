"""The words of a run's log, explained: the end of ``timm-gcp train --help``."""

from ..hybrid.monitor import FAIR, GOOD

__all__ = ["GLOSSARY"]

GLOSSARY = f"""
words of the log:
  epoch         counted from 1 in all that is printed; from 0, as timm does, in
                summary.csv, result.json, --switch-epoch and the names of
                checkpoints: checkpoint-0.pth.tar is that of epoch 1
  map           of data with several labels per image: mean average precision,
                in per cent; micro_f1 and macro_f1: F1 of the labels with a
                probability above 0.5, of all together and mean of the classes
  lr            learning rate of the base group, after the line's last update
  κ             condition number of the covariances: largest eigenvalue divided
                by the smallest one above rounding; median over the images that
                were measured in the epoch (--monitor-every)
  conditioning  good: κ up to {GOOD:.0e}, single precision resolves all those
                eigenvalues; fair: up to {FAIR:.0e}, double precision does;
                poor: above, the smallest are known to few digits, and gradients
                of the SVD methods may be large (train longer with the warm
                method, add --clip-grad 5, or take the method polar or rsqrt)
  rank          number of eigenvalues above rounding, median as for κ; at most
                min(channels, positions - 1)
  warm method   the first method of the hybrid protocol (--warm-method). Its
                epochs are not ranked: the best epoch is one of the final
                method, under which the model is saved
  skipped updates
                left out since loss or gradient was not finite (--on-nonfinite)
  eigensolver fallbacks
                eigendecompositions made again since they did not converge
"""
