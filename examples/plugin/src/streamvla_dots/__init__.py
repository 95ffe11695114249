"""An example package: everything that `streamvla` takes from others, by entry points alone."""
