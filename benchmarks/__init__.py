"""Measurements. A package, because opacus installs one of the same name, before which a mere folder loses."""
